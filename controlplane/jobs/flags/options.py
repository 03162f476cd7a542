"""Flags of Megatron's and SGLang's own: what a spec says of them, and what becomes of it."""

from collections.abc import Mapping
from typing import Any

from controlplane.errors import FieldError
from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.given import Use
from controlplane.jobs.flags.manifests import Manifests
from controlplane.jobs.flags.parse import SGLANG
from engines.config import OWNED_SGLANG_OPTIONS
from engines.option_manifest import Manifest, Option, python_name
from trainers.config import MODEL_OPTIONS, OWNED_MEGATRON_OPTIONS
from trainers.config.megatron_options import (
    IDLE_MEGATRON_GROUPS,
    IDLE_MEGATRON_OPTIONS,
    UNSUPPORTED_MEGATRON_OPTIONS,
    is_unsupported,
)


def place(use: Use, option: Option, manifests: Manifests, draft: Draft) -> None:
    if use.flag.startswith(SGLANG):
        _place_sglang(use, option, manifests.sglang, draft)
    else:
        _place_megatron(use, option, draft)


def _place_sglang(use: Use, option: Option, manifest: Manifest, draft: Draft) -> None:
    own = python_name(use.flag.removeprefix(SGLANG).removeprefix("no-"))
    field = OWNED_SGLANG_OPTIONS.get(option.dest) or OWNED_SGLANG_OPTIONS.get(own)
    if field is not None:
        draft.refuse(use.flag, f"it is set by the system: use {_flag_or_field(field)}")
        return
    # By what it sets, unless several options set that.
    name = option.dest if manifest.by_name(option.dest) is option else own
    draft.set(f"engine.sglang.{name}", use.value, use.flag)


def _place_megatron(use: Use, option: Option, draft: Draft) -> None:
    name = option.dest
    idle = IDLE_MEGATRON_OPTIONS.get(name) or IDLE_MEGATRON_GROUPS.get(option.group)
    if name in MODEL_OPTIONS:
        draft.set(f"trainer.megatron.{name}", use.value, use.flag)
    elif name in UNSUPPORTED_MEGATRON_OPTIONS:
        if not is_unsupported(name, use.value):
            draft.set(f"trainer.megatron.{name}", use.value, use.flag)
        else:
            only = UNSUPPORTED_MEGATRON_OPTIONS[name]
            hint = "" if only is None or only is False else f": only {only!r} is"
            draft.refuse(use.flag, f"not supported{hint}")
    elif name in OWNED_MEGATRON_OPTIONS:
        draft.refuse(use.flag, f"it is set by the system: use {_flag_or_field(OWNED_MEGATRON_OPTIONS[name])}")
    elif idle:
        draft.ignore(use.flag, idle)
    else:
        draft.set(f"trainer.megatron.{name}", use.value, use.flag)


def _flag_or_field(field: str) -> str:
    """The flag that sets ``field``, if there is one of slime's."""
    from controlplane.jobs.flags.table import TABLE

    flag = next((flag.name for flag in TABLE.values() if flag.direct and flag.fields == (field,)), None)
    return f"{flag} ({field})" if flag else field


def option_errors(spec: Mapping[str, Any], manifests: Manifests) -> tuple[FieldError, ...]:
    """What is wrong with ``trainer.megatron`` and ``engine.sglang`` of a valid spec."""
    trainer: dict[str, Any] = spec["trainer"]
    megatron = _errors(
        "trainer.megatron",
        trainer["megatron"],
        manifests.megatron,
        open_ended=trainer["extra_args_provider"] is not None,
    )
    return (*megatron, *_errors("engine.sglang", spec["engine"]["sglang"], manifests.sglang, open_ended=False))


def _errors(section: str, options: Mapping[str, Any], manifest: Manifest, *, open_ended: bool) -> list[FieldError]:
    """``open_ended``: the user adds options of their own, which only the job's processes know."""
    errors: list[FieldError] = []
    for name, value in options.items():
        path = f"{section}.{name}"
        option = manifest.by_name(name)
        if option is not None:
            if problem := option.problem(value):
                errors.append(FieldError(path, f"{path} {problem}"))
        elif not open_ended:
            near = manifest.nearest(name)
            suggestion = f"{section}.{near}" if near else None
            hint = f"; did you mean {suggestion}?" if suggestion else ""
            message = f"{manifest.program} {manifest.release} has no option {name}{hint}"
            errors.append(FieldError(path, message, suggestion))
    return errors
