"""What a conversion says to the program that started it: a file that always holds its last word. Light."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from trainers.reports import EndReason


class Status(BaseModel):
    model_config = ConfigDict(frozen=True)

    said: str
    """How far it is; at the end, what it did or why it could not."""
    written: str | None = None
    """The directory, at a good end."""
    iteration: int | None = None
    """Of the checkpoint that was read; None for a release."""
    failure: EndReason | None = None

    @property
    def last(self) -> bool:
        """Whether nothing follows but the process's end."""
        return self.written is not None or self.failure is not None

    def write(self, path: Path) -> None:
        partial = path.with_name(f".{path.name}")
        partial.write_text(self.model_dump_json())
        partial.replace(path)


def read_status(path: Path) -> Status | None:
    """None before the first word."""
    try:
        return Status.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
