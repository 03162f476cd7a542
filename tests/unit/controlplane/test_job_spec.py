"""What a wrong spec is told."""

from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.errors import FieldError
from controlplane.jobs.spec import JobSpec, field_errors
from trainers.config import RunConfig

GOOD: dict[str, Any] = {
    "model": {"hf_checkpoint": "/m"},
    "data": {"prompt_data": "/d.jsonl"},
    "rollout": {"num_rollouts": 3, "rollout_batch_size": 2},
}


def wrong(**changes: Any) -> dict[str, FieldError]:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(GOOD | changes)
    return {error.path: error for error in field_errors(caught.value.errors())}


@pytest.mark.parametrize(
    ("changes", "path", "suggestion"),
    [
        ({"modle": {}}, "modle", "model"),
        ({"lr": 1}, "lr", "trainer.lr"),
        ({"trainer": {"llr": 1}}, "trainer.llr", "trainer.lr"),
        ({"trainer": {"num_rollouts": 1}}, "trainer.num_rollouts", "rollout.num_rollouts"),
        (
            {"rollout": GOOD["rollout"] | {"sampling": {"temprature": 1}}},
            "rollout.sampling.temprature",
            "rollout.sampling.temperature",
        ),
        ({"algorithm": {"epsclip": 1}}, "algorithm.epsclip", "algorithm.eps_clip"),
        ({"xyzzy": 1}, "xyzzy", None),
    ],
)
def test_an_unknown_field_comes_with_the_nearest_known_path(
    changes: dict[str, Any], path: str, suggestion: str | None
) -> None:
    assert wrong(**changes)[path].suggestion == suggestion


def test_an_unknown_field_with_no_near_one_comes_with_those_that_there_are() -> None:
    assert "lr_decay_style" in wrong(trainer={"zzz": 1})["trainer.zzz"].message


@pytest.mark.parametrize(
    ("prompt_data", "path", "message"),
    [
        (3, "data.prompt_data", "must be a path, a list of paths, or a list of data sets"),
        ([], "data.prompt_data", "names no file"),
        (["a", 3], "data.prompt_data[1]", "valid string, not 3"),
        ([{"path": "a", "weight": 0}], "data.prompt_data[0].weight", "greater than 0, not 0"),
        ([{"path": "a", "wieght": 1}], "data.prompt_data[0].wieght", "did you mean data.prompt_data[0].weight"),
        ([{"path": ["a", 3]}], "data.prompt_data[0].path[1]", "valid string, not 3"),
        ([{"weight": 1}], "data.prompt_data[0].path", "is required"),
    ],
)
def test_what_is_wrong_with_a_data_set_is_named_once_by_its_path(prompt_data: Any, path: str, message: str) -> None:
    [(found, error)] = wrong(data={"prompt_data": prompt_data}).items()
    assert found == path
    assert message in error.message


def test_a_missing_section_and_a_wrong_type_are_named_by_path() -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({"rollout": {"num_rollouts": "x", "rollout_batch_size": 0}})
    errors = {error.path: error.message for error in field_errors(caught.value.errors())}
    assert set(errors) == {"model", "data", "rollout.num_rollouts", "rollout.rollout_batch_size"}
    assert errors["model"] == "model is required"
    assert "not 'x'" in errors["rollout.num_rollouts"]


@pytest.mark.parametrize("both", [{}, {"num_rollouts": 3, "num_epochs": 1}])
def test_rollouts_are_counted_in_one_way(both: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="either num_rollouts or num_epochs"):
        JobSpec.model_validate(GOOD | {"rollout": {"rollout_batch_size": 4} | both})


