"""Prompts of a .jsonl file, in an order that (seed, epoch, offset) determines."""

import copy
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from engines.types import Sample
from trainers.config import DataConfig
from trainers.errors import CheckpointInvalid, DataInvalid

type Prompt = str | list[dict[str, Any]]
type LabelCheck = Callable[[Any], None]
"""Raises ValueError saying what is wrong with a label."""


class Tokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer."""

    def encode(self, text: str, /) -> list[int]: ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], /, **options: Any) -> Any: ...


@dataclass(slots=True)
class DataState:
    """Where the data stands: all that a resumed run needs to go on exactly there."""

    epoch: int = 0
    offset: int = 0
    """Prompts of this epoch that were handed out."""
    next_sample_index: int = 0
    next_group_index: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the file, checked."""

    line: int
    prompt: Prompt
    label: Any
    metadata: dict[str, Any]


class PromptData:
    """Reads a .jsonl file by line offsets, so memory grows with the number of prompts alone.

    Opening it reads and checks every line: what is wrong with the data is known before any accelerator is taken.
    Raises :class:`DataInvalid` that names the file, the line and the fix.
    """

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, *, check_label: LabelCheck | None = None) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._path = Path(config.prompt_data)
        self._state = DataState()
        self._offsets = array("Q")
        self._lines = array("Q")
        self.num_too_long = 0
        """Prompts left out because they have more than ``max_prompt_len`` tokens."""
        self._index(check_label)
        self._order = self._order_of(0)

    def __len__(self) -> int:
        """Prompts in one epoch."""
        return len(self._offsets)

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        """The next ``n_prompts`` prompts with ``n_samples`` pending samples each; goes on into the next epoch."""
        rows = [self._next_row() for _ in range(n_prompts)]
        return [self._group(row, n_samples) for row in rows]

    def state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return asdict(self._state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved position. Raises :class:`CheckpointInvalid` for one that is not of this data."""
        names = set(asdict(self._state))
        if set(state) != names or not all(type(value) is int and value >= 0 for value in state.values()):
            raise CheckpointInvalid(f"the saved position of the data is {state}: expected counts {sorted(names)}")
        loaded = DataState(**state)
        if loaded.offset > len(self):
            raise CheckpointInvalid(
                f"the checkpoint stands at prompt {loaded.offset} of an epoch, but {self._path} has {len(self)}: "
                "resume with the data that the checkpoint was trained on"
            )
        self._state = loaded
        self._order = self._order_of(loaded.epoch)

    def _next_row(self) -> Row:
        state = self._state
        if state.offset >= len(self):
            state.epoch, state.offset = state.epoch + 1, 0
            self._order = self._order_of(state.epoch)
        number = int(self._order[state.offset])
        state.offset += 1
        with self._open() as file:
            file.seek(self._offsets[number])
            return self._row(self._lines[number], file.readline())

    def _group(self, row: Row, n_samples: int) -> list[Sample]:
        state = self._state
        tokens = self._tokens(row)
        first, group_index = state.next_sample_index, state.next_group_index
        state.next_sample_index += n_samples
        state.next_group_index += 1
        return [
            Sample(
                index=first + i,
                group_index=group_index,
                prompt=copy.deepcopy(row.prompt),
                tokens=list(tokens),
                label=copy.deepcopy(row.label),
                metadata=copy.deepcopy(row.metadata),
            )
            for i in range(n_samples)
        ]

    def _order_of(self, epoch: int) -> "np.ndarray[Any, np.dtype[np.intp]]":
        if not self._config.shuffle:
            return np.arange(len(self))
        return np.random.default_rng([self._config.seed, epoch]).permutation(len(self))

    def _index(self, check_label: LabelCheck | None) -> None:
        limit = self._config.max_prompt_len
        for line, offset, raw in self._raw_lines():
            row = self._row(line, raw)
            if check_label is not None:
                try:
                    check_label(row.label)
                except ValueError as error:
                    raise self._invalid(line, str(error)) from None
            # The first prompt shows whether the template works at all; the others cost time only for a limit.
            if limit is not None or not len(self._offsets):
                length = len(self._tokens(row))
                if limit is not None and length > limit:
                    self.num_too_long += 1
                    continue
            self._offsets.append(offset)
            self._lines.append(line)
        if not len(self):
            why = f"all {self.num_too_long} prompts exceed data.max_prompt_len = {limit}" if self.num_too_long else ""
            raise DataInvalid(f"{self._path} holds no prompt{': ' if why else ''}{why}")

    def _raw_lines(self) -> Iterator[tuple[int, int, bytes]]:
        """(line number from 1, byte offset, content) of every line that is not blank."""
        if self._path.suffix != ".jsonl":
            raise DataInvalid(f"data.prompt_data {self._path} must be a .jsonl file: one JSON object a line")
        offset = 0
        with self._open() as file:
            for line, raw in enumerate(file, start=1):
                if raw.strip():
                    yield line, offset, raw
                offset += len(raw)

    def _open(self) -> BinaryIO:
        try:
            return self._path.open("rb")
        except OSError as error:
            raise DataInvalid(f"data.prompt_data {self._path} cannot be read: {error.strerror}") from error

    def _row(self, line: int, raw: bytes) -> Row:
        config = self._config
        try:
            content = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"), parse_constant=_no_constant)
        except UnicodeDecodeError as error:
            raise self._invalid(line, f"not UTF-8 at byte {error.start + 1}") from None
        except json.JSONDecodeError as error:
            raise self._invalid(line, f"not JSON at column {error.colno}: {error.msg}") from None
        except ValueError as error:
            raise self._invalid(line, f"not JSON: {error}") from None
        except RecursionError:
            raise self._invalid(line, "JSON nested too deeply") from None
        if not isinstance(content, dict):
            raise self._invalid(line, f"a JSON {_json_name(content)}, expected an object")
        for field, key in (("input_key", config.input_key), ("label_key", config.label_key)):
            if key is not None and key not in content:
                raise self._invalid(line, f"no key {key!r} (data.{field}); its keys are {sorted(content)}")
        metadata = content.get(config.metadata_key)
        if metadata is not None and not isinstance(metadata, dict):
            raise self._invalid(
                line, f"{config.metadata_key!r} (data.metadata_key) is a JSON {_json_name(metadata)}, not an object"
            )
        return Row(
            line=line,
            prompt=self._prompt(line, content[config.input_key]),
            label=None if config.label_key is None else content[config.label_key],
            metadata=metadata or {},
        )

    def _prompt(self, line: int, value: Any) -> Prompt:
        key = f"{self._config.input_key!r} (data.input_key)"
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise self._invalid(line, f"{key} is a JSON {_json_name(value)}, expected a string or a list of messages")
        if not self._config.apply_chat_template:
            raise self._invalid(line, f"{key} is a list of messages: set data.apply_chat_template to render it")
        if not value or not all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in value):
            raise self._invalid(line, f"{key} must be a non-empty list of messages, each with a 'role'")
        return value

    def _tokens(self, row: Row) -> list[int]:
        if self._config.apply_chat_template:
            user: list[dict[str, Any]] = [{"role": "user", "content": row.prompt}]
            messages = user if isinstance(row.prompt, str) else row.prompt
            try:
                tokens = self._tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=True, return_dict=False
                )
            except Exception as error:  # a template is a program: Jinja's own errors, TypeError, ValueError, …
                raise self._invalid(row.line, f"the tokenizer's chat template refuses it: {error}") from error
        else:
            tokens = self._tokenizer.encode(str(row.prompt))
        if not tokens:
            raise self._invalid(row.line, "the prompt has no tokens")
        return list(tokens)

    def _invalid(self, line: int, what: str) -> DataInvalid:
        return DataInvalid(f"{self._path} line {line}: {what}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _json_name(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]
