"""slime's command line from the terminal: what is sent, what is shown, and the manifests of what is installed."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controlplane.cli.main import app
from controlplane.jobs.flags import manifests
from controlplane.jobs.flags.manifests import shipped
from tests.service.local.test_sdk_and_cli import ScriptedApi, api, job

__all__ = ["api"]

GOOD = [
    *(
        "--hf-checkpoint",
        "/m",
        "--prompt-data",
        "/d.jsonl",
        "--actor-num-gpus-per-node",
        "1",
        "--rollout-num-gpus",
        "1",
    ),
    *("--num-rollout", "2", "--rollout-batch-size", "4", "--n-samples-per-prompt", "8", "--lr", "2e-6"),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROLLWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path / "home"


def run(*words: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, list(words), input=stdin)


def test_train_sends_the_words_with_the_files_that_they_name_and_follows_the_job(
    api: ScriptedApi, tmp_path: Path
) -> None:
    config = tmp_path / "eval.yaml"
    config.write_text("datasets: []\n")
    notices = ["--balance-data: ignored: always so"]
    api.answers["POST /v1/jobs"] = [(202, job("queued") | {"notices": notices})]
    api.life((200, job("succeeded", end_reason="finished", finished_at="2026-01-01T00:00:00Z")))
    found = run("train", "--job-name", "pasted", "--", *GOOD, "--eval-config", str(config))
    assert found.exit_code == 0, found.output
    assert notices[0] in found.output and "j1 succeeded" in found.output
    sent = json.loads(next(body for method, _, _, body in api.requests if method == "POST"))
    assert sent["argv"] == [*GOOD, "--eval-config", str(config)]
    assert (sent["files"], sent["name"]) == ({str(config): "datasets: []\n"}, "pasted")


def test_train_without_following_prints_the_id_and_passes_on_flags_without_a_dash_dash(api: ScriptedApi) -> None:
    api.answers["POST /v1/jobs"] = [(202, job("queued") | {"notices": []})]
    found = run("train", "--detach", *GOOD)
    assert (found.exit_code, found.output.strip()) == (0, "j1")


def test_a_refused_command_line_lists_its_flags(api: ScriptedApi) -> None:
    fields = [{"path": "--lrr", "message": "--lrr 1: there is no such flag; did you mean --lr?", "suggestion": "--lr"}]
    api.answers["POST /v1/jobs"] = [(422, {"error": {"code": "invalid", "message": "wrong", "fields": fields}})]
    found = run("train", "--", "--lrr", "1")
    assert found.exit_code == 1
    assert "did you mean --lr?" in found.output


def test_explain_shows_which_flag_set_what_what_is_ignored_and_that_the_job_would_be_accepted() -> None:
    found = run("explain", "--", *GOOD, "--balance-data", "--num-layers", "2")
    assert found.exit_code == 0, found.output
    lines = [line.split() for line in found.output.splitlines()]
    assert ["lr", "2e-06", "--lr"] in lines
    facts = next(at for at, line in enumerate(lines) if line[:2] == ["trainer.megatron", "(must"])
    assert lines[facts + 1] == ["num_layers", "2", "--num-layers"]
    assert any(line[:1] == ["--balance-data"] and "balanced" in line for line in lines)
    assert "14 flags" not in found.output and "the job would be accepted" in found.output


def test_explain_breaks_no_flag_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    flags = ["--accumulate-allreduce-grads-in-fp32", "--dynamic-sampling-filter-path", "--sglang-cuda-graph-bs"]
    given = [flags[0], flags[1], "my_package.my_filters.keep", flags[2], *map(str, range(8, 257, 8)), "--use-tis"]
    found = run("explain", *GOOD, *given, "--eval-interval", "1", "--eval-prompt-data", "aime", "/" + "a" * 70)
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    shown = lines[: next(at for at, line in enumerate(lines) if not line)]
    assert max(map(len, shown)) <= 80
    for flag in (*flags, "--eval-prompt-data"):
        assert any(line.endswith(flag) for line in shown), flag
    numbers = [word.strip("[],") for line in shown for word in line.split()]
    assert {"104", "128", "256"} <= set(numbers)


def test_explain_as_json_has_the_whole_spec_and_every_flag() -> None:
    found = run("explain", "--json", *GOOD, "--use-wandb", "--wandb-key", "very-secret")
    assert found.exit_code == 0, found.output
    document = json.loads(found.output)
    assert document["spec"]["trainer"]["lr"] == 2e-6 and document["spec"]["sync"]["pause_mode"]
    outcomes = {entry["flag"]: (entry["outcome"], entry["fields"]) for entry in document["flags"]}
    assert outcomes["--lr"] == ("set", ["trainer.lr"]) and outcomes["--use-wandb"][0] == "ignored"
    assert "very-secret" not in found.output


def test_explain_names_what_is_refused_and_exits_with_1() -> None:
    found = run("explain", *GOOD, "--lrr", "1", "--num-epoch", "x")
    assert found.exit_code == 1
    assert "did you mean --lr?" in found.output and "takes a whole number" in found.output
    assert "2 refused; the job would be refused, for 2 reasons" in found.output


def test_flags_are_read_from_a_script_and_from_stdin(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text(f"ARGS=(\n  {' '.join(GOOD)}\n)\nray job submit -- python3 train.py \\\n  ${{ARGS[@]}}\n")
    assert run("explain", "--argv-file", str(script)).exit_code == 0
    piped = run("explain", "--json", "--argv-file", "-", "--lr", "3e-6", stdin=" \\\n".join(GOOD))
    assert json.loads(piped.output)["spec"]["trainer"]["lr"] == 3e-6
    assert "No such file" in run("explain", "--argv-file", str(tmp_path / "none")).output
    assert "no flags" in run("explain").output


def test_a_manifest_of_what_is_installed_is_written_and_read_back(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "python" / "toy_manifest.py"
    module.parent.mkdir()
    text = shipped().megatron.to_json().replace("--recompute-granularity", "--recompute-granularitie")
    module.write_text(f"print({text!r}, end='')\n")
    monkeypatch.setattr(manifests, "PROGRAMS", {"megatron": "toy_manifest"})
    found = run("manifest", "--python-path", str(module.parent))
    assert found.exit_code == 0, found.output
    assert "1 flags more and 1 fewer" in found.output
    monkeypatch.undo()
    monkeypatch.setenv("ROLLWAY_HOME", str(home))
    assert run("explain", *GOOD, "--recompute-granularitie", "full").exit_code == 0
    assert "did you mean --recompute-granularitie?" in run("explain", *GOOD, "--recompute-granularity", "full").output
    assert "No module named nowhere" in _failing(monkeypatch).output


def _failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(manifests, "PROGRAMS", {"megatron": "nowhere"})
    return run("manifest")
