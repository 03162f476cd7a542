import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.text import Text

from controlplane.cli.console import UserError
from controlplane.cli.follow import bar, curve, evaluation_line, sparkline, step_line
from controlplane.cli.spec_file import read_spec
from controlplane.sdk import Evaluation, Step


def test_a_field_set_on_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"rollout": {"num_rollouts": 5, "sampling": {"temperature": 1.0}}}))
    settings = ["rollout.sampling.temperature=0.5", "name=three words here", "trainer.lr=1e-4", "labels.a=true"]
    assert read_spec(path, settings) == {
        "rollout": {"num_rollouts": 5, "sampling": {"temperature": 0.5}},
        "name": "three words here",
        "trainer": {"lr": 1e-4},
        "labels": {"a": True},
    }


def test_yaml_is_read_by_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("rollout:\n  num_rollouts: 5\n")
    assert read_spec(tmp_path / "job.yaml", []) == {"rollout": {"num_rollouts": 5}}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("job.json", b"\x93NUMPY", "not UTF-8 text: invalid start byte at byte 0"),
        ("job.json", b'{"trainer": {"lr": NaN}}', "JSON cannot say.*not JSON compliant"),
        ("job.json", b'{"name": "\\ud800"}', "JSON cannot say.*surrogates"),
        ("job.yaml", b"labels: {day: 2026-01-01}", "JSON cannot say.*type date.*quote it"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: .*{why}"):
        read_spec(tmp_path / name, [])


def test_relative_inputs_are_found_beside_the_spec_file_and_outputs_go_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    for directory in (beside / "model", beside / "plugins", here):
        directory.mkdir(parents=True)
    for path in (beside / "train.jsonl", here / "train.jsonl", here / "more.jsonl"):
        path.touch()
    monkeypatch.chdir(here)
    spec = {
        "model": {"hf_checkpoint": "model"},
        "data": {
            "prompt_data": [{"path": ["train.jsonl@[:100]", "/data/x.jsonl"], "weight": 2}, {"path": "absent.json"}]
        },
        "eval": {
            "sets": [{"name": "a", "prompt_data": "train.jsonl"}, {"name": "b", "prompt_data": "more.jsonl@[1:]"}]
        },
        "checkpoint": {"load": "model", "save": "out", "save_hf": "hf/{rollout_id}"},
        "runtime": {"python_path": ["plugins", "."]},
    }
    (beside / "job.json").write_text(json.dumps(spec))
    assert read_spec(Path("../beside/job.json"), ["checkpoint.ref_load=train.jsonl"]) == {
        "model": {"hf_checkpoint": f"{here}/../beside/model"},
        "data": {
            "prompt_data": [
                {"path": [f"{here}/../beside/train.jsonl@[:100]", "/data/x.jsonl"], "weight": 2},
                {"path": "absent.json"},
            ]
        },
        "eval": {
            "sets": [
                {"name": "a", "prompt_data": f"{here}/../beside/train.jsonl"},
                {"name": "b", "prompt_data": f"{here}/more.jsonl@[1:]"},
            ]
        },
        "checkpoint": {
            "load": f"{here}/../beside/model",
            "save": f"{here}/out",
            "save_hf": f"{here}/hf/{{rollout_id}}",
            "ref_load": f"{here}/train.jsonl",
        },
        "runtime": {"python_path": [f"{here}/../beside/plugins", f"{here}/../beside"]},
    }


def test_a_run_that_goes_on_with_what_it_saves_has_one_directory_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside" / "out").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside" / "job.json").write_text(json.dumps({"checkpoint": {"load": "out", "save": "out"}}))
    assert read_spec(tmp_path / "beside" / "job.json", []) == {
        "checkpoint": {"load": f"{tmp_path}/out", "save": f"{tmp_path}/out"}
    }


@pytest.mark.parametrize(
    ("name", "text", "settings", "message"),
    [
        ("job.json", '{"a": 1,\n "b": }', [], "line 2, column 7"),
        ("job.yml", "a: [1", [], "job.yml"),
        ("job.json", "[1]", [], "an object with sections, not list"),
        ("job.json", '{"a": 1}', ["a.b=1"], "a is not a section"),
        ("job.json", "{}", ["a.b"], "write it as section.field=value"),
    ],
)
def test_a_bad_spec_file_is_refused_with_its_place(
    tmp_path: Path, name: str, text: str, settings: list[str], message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_spec(tmp_path / name, settings)


def test_a_missing_spec_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: No such file"):
        read_spec(tmp_path / "absent.json", [])


def test_rewards_are_drawn_to_scale() -> None:
    assert bar(0.5, width=4) == "━━  "
    assert bar(-1, width=2) == "  " and bar(7, width=2) == "━━"
    assert sparkline([]) == "" and curve([]) == ""
    drawn = sparkline([i / 99 for i in range(100)], width=10)
    assert len(drawn) == 10 and list(drawn) == sorted(drawn) and drawn[0] != drawn[-1]


def test_a_step_without_some_metric_still_has_its_line() -> None:
    step = Step(
        rollout_id=4, attempt=1, at=datetime.now(UTC), weight_version=5, values={"reward": None, "tokens_per_s": 1234.5}
    )
    line = Text.from_markup(step_line(step, 20)).plain
    assert "rollout   5/20" in line and "v5" in line and "1,234 tok/s" in line


def test_a_step_that_scores_nothing_shows_its_loss_and_the_speed_of_training() -> None:
    values: dict[str, float | None] = {"loss": 0.25, "perf/tokens_per_s": 4321.0}
    step = Step(rollout_id=0, attempt=1, at=datetime.now(UTC), weight_version=1, values=values)
    line = Text.from_markup(step_line(step, 2)).plain
    assert "loss 0.250" in line and "4,321 tok/s" in line and "reward" not in line


def test_a_step_fits_a_narrow_terminal_which_goes_without_the_bar() -> None:
    values: dict[str, float | None] = {"reward": 0.123456, "tokens_per_s": 1234.5}
    values |= {f"time/{part}_s": 1.2345 for part in ("generate", "train", "sync")}
    step = Step(rollout_id=44, attempt=1, at=datetime.now(UTC), weight_version=45, values=values)
    narrow, wide = (Text.from_markup(step_line(step, 100, width=width)).plain for width in (80, 120))
    assert len(narrow) <= 80 and "━" not in narrow
    assert "━" in wide


def test_an_evaluation_shows_its_figures_with_their_intervals() -> None:
    values: dict[str, float | None] = {"reward": 0.5, "reward_ci95": 0.1, "pass@1": 0.4, "pass@1_ci95": None}
    evaluation = Evaluation(
        weight_version=7, name="sums", attempt=1, at=datetime.now(UTC), values=values, samples_path="/x"
    )
    line = Text.from_markup(evaluation_line(evaluation)).plain
    assert line.startswith("eval sums v7  ")
    assert "reward 0.500 ±0.100" in line and line.endswith("pass@1 0.400")


def test_the_command_line_starts_without_heavy_libraries() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, controlplane.cli.main; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"httpx", "pydantic", "sqlalchemy", "fastapi", "ray", "torch", "alembic"} & set(loaded)
