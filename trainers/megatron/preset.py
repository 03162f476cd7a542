"""Published models, as data: their Megatron options and what their ``config.json`` says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainers.errors import ConfigInvalid
from trainers.megatron.hf.architecture import HFModel
from trainers.megatron.hf.options import architecture_options

DIRECTORY = Path(__file__).parent / "presets"


@dataclass(frozen=True, slots=True)
class Preset:
    name: str
    model: str
    """Its name on the Hugging Face hub."""
    parameters: int
    """All that are trained: without layers that predict further tokens."""
    megatron: dict[str, Any]
    """Options by their Python names."""
    config: dict[str, Any]
    """What of the published ``config.json`` describes the architecture."""


def preset_names() -> list[str]:
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def load_preset(name: str) -> Preset:
    """Raises ConfigInvalid, with the known names."""
    if name not in preset_names():
        raise ConfigInvalid(f"trainer.preset: {name!r} is not known; known are {', '.join(preset_names())}")
    return Preset(name=name, **yaml.safe_load((DIRECTORY / f"{name}.yaml").read_text()))


def check_preset(preset: Preset, model: HFModel) -> None:
    """Raises ConfigInvalid, which names the option, where the model's ``config.json`` says something else."""
    found = {name: value for name, value in architecture_options(model).items() if value is not None}
    for name in {**preset.megatron, **found}:
        wanted, says = preset.megatron.get(name), found.get(name)
        if wanted != says:
            raise ConfigInvalid(
                f"trainer.preset: {preset.name} has {name} = {wanted!r}, and {model.directory / 'config.json'} says "
                f"{says!r}"
            )
