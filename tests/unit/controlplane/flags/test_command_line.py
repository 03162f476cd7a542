"""What a shell keeps to itself, in a command that is pasted as words."""

import shlex

import pytest

from controlplane.jobs.flags.command_line import read_command_line


@pytest.mark.parametrize(
    ("pasted", "flags", "left_out"),
    [
        ("python train.py --lr 1 2>&1 | tee -a log.txt", "--lr 1", "2>&1 | tee -a log.txt"),
        ("--lr 1 > log 2>&1 &", "--lr 1", "> log 2>&1 &"),
        ("--lr 1 &> log --seed 3 </dev/null", "--lr 1 --seed 3", "&> log </dev/null"),
        ("--colocate >>log ; python eval.py --lr 2", "--colocate", ">>log ; python eval.py --lr 2"),
        ("cd /slime && python train.py --colocate && echo done", "--colocate", "&& echo done"),
        ("--eval-prompt-data a /a.jsonl 2> log", "--eval-prompt-data a /a.jsonl", "2> log"),
        ("--rollout-stop a 2>&1 | tee log", "--rollout-stop a", "2>&1 | tee log"),
        ("--rollout-stop a '|' --lr 1 | tee log", "--rollout-stop a '|' --lr 1", "| tee log"),
    ],
)
def test_what_a_shell_would_not_pass_on_is_left_out_aloud(pasted: str, flags: str, left_out: str) -> None:
    line = read_command_line(shlex.split(pasted))
    assert line.words == tuple(shlex.split(flags))
    assert line.remarks == (f"left out, as a shell would not pass it on: {left_out}",)


@pytest.mark.parametrize(
    "words",
    [
        ("--rollout-stop", "|"),
        ("--rollout-stop", ";", "--lr", "1"),
        ("--rollout-stop", "2>&1"),
        ("--rollout-stop", "a", "|", ">", ";", "--lr", "1"),
        ("--rollout-stop", "a", ";"),
        ("--rollout-stop", "a", ">>>", "</s>", "<b>"),
        ("--rollout-stop", "\n"),
        ("--rollout-stop", "\n\n", " ", "\t", "--lr", "1"),
        ("--rollout-stop", ""),
        ("--label-key", "&", "--lr", "1"),
    ],
)
def test_where_a_flag_takes_text_blanks_and_a_shells_signs_are_its_values(words: tuple[str, ...]) -> None:
    assert read_command_line(words) == read_command_line(["train.py", *words])
    line = read_command_line(words)
    assert (line.words, line.remarks) == (words, ())


def test_continuations_that_were_pasted_into_one_line_are_nothing() -> None:
    words = [
        "python",
        "\\",
        "train.py",
        "\\\n",
        "--lr",
        "",
        "1",
        " \\ ",
        "\n",
        "--colocate",
        "",
        "--rollout-stop",
        "\\\n",
        "a",
    ]
    assert read_command_line(words).words == ("--lr", "1", "--colocate", "--rollout-stop", "a")
