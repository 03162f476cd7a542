"""Megatron's optimizer with torch's Adam, made to save and load what it holds.

Megatron's optimizers are written for the fused Adam of Apex or Transformer Engine. With torch's, which keeps a ``step``
tensor per parameter, six things go wrong around checkpoints, five of them in the distributed optimizer; a seventh goes
wrong with any Adam. Each has a test.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import HAVE_APEX_OR_TE, DistributedOptimizer
from megatron.core.optimizer.optimizer import ChainedOptimizer


def prepare(optimizer: MegatronOptimizer) -> None:
    """Call once on a new optimizer, before anything is saved, loaded or stepped."""
    if isinstance(optimizer, ChainedOptimizer):
        _repair_chain(optimizer)
    if HAVE_APEX_OR_TE:
        return
    for part in _parts(optimizer):
        allocate_state(part)
        use_fused_adam(part)
        if isinstance(part, DistributedOptimizer):
            _Repairs(part).install()
        else:
            _repair_plain(part)


def _parts(optimizer: MegatronOptimizer) -> Iterator[MegatronOptimizer]:
    if isinstance(optimizer, ChainedOptimizer):
        for part in optimizer.chained_optimizers:
            yield from _parts(part)
    elif not getattr(optimizer, "is_stub_optimizer", False):
        yield optimizer


def allocate_state(optimizer: MegatronOptimizer) -> None:
    """Adam's state at step 0.

    Defect 1: the distributed optimizer's ``state_dict()`` takes a step for granted, and with it every load into a fresh
    process; the plain optimizer writes no moments before the first step, and the load of that checkpoint then fails.
    """
    adam = cast(torch.optim.Optimizer, optimizer.optimizer)
    if not isinstance(adam, torch.optim.Adam | torch.optim.AdamW):
        return
    for group in adam.param_groups:
        for parameter in group["params"]:
            if not adam.state[parameter]:
                adam.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def use_fused_adam(optimizer: MegatronOptimizer) -> None:
    """One kernel for all parameters on a GPU, which wants the steps there. Call it again after loading, which brings
    back how the checkpoint's optimizer ran."""
    adam = cast(torch.optim.Optimizer, optimizer.optimizer)
    if not isinstance(adam, torch.optim.Adam | torch.optim.AdamW):
        return
    for group in adam.param_groups:
        if all(parameter.is_cuda for parameter in group["params"]):
            group |= {"fused": True, "foreach": False}
            for parameter in group["params"]:
                state = adam.state[parameter]
                state["step"] = state["step"].to(parameter.device)


def _repair_plain(optimizer: MegatronOptimizer) -> None:
    """Defect 6: the plain optimizer saves no step when it is 0, and cannot load what it saved."""
    load = optimizer.load_state_dict

    def load_state_dict(state_dict: dict[str, Any]) -> None:
        adam = state_dict.get("optimizer", state_dict)
        if "state" not in adam:
            raise ValueError(
                "its optimizer is distributed and this run's is not: leave out "
                "trainer.megatron.use_distributed_optimizer, or set checkpoint.finetune to take the weights alone"
            )
        adam["state"].setdefault("common_step", torch.tensor(0.0))
        load(state_dict)
        use_fused_adam(optimizer)

    optimizer.load_state_dict = load_state_dict


def _repair_chain(optimizer: ChainedOptimizer) -> None:
    """Defect 7: experts that are spread over ranks have an optimizer of their own, so a rank may have one where the
    checkpoint tells of two, or the other way round."""
    load, count = optimizer.load_state_dict, len(optimizer.chained_optimizers)

    def load_state_dict(state_dict: dict[Any, Any]) -> None:
        load(_told_apart(state_dict, count) if isinstance(state_dict, dict) else state_dict)

    optimizer.load_state_dict = load_state_dict


def _told_apart(state_dict: dict[Any, Any], count: int) -> dict[Any, Any]:
    """What was saved of one optimizer or of several, for ``count``. What is this rank's own, the state of its
    parameters, is where it belongs already; the rest is the same for all but for whose experts a group is."""
    several = {key: each for key, each in state_dict.items() if isinstance(key, int)}
    saved = [each for each in several.values() if "optimizer" in each] or [state_dict]
    if not all("optimizer" in each for each in saved) or (
        len(saved) == count and ("optimizer" in state_dict) is (count == 1)
    ):
        return state_dict
    own = [state_dict] if count == 1 else [several.get(number, {}) for number in range(count)]
    if not all("param_state" in each for each in own):
        raise ValueError(
            "its experts are spread over ranks and this run's are not, or the other way round, which only the "
            "distributed optimizer can load: set checkpoint.finetune to take the weights alone"
        )
    groups: list[dict[str, Any]] = [group for each in saved for group in each["optimizer"]["param_groups"]]
    # Of groups that are alike the last counts.
    others = [{**group, "is_expert_parallel": not group["is_expert_parallel"]} for group in groups]
    common = {**saved[0], "optimizer": {**saved[0]["optimizer"], "param_groups": [*others, *groups]}}
    told = [{**common, "param_state": each["param_state"]} for each in own]
    return told[0] if count == 1 else dict(enumerate(told))


class _Repairs:
    """Replaces two methods of one distributed optimizer."""

    def __init__(self, optimizer: DistributedOptimizer):
        self._optimizer = optimizer
        self._load = optimizer.load_state_dict
        self._set = optimizer._set_main_param_and_optimizer_states

    def install(self) -> None:
        optimizer: Any = self._optimizer
        optimizer.load_state_dict = self.load_state_dict
        optimizer._set_main_param_and_optimizer_states = self.set_states

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Defect 2: all parameters come to share one step tensor, which every parameter's update then advances."""
        self._load(state_dict)
        for state in self._adam.state.values():
            state["step"] = state["step"].clone()
        use_fused_adam(self._optimizer)

    @torch.no_grad()  # defect 5: in float32 the main parameter is a leaf, and is written in place
    def set_states(self, model_parameter: torch.nn.Parameter, tensors: Mapping[str, Any]) -> None:
        """Defects 3 and 4: the step, which :meth:`load_state_dict` has set from the parameter groups, is asked for a
        second time; one format does not have it, the other has a 0 that was never loaded."""
        group, order = self._optimizer.model_param_group_index_map[model_parameter]
        state = self._adam.state[self._adam.param_groups[group]["params"][order]]
        self._set(model_parameter, {**tensors, "step": state["step"]})

    @property
    def _adam(self) -> torch.optim.Optimizer:
        return cast(torch.optim.Optimizer, self._optimizer.optimizer)
