"""Flags out of a launch script."""

import os
import subprocess

import pytest

from controlplane.jobs.flags.script import script_words

SCRIPT = r"""#!/bin/bash
pkill -9 sglang
set -ex
COUNT=$(nvidia-smi topo -m 2>/dev/null | grep -o 'NV[0-9]*' | wc -l)
if [ "$COUNT" -gt 0 ]; then
    HAS_NVLINK=1
else
    HAS_NVLINK=0
fi
SCRIPT_DIR="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" &>/dev/null && pwd)"
source "${SCRIPT_DIR}/models/toy.sh"
BASE=/root
CKPT_ARGS=(
   --hf-checkpoint ${BASE}/toy
   #--hf-checkpoint /root/other
   --save "$BASE/a b"  # quoted here, and split where the array stands without quotes
)
EVAL_ARGS=(
   --eval-prompt-data aime ${BASE}/a.jsonl --rollout-stop '$x' "y z"
   --sglang-cuda-graph-bs 1 2 $(seq 16 8 32) --load "${RESUME:-/root/ckpt}" --lr $LR
)
RUNTIME_ENV_JSON="{
  \"env_vars\": {\"A\": \"1\", \"B\": \"${HAS_NVLINK}\"}
}"
for WORKER in $(awk '{print $1}' /hosts); do
  if [[ "$WORKER" == "x" ]]; then continue; fi
done
ray job submit --address="http://127.0.0.1:8265" \
   --runtime-env-json="${RUNTIME_ENV_JSON}" \
   -- python3 train.py \
   --actor-num-nodes 1 \
   --update-weight-buffer-size $(( 4 * 512 * 1024 * 1024)) \
   ${MODEL_ARGS[@]} \
   "${CKPT_ARGS[@]}" \
   ${NOTHING[@]} \
   "${EVAL_ARGS[@]}"
pkill -9 python
"""
SOURCED = 'MODEL_ARGS=(\n   --num-layers $((N_DENSE + 2))\n   --normalization "RMSNorm"\n)\nMODEL_ARGS+=(--swiglu)\n'


def test_a_launch_script_gives_the_words_of_the_command_that_trains() -> None:
    def read(path: str) -> str | None:
        assert path == "/s/models/toy.sh"
        return "N_DENSE=1\n" + SOURCED

    words = script_words(SCRIPT, directory="/s", read_file=read)
    assert words[:4] == ["ray", "job", "submit", "--address=http://127.0.0.1:8265"]
    assert words[4] == '--runtime-env-json={\n  "env_vars": {"A": "1", "B": "${HAS_NVLINK}"}\n}'
    assert words[words.index("train.py") + 1 :] == [
        *("--actor-num-nodes", "1", "--update-weight-buffer-size", "2147483648"),
        *("--num-layers", "3", "--normalization", "RMSNorm", "--swiglu"),
        *("--hf-checkpoint", "/root/toy", "--save", "/root/a b"),
        *("--eval-prompt-data", "aime", "/root/a.jsonl", "--rollout-stop", "$x", "y z"),
        *("--sglang-cuda-graph-bs", "1", "2", "16", "24", "32", "--load", "/root/ckpt", "--lr", "$LR"),
    ]


def test_an_array_that_an_unreadable_script_may_set_stays_for_a_shell() -> None:
    words = script_words(SCRIPT, directory="/s")
    assert "${MODEL_ARGS[@]}" in words and "${NOTHING[@]}" in words


def test_an_array_that_a_branch_adds_to_stays_for_a_shell() -> None:
    script = 'A=(--a 1)\nif [ -n "$X" ]; then\n  A+=(--b)\nfi\nA+=(--c)\npython train.py ${A[@]} ${B[@]}\n'
    assert script_words(script) == ["python", "train.py", "${A[@]}"]
    assert script_words(script.replace("A+=(--c)", "A=(--c)")) == ["python", "train.py", "--c"]


TRAINS = "\npython train.py ${A[@]} --lr ${LR:-9}"