def test_epochs_make_as_many_whole_rollouts_as_there_are_prompts_for() -> None:
    rollout = {"rollout_batch_size": 4, "num_epochs": 3}
    config = RunConfig.model_validate(JobSpec.model_validate(GOOD | {"rollout": rollout}).for_driver())
    with pytest.raises(ValueError, match="have not been counted"):
        _ = config.num_rollouts
    assert [config.counted(prompts).num_rollouts for prompts in (4, 7, 8, 103)] == [3, 3, 6, 75]
    again = RunConfig.model_validate(config.counted(8).model_dump())
    assert again.num_rollouts == again.counted(1).num_rollouts == 6
    with pytest.raises(ValueError, match="3 prompts do not fill one rollout"):
        config.counted(3)
    with pytest.raises(ValidationError, match="a replay reads none"):
        JobSpec.model_validate(GOOD | {"rollout": rollout, "debug": {"load_rollouts": "/r", "mode": "train_only"}})


def test_an_option_that_the_system_owns_names_the_field_to_use() -> None:
    assert "resources.rollout_num_gpus_per_engine" in wrong(engine={"sglang": {"tp_size": 2}})["engine"].message


@pytest.mark.parametrize("value", ["a\x00b", "\ud800", float("nan"), float("inf"), 2**63, -(2**63) - 1])
def test_what_the_database_cannot_hold_is_refused_by_path(value: object) -> None:
    message = next(iter(wrong(engine={"sglang": {"option": [1, value]}}).values())).message
    assert "engine.sglang.option[1] holds" in message


def test_numbers_beyond_what_the_database_holds_are_refused_by_path() -> None:
    assert "trainer.seed holds" in next(iter(wrong(trainer={"seed": 10**30}).values())).message
    assert list(wrong(rollout=GOOD["rollout"] | {"num_rollouts": 2**31})) == ["rollout.num_rollouts"]
    largest = {"trainer": {"seed": 2**63 - 1}, "rollout": GOOD["rollout"] | {"num_rollouts": 2**31 - 1}}
    assert JobSpec.model_validate(GOOD | largest).planned_rollouts == 2**31 - 1


@pytest.mark.parametrize("name", ["", "A=B"])
def test_an_environment_variable_that_no_process_can_be_started_with_is_refused(name: str) -> None:
    assert repr(name) in wrong(runtime={"env_vars": {"FINE": "a=b", name: "1"}})["runtime.env_vars"].message


def test_more_processes_than_any_cluster_has_are_refused() -> None:
    assert "65536" in wrong(resources={"rollout_num_gpus": 10**9})["resources.rollout_num_gpus"].message


def test_sizes_that_do_not_agree_are_refused_with_both_numbers() -> None:
    message = next(iter(wrong(trainer={"tensor_model_parallel_size": 3}).values())).message
    assert "(3 × 1 × 1)" in message and "training processes (1)" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"debug": {"mode": "train_only"}}, "debug.load_rollouts"),
        ({"debug": {"load_rollouts": "/x"}}, "debug.mode to train_only"),
        ({"eval": {"interval": 2}}, "add eval.sets"),
        ({"algorithm": {"name": "sft"}, "debug": {"mode": "rollout_only"}}, "generates nothing"),
    ],
)
def test_halves_of_a_run_that_lack_what_they_need_are_refused(changes: dict[str, Any], words: str) -> None:
    rollout = GOOD["rollout"] | {"n_samples_per_prompt": 1}
    assert words in " ".join(error.message for error in wrong(rollout=rollout, **changes).values())


def test_a_run_without_engines_keeps_nothing_serving() -> None:
    found = wrong(
        algorithm={"name": "sft"},
        rollout=GOOD["rollout"] | {"n_samples_per_prompt": 1},
        engine={"keep_serving_s": 5},
    )
    assert "nothing to keep serving" in next(iter(found.values())).message


def test_the_driver_gets_the_run_without_what_only_the_control_plane_reads() -> None:
    spec = JobSpec.model_validate(GOOD | {"name": "n", "labels": {"a": "b"}, "max_attempts": 2})
    run = spec.for_driver()
    assert set(run) == set(RunConfig.model_fields)
    assert RunConfig.model_validate(run).rollout.num_rollouts == 3


@pytest.mark.parametrize("attempts", [0, -1, 101])
def test_attempts_are_bounded(attempts: int) -> None:
    assert "max_attempts" in wrong(max_attempts=attempts)
