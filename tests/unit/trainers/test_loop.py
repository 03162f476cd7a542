"""What a run that is resumed has to tell of the attempt before."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.types import Sample
from trainers.assembly import no_reward, report_start
from trainers.config import RunConfig
from trainers.loop import catch_up, generate_only, rollouts
from trainers.plugins.run import load_plugins
from trainers.protocols import TrainerState
from trainers.reporting import Reporter
from trainers.reports import CheckpointReport, EvaluationReport, EventReport, Phase, Report, StepReport
from trainers.rollout.protocols import RolloutOutput
from trainers.run import Run
from trainers.spool import Spool

SAVED = "/checkpoints/iter_0000004"
METRICS = {"reward": 0.5, "time/train_s": 2.0}


class Evaluator:
    names = "held_out"

    async def __call__(self, context: Any) -> list[Any]:
        return [SimpleNamespace(name="held_out", metrics={"reward": 1.0}, samples_path=Path("/samples"))]


async def told(directory: Path, *, attempt: int, num_rollouts: int = 9, interval: int | None = None) -> list[Report]:
    """What catching up with the checkpoint of rollout 4 adds to this attempt's spool."""
    report = Reporter(url="http://nowhere", token="", spool_directory=directory, attempt=attempt)
    run: Any = SimpleNamespace(
        report=report,
        evaluator=Evaluator(),
        context=lambda *_: None,
        config=SimpleNamespace(
            num_rollouts=num_rollouts,
            eval=SimpleNamespace(is_due=lambda rollout, last: last or (interval and (rollout + 1) % interval == 0)),
        ),
    )
    state = TrainerState(5, {"data": None, "metrics": METRICS}, 1, SAVED, resumed=True)
    await catch_up(run, SimpleNamespace(state=state))  # type: ignore[arg-type]
    return [fact for fact in Spool(directory, attempt).facts() if fact in list(report._unsent)]


@pytest.mark.parametrize("begins_at", [0, 5])
async def test_a_run_of_no_rollouts_evaluates_once_and_exports_nothing(begins_at: int, tmp_path: Path) -> None:
    report = Reporter(url="http://nowhere", token="", spool_directory=tmp_path, attempt=1)
    spec = {
        "model": {"hf_checkpoint": "/m"},
        "data": {"prompt_data": "/d"},
        "rollout": {"num_rollouts": 0, "rollout_batch_size": 1},
        "eval": {"sets": [{"name": "held_out", "prompt_data": "/e"}], "before_train": False},
    }
    config = RunConfig.model_validate(spec)
    run: Any = SimpleNamespace(
        config=config, report=report, data=None, engines=None, evaluator=Evaluator(), context=lambda *_: None
    )
    training: Any = SimpleNamespace(state=TrainerState(begins_at, None, 1, SAVED), trainer=None)
    await rollouts(run, training, None)  # type: ignore[arg-type]
    [evaluation] = Spool(tmp_path, 1).facts()
    assert isinstance(evaluation, EvaluationReport) and evaluation.weight_version == begins_at
    with pytest.raises(ValueError, match=r"only an evaluation to run: add eval\.sets"):
        RunConfig.model_validate(spec | {"eval": {}})


async def test_a_run_that_only_generates_evaluates_its_one_version_once_in_a_phase_of_its_own(tmp_path: Path) -> None:
    report = Reporter(url="http://nowhere", token="", spool_directory=tmp_path, attempt=1)
    phases: list[tuple[Phase, str]] = []
    report.phase = lambda phase, waiting_for: phases.append((phase, waiting_for))  # type: ignore[method-assign]

    class Answering(Evaluator):
        async def __call__(self, context: Any) -> list[Any]:
            context.progress("1 of 2")
            return await super().__call__(context)

    async def rollout(context: Any, rollout_id: int) -> RolloutOutput:
        context.progress("2 of 2")
        return RolloutOutput([[Sample(0, 0, "p")]])

    config = RunConfig.model_validate(
        {
            "model": {"hf_checkpoint": "/m"},
            "data": {"prompt_data": "/d"},
            "rollout": {"num_rollouts": 2, "rollout_batch_size": 1},
            "eval": {"sets": [{"name": "held_out", "prompt_data": "/e"}], "before_train": False, "interval": 1},
            "debug": {"mode": "rollout_only"},
        }
    )
    run = Run(
        config=config,
        rollout=rollout,
        plugins=load_plugins(config),
        data=None,
        tokenizer=None,
        reward=no_reward,
        report=report,
        evaluator=Answering(),  # type: ignore[arg-type]
        engines=None,
        training=None,
    )
    await generate_only(run)
    evaluation, *steps = Spool(tmp_path, 1).facts()
    assert isinstance(evaluation, EvaluationReport) and evaluation.weight_version == 0
    assert [isinstance(step, StepReport) and step.rollout_id for step in steps] == [0, 1]
    assert (Phase.EVALUATING, "1 of 2") in phases
    assert phases.count((Phase.GENERATING, "2 of 2")) == 2


@pytest.mark.parametrize("attempt", [2, 3])
async def test_a_step_that_was_saved_and_not_reported_is_reported_by_the_next_attempt_alone(
    attempt: int, tmp_path: Path
) -> None:
    before = Reporter(url="http://nowhere", token="", spool_directory=tmp_path, attempt=1)
    before.step(3, 4, {"reward": 0.25})
    checkpoint, step = await told(tmp_path, attempt=attempt)
    assert isinstance(checkpoint, CheckpointReport) and isinstance(step, StepReport)
    assert (checkpoint.rollout_id, checkpoint.path, checkpoint.weight_version) == (4, SAVED, 5)
    assert (step.rollout_id, step.weight_version, step.metrics) == (4, 5, METRICS)
    assert await told(tmp_path, attempt=attempt + 1) == []


async def test_a_step_that_was_reported_is_left_as_it_is(tmp_path: Path) -> None:
    Reporter(url="http://nowhere", token="", spool_directory=tmp_path, attempt=1).step(4, 5, {"reward": 0.25})
    assert await told(tmp_path, attempt=2) == []


@pytest.mark.parametrize(("num_rollouts", "interval"), [(5, None), (9, 5)])
async def test_an_evaluation_that_was_due_and_did_not_come_about_is_made_once(
    num_rollouts: int, interval: int | None, tmp_path: Path
) -> None:
    Reporter(url="http://nowhere", token="", spool_directory=tmp_path, attempt=1).step(4, 5, {"reward": 0.25})
    [evaluation] = await told(tmp_path, attempt=2, num_rollouts=num_rollouts, interval=interval)
    assert isinstance(evaluation, EvaluationReport)
    assert (evaluation.name, evaluation.weight_version) == ("held_out", 5)
    assert await told(tmp_path, attempt=3, num_rollouts=num_rollouts, interval=interval) == []


@pytest.mark.parametrize(
    ("next_rollout_id", "extra_state", "anew"), [(5, None, True), (5, {"data": None}, False), (0, None, False)]
)
async def test_a_checkpoint_that_knows_no_prompts_is_told_of(
    next_rollout_id: int, extra_state: dict[str, Any] | None, anew: bool, tmp_path: Path
) -> None:
    report = Reporter(url="http://nowhere", token="", spool_directory=tmp_path, attempt=1)
    report_start(report, TrainerState(next_rollout_id, extra_state, 1, SAVED))
    [event] = Spool(tmp_path, 1).facts()
    assert isinstance(event, EventReport)
    assert ("the prompts begin anew" in event.message) is anew
