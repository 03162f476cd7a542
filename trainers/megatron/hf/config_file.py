"""``config.json``, one value after the other."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.errors import ModelInvalid


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Every getter raises ModelInvalid, which names the file and the field."""

    path: Path
    raw: dict[str, Any]

    @classmethod
    def read(cls, directory: Path) -> "ConfigFile":
        path = directory / "config.json"
        try:
            raw = json.loads(path.read_text())
        except OSError as error:
            raise ModelInvalid(f"model.hf_checkpoint: {path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise ModelInvalid(f"model.hf_checkpoint: {path} is not JSON: {error}") from error
        if not isinstance(raw, dict):
            raise ModelInvalid(f"model.hf_checkpoint: {path} holds no JSON object")
        return cls(path, raw)

    @property
    def rope(self) -> dict[str, Any]:
        """Of transformers 5, or as it was before."""
        return self.raw.get("rope_parameters") or self.raw.get("rope_scaling") or {}

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.raw.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelInvalid(f"{self.path}: {key} must be a positive integer, not {value!r}")
        return value

    def count(self, key: str, default: int) -> int:
        """Like :meth:`integer`, and 0 is one."""
        value = self.raw.get(key)
        return 0 if value == 0 else self.integer(key, default) if value is not None else default

    def number(self, key: str, default: float) -> float:
        value = self.raw.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float):
            raise ModelInvalid(f"{self.path}: {key} must be a number, not {value!r}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise ModelInvalid(f"{self.path}: {key} must be true or false, not {value!r}")
        return value

    def refuse(self, key: str, why: str = "") -> ModelInvalid:
        return ModelInvalid(f"{self.path}: {key} = {self.raw.get(key)!r} is not supported by the trainer{why}")