@pytest.mark.parametrize(
    "branch",
    [
        '[ -n "$X" ] && A+=(--b) && LR=3',
        '[[ -n "$X" && -n "$Y" ]] &&\n  A+=(--b) && LR=3',
        "(( N > 1 )) && { A+=(--b); LR=3; }",
        "source x.sh || A=() || LR=3",
        "if true; then A+=(--b); else LR=3; fi",
        "for I in $(cat /hosts); do A+=(--b); LR=3; done < /hosts",
        "for ((I=0; I<N; I++)); do A+=(--b); LR=3; done",
        "for ((I=0; I<3; I++)); do [ $X ] && LR=3; A+=(--b); done",
        "case $X in a) A+=(--b);; b) LR=3;; esac",
        "f() { A+=(--b); }\nfunction g {\n  LR=3\n}",
        "if [ $X ]; then source /b.sh; fi",
        "[ -f /b.sh ] && . /b.sh",
        "[ $X ] && A+=(--b) && LR=3\nA=(${A[@]} --b)\nLR=${LR:-3}",
    ],
)
def test_what_a_shell_sets_under_a_condition_is_left_to_it(branch: str) -> None:
    read = {"/b.sh": "A+=(--b)\nLR=3"}.get
    words = script_words(f"A=(--a 1)\n{branch}{TRAINS}", read_file=read)
    assert [word for word in words if word != "--b"] == ["python", "train.py", "${A[@]}", "--lr", "${LR:-9}"]
    again = f"A=(--a 1)\n{branch}\nA=(--c)\nLR=4{TRAINS}"
    assert script_words(again) == ["python", "train.py", "--c", "--lr", "4"]


def test_arrays_alone_that_a_shell_would_set_are_not_dropped() -> None:
    assert script_words("A=(--a 1)\n[ $X ] && A+=(--b)\nif [ $Y ]; then\n  C=(--c)\nfi\nD=(--d)") == [
        *("${A[@]}", "${C[@]}", "--d")
    ]


def test_what_stands_behind_an_assignment_or_a_change_of_directory_is_no_branch() -> None:
    script = 'cd "$HERE" && A=(--a 1) && export LR=2 &&' + TRAINS
    assert script_words(script) == ["python", "train.py", "--a", "1", "--lr", "2"]
    assert script_words(f"A=(--a 1); [ -d /x ] || exit 1; LR=2{TRAINS}") == [
        *("python", "train.py", "--a", "1", "--lr", "2")
    ]
    assert script_words("(cd /slime && python train.py --a 1)") == ["python", "train.py", "--a", "1"]


@pytest.mark.parametrize(
    "script",
    [
        "{ A=(--a 1); python train.py ${A[@]}; } 2>&1 | tee log",
        "run() { A=(--a 1); python train.py ${A[@]}; }; run",
        "function run {\n  A=(--a 1)\n  python train.py ${A[@]}\n}\nrun",
        "(A=(--a 1); python train.py ${A[@]})",
        "mkdir -p /x && A=(--a 1) && python train.py ${A[@]}",
        "set -e && A=(--a 1)\npython train.py ${A[@]}",
        "source /x.sh && A=(--a 1)\npython train.py ${A[@]}",
        "declare -a A=(--a 1)\npython train.py ${A[@]}",
        "typeset B=2 A=(--a 1)\nreadonly B\npython train.py ${A[@]}",
        "local -a A=(--a); A+=(1); python train.py ${A[@]}",
        "A=(--a 1) B=(--b); python train.py ${A[@]}",
        "A=--a; A+=' 1'; python train.py $A",
        "A=(--a 1); (A+=(--b)); python train.py ${A[@]}",
        "if [ $X ]; then python train.py --a 1; else python train.py --a 1; fi",
        "cp train.py /x\npython train.py --a 1",
        "case $X in (a) B=1;; b) B=2;; esac\nA=(--a 1)\npython train.py ${A[@]}",
    ],
)
def test_groups_functions_and_declarations_are_read_as_a_shell_reads_them(script: str) -> None:
    assert script_words(script) == ["python", "train.py", "--a", "1"]


def test_a_script_that_trains_in_several_ways_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 different commands.*\n  python train.py --a 1\n  python train.py --a 2"):
        script_words("if [ $X ]; then python train.py --a 1; else python train.py --a 2; fi")


def test_a_value_that_is_no_longer_known_is_not_the_one_before() -> None:
    for sets in ("for LR in 1 2; do true; done", "read -r LR", "unset LR"):
        assert script_words(f"LR=1\n{sets}\npython train.py --lr $LR") == ["python", "train.py", "--lr", "$LR"]
    assert script_words("LR=$(cat lr)\npython train.py --lr ${LR:-9}") == ["python", "train.py", "--lr", "${LR:-9}"]
    assert script_words("LR=1\nLR=$(cat lr)\npython train.py --lr $LR") == ["python", "train.py", "--lr", "$LR"]


@pytest.mark.parametrize(
    "end",
    [
        "2>&1 | tee log",
        "> log 2>&1 &",
        "&>> log",
        "< /dev/null >log 2>/dev/null",
        ">| log; echo done",
        "2>&- <<< 'some text'",
        "> >(tee log) || exit 1",
    ],
)
def test_redirections_are_no_words_of_the_command(end: str) -> None:
    assert script_words(f"python train.py --a 1 {end}\n") == ["python", "train.py", "--a", "1"]
    assert script_words(f"python train.py --a \\\n  {end}\n") == ["python", "train.py", "--a"]


