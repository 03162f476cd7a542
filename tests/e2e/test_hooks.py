"""The user's own functions beside Megatron's steps: called when they should be, with what they may change."""

from pathlib import Path
from typing import Any

import pytest
from megatron.training import get_args

from tests.e2e.test_algorithms import batch_of, rollout, run_config, single_rank
from trainers.config import RunConfig
from trainers.errors import PluginInvalid
from trainers.megatron.start import Checkpoint

CALLS: list[tuple[Any, ...]] = []


def init(args: Any) -> None:
    assert get_args().hidden_size == args.hidden_size
    CALLS.append(("init", args.hidden_size, args.rollout_batch_size, args.global_batch_size, args.mine))
    assert args.seed == get_args().seed == 1234
    args.seed = 7
    assert args.seed == get_args().seed == 7


def before_log_prob(args: Any, model: list[Any], store_prefix: str) -> None:
    CALLS.append(("log_prob", len(model), store_prefix))


def before_train_step(
    args: Any, rollout_id: int, step_id: int, model: list[Any], optimizer: Any, opt_param_scheduler: Any
) -> None:
    CALLS.append(("step", rollout_id, step_id, optimizer.param_groups[0]["lr"]))
    assert not any(p.main_grad.abs().sum() for p in model[0].parameters() if p.requires_grad)
    if rollout_id == 1:
        for group in optimizer.param_groups:
            group["lr"] = 0.0


def fails(args: Any, model: list[Any], store_prefix: str) -> None:
    raise RuntimeError("no")


def with_hooks(model: Path, algorithm: dict[str, Any], **plugins: Any) -> RunConfig:
    spec = run_config(model, algorithm).model_dump(mode="json")
    spec["plugins"] = {"arguments": {"mine": 3}} | plugins
    return RunConfig.model_validate(spec)


HOOKS = {
    "custom_megatron_init": f"{__name__}:init",
    "custom_megatron_before_log_prob_hook": f"{__name__}.before_log_prob",
    "custom_megatron_before_train_step_hook": f"{__name__}:before_train_step",
}


def test_each_hook_is_called_at_its_point_and_a_change_to_the_optimizer_counts(tiny_model: Path) -> None:
    CALLS.clear()
    config = with_hooks(tiny_model, {"name": "grpo", "kl": {"loss_coef": 0.1}}, **HOOKS)
    begin: Checkpoint | None = None
    with single_rank(config, begin) as rank:
        assert [("init", 64, 6, config.global_batch_size, 3)] == CALLS
        batch = batch_of(config, 0, rollout(config, 0))
        rank.step(batch)
        steps = len(batch.plan.steps)
        lr = config.trainer.lr
        passes = [("log_prob", 1, "ref_"), ("log_prob", 1, "")]
        assert CALLS[1:3] == passes
        assert CALLS[3:] == [("step", 0, i, pytest.approx(lr)) for i in range(steps)]
        before = {name: p.detach().clone() for name, p in rank._state.modules[0].named_parameters()}
        rank.step(batch_of(config, 1, rollout(config, 1)))
        after = dict(rank._state.modules[0].named_parameters())
        assert all(before[name].equal(p) for name, p in after.items())


def test_a_hook_that_raises_is_named(tiny_model: Path) -> None:
    hooks = {"custom_megatron_before_log_prob_hook": f"{__name__}:fails"}
    config = with_hooks(tiny_model, {"name": "grpo", "kl": {"loss_coef": 0.1}}, **hooks)
    with (
        single_rank(config) as rank,
        pytest.raises(PluginInvalid, match=r"plugins\.custom_megatron_before_log_prob_hook: .*fails raised Runtime"),
    ):
        rank.step(batch_of(config, 0, rollout(config, 0)))


SEEN: list[tuple[bool, bool]] = []


def provider(pre_process: bool, post_process: bool, pg_collection: Any = None) -> Any:
    from trainers.megatron.hf.config import read_hf_config
    from trainers.megatron.model import build_model

    SEEN.append((pre_process, post_process))
    args = get_args()
    hf = read_hf_config(Path(args.mine_hf))
    return build_model(args, hf, pre_process=pre_process, post_process=post_process, pg_collection=pg_collection)


def tell(args: Any) -> None:
    args.mine_hf = args.hf_checkpoint


def test_a_model_of_the_users_own_trains_as_ours_when_it_is_the_same(tiny_model: Path) -> None:
    plain = run_config(tiny_model, {"name": "grpo"})
    own = with_hooks(
        tiny_model,
        {"name": "grpo"},
        custom_model_provider=f"{__name__}:provider",
        custom_megatron_init=f"{__name__}:tell",
    )
    losses = []
    for config in (plain, own):
        with single_rank(config) as rank:
            losses.append(rank.step(batch_of(config, 0, rollout(config, 0))).losses)
    assert SEEN == [(True, True)]
    assert losses[0] == losses[1]
