"""Flags out of a launch script."""

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


def test_arrays_and_plain_lines_of_flags_are_enough() -> None:
    assert script_words("A_ARGS=(\n --a 1 # one\n)\nB_ARGS=( --b 'x y' )\n") == ["--a", "1", "--b", "x y"]
    assert script_words("--a b \\\n  --c d\n# no\n--e 'f g'\n") == ["--a", "b", "--c", "d", "--e", "f g"]


def test_what_only_a_shell_knows_stays_as_it_is() -> None:
    assert script_words("--a $(cat x) --b ${C} --d $((E * 2)) --f pre$G") == [
        *("--a", "$(cat x)", "--b", "${C}", "--d", "$((E * 2))", "--f", "pre$G")
    ]