def test_a_redirection_may_stand_anywhere_and_its_signs_in_quotes_are_text() -> None:
    assert script_words("python train.py 2>log --a '2>&1' \">\" x\\<y --b=2>log --c") == [
        *("python", "train.py", "--a", "2>&1", ">", "x<y", "--b=2", "--c")
    ]
    assert script_words("A=( --a 1 )\n--b 2 2>&1 | tee log\n") == ["--a", "1", "--b", "2"]


@pytest.mark.parametrize(("sign", "end"), [("<<EOF", "EOF"), ("<<-'E F'", "\tE F"), ('<< "E"', "E")])
def test_a_here_document_is_passed_over(sign: str, end: str) -> None:
    document = f"cat {sign} > /x.yaml\npython train.py --no $(\n\"'\n{end}\n"
    assert script_words(f"{document}python train.py --a 1\n") == ["python", "train.py", "--a", "1"]


def test_bits_that_are_shifted_are_no_here_document() -> None:
    assert script_words("(( N << 2 ))\npython train.py --a 1\n") == ["python", "train.py", "--a", "1"]


def test_arrays_and_plain_lines_of_flags_are_enough() -> None:
    assert script_words("A_ARGS=(\n --a 1 # one\n)\nB_ARGS=( --b 'x y' )\n") == ["--a", "1", "--b", "x y"]
    assert script_words("--a b \\\n  --c d\n# no\n--e 'f g'\n") == ["--a", "b", "--c", "d", "--e", "f g"]


COUNTS = """NLAYERS="${NUM_LAYERS:-5}"
FIRST=2
arr=()
for ((i=0; i<NLAYERS; i++)); do
  if (( i < FIRST )); then
    arr+=(0)
  else
    arr+=(1)
  fi
done

printf -v FREQ "[%s]" "$(IFS=', '; echo "${arr[*]}")"
A=(--moe-layer-freq $FREQ --num-layers $NLAYERS)
"""


def test_a_loop_that_counts_is_run() -> None:
    trains = "python train.py ${A[@]}"
    freq = ["python", "train.py", "--moe-layer-freq"]
    assert script_words(COUNTS + trains) == [*freq, "[0,0,1,1,1]", "--num-layers", "5"]
    assert script_words("NUM_LAYERS=3\n" + COUNTS + trains) == [*freq, "[0,0,1]", "--num-layers", "3"]
    read = {"/m.sh": COUNTS}.get
    sourced = script_words(f"NUM_LAYERS=2 source /m.sh\n{trains} --n ${{NUM_LAYERS:-9}}", read_file=read)
    assert sourced == [*freq, "[0,0]", "--num-layers", "2", "--n", "9"]
    for unknown in ("FIRST=$(cat /first)", "NLAYERS=$(cat /n)", "NLAYERS=100000"):
        found = script_words(COUNTS.replace("arr=()", f"{unknown}\narr=()") + trains)
        assert found[3] == "$FREQ"


@pytest.mark.parametrize(
    "launch",
    [
        *('bash -c "cd /x && python train.py --b 2 ${A[*]}"', 'eval "python train.py --b 2 ${A[*]}"'),
        *(
            "srun bash -lc 'python train.py --b 2 --a 1' > log",
            "rollway train --detach -- --b 2 ${A[@]} 2>&1 | tee log",
        ),
        'CMD="python train.py --b 2 ${A[*]}"\necho "$CMD | tee"\nexec $CMD',
    ],
)
def test_a_command_within_another_loses_no_flag(launch: str) -> None:
    words = script_words(f"A=(--a 1)\npkill -f 'python train.py'\n{launch}")
    assert words[words.index("train.py") + 1 :] == ["--b", "2", "--a", "1"]


def test_scripts_that_source_themselves_come_to_an_end() -> None:
    assert set(script_words(". /x.sh", read_file=lambda _: "A=(--a 1)\n. /x.sh")) == {"--a", "1"}
    again = 'eval "$C; python train.py --b"'
    with pytest.raises(ValueError, match="different commands"):
        script_words(f"C='{again}'\neval \"$C\"")


SHELL = 'python() { printf \'%s\\0\' "${@:2}"; }; run() { python train.py ${A[@]} "${A[*]}" $X "$X" "--x=${X}"; }\n'


