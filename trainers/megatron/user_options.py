"""What a job's ``trainer.megatron`` may say: options for Megatron, facts of the model, and options without effect."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainers.config import MODEL_OPTIONS, OWNED_MEGATRON_OPTIONS
from trainers.config.megatron_options import (
    IDLE_MEGATRON_GROUPS,
    IDLE_MEGATRON_OPTIONS,
    UNSUPPORTED_MEGATRON_OPTIONS,
    is_unsupported,
)
from trainers.errors import ConfigInvalid
from trainers.megatron.options import ArgsProvider, default, destination, group_of, read


@dataclass(frozen=True, slots=True)
class UserOptions:
    options: dict[str, Any]
    """By destination, for Megatron's parser."""
    notices: list[str]
    """Of each option that was accepted and has no effect, why."""


def user_options(
    given: Mapping[str, Any],
    *,
    system: Mapping[str, Any],
    architecture: Mapping[str, Any],
    provider: ArgsProvider | None,
) -> UserOptions:
    """Sort what a job gave. ``system``: options that other fields decide; ``architecture``: those of them that the
    model's config does, which may be given and must agree.

    Raises ConfigInvalid for an unknown option, with the nearest name; one that another field decides, with the field;
    one that cannot be honoured; and one that contradicts the model.
    """
    found: dict[str, Any] = {}
    notices: list[str] = []
    for name, value in given.items():
        target = destination(name, provider)
        meant = _meaning(name, target, value)
        if target in found:
            raise ConfigInvalid(f"trainer.megatron.{name}: the same option is given under another name too")
        if target in architecture or target in MODEL_OPTIONS:
            _agree(name, target, meant, architecture)
        elif target in UNSUPPORTED_MEGATRON_OPTIONS:
            _refuse_unsupported(name, target, meant)
        elif target in system or target in OWNED_MEGATRON_OPTIONS:
            field = OWNED_MEGATRON_OPTIONS.get(target, "the field that decides it, or leave it out")
            raise ConfigInvalid(f"trainer.megatron.{name} is set by the system: use {field}")
        elif why := IDLE_MEGATRON_OPTIONS.get(target) or IDLE_MEGATRON_GROUPS.get(group_of(target)):
            notices.append(f"trainer.megatron.{name} has no effect: {why}")
        else:
            found[target] = meant
    return UserOptions(found, notices)


def _meaning(name: str, target: str, value: Any) -> Any:
    """``no_rope_fusion: true`` says ``apply_rope_fusion: false``."""
    if name != target and isinstance(value, bool) and name.startswith(("no_", "disable_")):
        return not value
    return value


def _refuse_unsupported(name: str, target: str, value: Any) -> None:
    if is_unsupported(target, value):
        only = UNSUPPORTED_MEGATRON_OPTIONS[target]
        raise ConfigInvalid(
            f"trainer.megatron.{name} = {value!r} is not supported in this release; leave it out"
            + (f" or use {only!r}" if only is not None else "")
        )


def _agree(name: str, target: str, value: Any, architecture: Mapping[str, Any]) -> None:
    expected = architecture[target] if architecture.get(target) is not None else default(target)
    layers = architecture["num_layers"]
    if _normal(target, value, layers) != _normal(target, expected, layers):
        raise ConfigInvalid(
            f"trainer.megatron.{name} = {value!r} contradicts config.json of model.hf_checkpoint, which says "
            f"{expected!r}"
        )


def _normal(target: str, value: Any, num_layers: int) -> Any:
    """Equal for values that mean the same."""
    with contextlib.suppress(ValueError, TypeError, AssertionError):
        value = read(target, value)
    if target == "moe_layer_freq":
        return [int(layer % value == 0) for layer in range(num_layers)] if isinstance(value, int) else list(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return value