@pytest.mark.parametrize(
    "sets",
    [
        *(
            "X='a b'; X+=\" c\"",
            "X=$(seq 1 3)",
            'X=${Y:-"q r"}',
            ": ${Y:=7}; X=$Y",
            "Y=; X=${Y:-1}${Y-2}",
            "X=$'a\\tb\\n'",
        ),
        *("X=~/x", "X=$((7 / 2 * (3 + 1) % 5))", "A=(1 2); X=${A[@]}", "A=('a b' c); X=\"${A[*]}\""),
        *('A=("${B[@]}" "" x${B[@]}y)', "A=('a b' \"pre${B[@]}post\")", 'B=(1 "2 3"); A=("p${B[@]}q" ${B[*]})'),
        *("X=1; (X=2; case x in x) X=3;; (y) X=4;; esac)", "Y=1; Y=2 true; X=$X$Y"),
        *("for ((i=2; i<=4; i++)); do if (( i == 3 )); then X+=three; else X+=$i; A+=($i); fi; done", COUNTS + "X=$i"),
        *("printf -v X '<%s>' 'a b'", "A=(1); A+=(--flag=$((1 << 0))); A=(2)"),
    ],
)
def test_what_a_real_shell_passes_on_is_what_is_read(sets: str) -> None:
    environment = {"HOME": "/me", "PATH": os.environ["PATH"]}
    sets = f"X=0; A=()\n{sets}"
    ended = subprocess.run(["bash", "-c", f"{SHELL}{sets}\nrun"], env=environment, capture_output=True, timeout=30)
    expected = ended.stdout.decode().split("\0")[:-1]
    words = script_words(f"{sets}\n" + SHELL.partition("run() { ")[2].partition("; }")[0], environment=environment)
    assert words == ["python", "train.py", *expected]


def test_variables_of_the_environment_are_filled_in_and_what_a_script_sets_goes_before_them() -> None:
    script = 'export B=2\nA=(--a $BASE/x --b $B --c "${C:-7}" --d ~/d --e ${E-5})\npython train.py ${A[@]} ${MORE[@]}'
    environment = {"BASE": "/base", "B": "9", "C": "", "HOME": "/me", "MORE": "--f 1", "E": ""}
    assert script_words(script, environment=environment) == [
        *("python", "train.py", "--a", "/base/x", "--b", "2", "--c", "7", "--d", "/me/d", "--e", "--f", "1")
    ]
    assert script_words(script)[2:8] == ["--a", "$BASE/x", "--b", "2", "--c", "7"]


@pytest.mark.parametrize(
    "sets",
    [
        *(
            "IFS=' ' read -ra A <<< '--b 2'",
            "mapfile -t A < /a",
            "readarray -t A < <(gen)",
            "A[1]=2",
            'eval "A+=(--b)"',
        ),
        *("while read A; do true; done < /a", "while getopts 'a:' A; do true; done", "unset 'A[0]'"),
        *("printf -v A '%s %s' 1 2", "printf -v A '%d' $(cat /a)", "(( A++ ))", "(( A = 5 ))", "let A+=1"),
        *("for ((A=0; A<N; A++)); do true; done", "A=$((16#ff))", "A=`cat /a`"),
    ],
)
def test_what_changes_a_name_in_ways_that_only_a_shell_follows_makes_it_unknown(sets: str) -> None:
    for before in ("A=(--a 1)", "true"):
        assert script_words(f"{before}\n{sets}\npython train.py ${{A[@]}}") == ["python", "train.py", "${A[@]}"]


def test_an_array_is_not_taken_for_empty_where_a_script_was_sourced_that_cannot_be_read() -> None:
    for sourced in ("source <(gen)", ". /x.sh", 'eval "$(gen)"'):
        assert script_words(f"{sourced}\npython train.py ${{A[@]}}") == ["python", "train.py", "${A[@]}"]


def test_what_stands_before_a_command_is_set_for_that_one_alone() -> None:
    assert script_words("LR=1\nLR=2 foo\nLR=3 python train.py --lr $LR") == ["python", "train.py", "--lr", "1"]


def test_escapes_and_backquotes_are_read_as_a_shell_reads_them() -> None:
    assert script_words("--a $'\\n\\n' $'it\\'s' --b `date` --c \"x`date`\" --d a~b") == [
        *("--a", "\n\n", "it's", "--b", "$(date)", "--c", "x$(date)", "--d", "a~b")
    ]


def test_what_only_a_shell_knows_stays_as_it_is() -> None:
    assert script_words("--a $(cat x) --b ${C} --d $((E * 2)) --f pre$G") == [
        *("--a", "$(cat x)", "--b", "${C}", "--d", "$((E * 2))", "--f", "pre$G")
    ]
