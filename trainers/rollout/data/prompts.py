"""From rows to groups of pending samples."""

import copy
from array import array
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from engines.types import Sample
from trainers.config import DataConfig
from trainers.errors import CheckpointInvalid, DataInvalid
from trainers.rollout.data.order import Cursor, next_of, order_of
from trainers.rollout.data.rows import Rows, json_name, open_rows

type Prompt = str | list[dict[str, Any]]
type LabelCheck = Callable[[Any, Mapping[str, Any]], None]
"""Raises ValueError saying what is wrong with a row's label, given its metadata."""

CHECKED_ROWS = 100_000
"""A data set of at most this many rows is checked whole before a run; of a larger one as many, evenly spread, and the
others when their turn comes."""


class Tokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer."""

    def encode(self, text: str, /) -> list[int]: ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], /, **options: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One row, checked."""

    where: Callable[[], str]
    """Its place, for an error; it may take reading the file up to there."""
    prompt: Prompt
    label: Any
    metadata: dict[str, Any]
    tools: list[Any] | None


class PromptData:
    """Prompts of one data set, or of several in proportion to their weights.

    What is wrong with the data is known before any accelerator is taken: every row of a small data set is read and
    checked. Raises :class:`DataInvalid` that names the file, the line or row, and the fix.
    """

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, *, check_label: LabelCheck | None = None) -> None:
        self._reader = _Reader(config, tokenizer, check_label)
        self._sets = [_DataSet(open_rows(paths), self._reader, config) for paths, _ in config.data_sets]
        self._weights = [weight for _, weight in config.data_sets]
        self._next_sample = self._next_group = 0

    @property
    def num_too_long(self) -> int:
        """Prompts left out so far because they have more than ``max_prompt_len`` tokens."""
        return sum(each.num_too_long for each in self._sets)

    def __len__(self) -> int:
        """Prompts in one epoch of all data sets."""
        return sum(len(each) for each in self._sets)

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        """The next ``n_prompts`` prompts with ``n_samples`` pending samples each; goes on into the next epoch."""
        return [self._group(n_samples) for _ in range(n_prompts)]

    def state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return {
            "cursors": [asdict(each.cursor) for each in self._sets],
            "identities": [each.identity for each in self._sets],
            "next_sample_index": self._next_sample,
            "next_group_index": self._next_group,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved position. Raises :class:`CheckpointInvalid` for one that is not of this data."""
        try:
            cursors = [Cursor(**each) for each in state["cursors"]]
            identities, sample, group = state["identities"], state["next_sample_index"], state["next_group_index"]
        except (KeyError, TypeError) as error:
            raise CheckpointInvalid(f"the saved position of the data cannot be read: {error!r}: {state}") from None
        counts = [sample, group, *(count for each in cursors for count in asdict(each).values())]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise CheckpointInvalid(f"the saved position of the data holds what is no count: {state}")
        if len(cursors) != len(self._sets):
            raise CheckpointInvalid(
                f"the checkpoint was trained on {len(cursors)} data sets, and data.prompt_data has {len(self._sets)}"
            )
        for each, cursor, identity in zip(self._sets, cursors, identities, strict=True):
            if identity != each.identity or cursor.offset > len(each):
                raise CheckpointInvalid(
                    f"the checkpoint was trained on other data: then {identity}, now {each.identity}; resume with the "
                    "same data, or take the weights alone (checkpoint.finetune)"
                )
        for each, cursor in zip(self._sets, cursors, strict=True):
            each.move(cursor)
        self._next_sample, self._next_group = sample, group

    def _group(self, n_samples: int) -> list[Sample]:
        place = 0
        if len(self._sets) > 1:
            place = next_of(self._weights, [each.cursor.drawn for each in self._sets])
        row, tokens = self._sets[place].next()
        metadata = row.metadata if row.tools is None else row.metadata | {"tools": row.tools}
        first, group_index = self._next_sample, self._next_group
        self._next_sample += n_samples
        self._next_group += 1
        return [
            Sample(
                index=first + i,
                group_index=group_index,
                prompt=copy.deepcopy(row.prompt),
                tokens=list(tokens),
                label=copy.deepcopy(row.label),
                metadata=copy.deepcopy(metadata),
            )
            for i in range(n_samples)
        ]


class _DataSet:
    """The rows of one data set, and where it stands."""

    def __init__(self, rows: Rows, reader: "_Reader", config: DataConfig) -> None:
        self._rows = rows
        self._reader = reader
        self._limit = config.max_prompt_len
        self._shuffle, self._seed = config.shuffle, config.seed
        self.identity = rows.identity
        self.num_too_long = 0
        self.cursor = Cursor()
        self._kept: array[int] | None = None
        """The rows that are short enough, where all were looked at."""
        self._check()
        self._order = self._order_of(0)

    def __len__(self) -> int:
        return len(self._rows) if self._kept is None else len(self._kept)

    def move(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self._order = self._order_of(cursor.epoch)

    def next(self) -> tuple[Row, list[int]]:
        """The next row that is short enough, and its tokens."""
        for _ in range(len(self) + 1):
            number = self._advance()
            row = self._reader.row(self._rows, number)
            tokens = self._reader.tokens(row)
            if self._limit is None or len(tokens) <= self._limit:
                self.cursor.drawn += 1
                return row, tokens
            self.num_too_long += 1
        raise self._all_too_long()

    def _advance(self) -> int:
        cursor = self.cursor
        if cursor.offset >= len(self):
            cursor.epoch, cursor.offset = cursor.epoch + 1, 0
            self._order = self._order_of(cursor.epoch)
        place = cursor.offset if self._order is None else int(self._order[cursor.offset])
        cursor.offset += 1
        return place if self._kept is None else self._kept[place]

    def _order_of(self, epoch: int) -> Any:
        return order_of(len(self), shuffle=self._shuffle, seed=self._seed, epoch=epoch)

    def _check(self) -> None:
        count = len(self._rows)
        if not count:
            raise DataInvalid(f"data.prompt_data holds no prompt: {self.identity}")
        whole = count <= CHECKED_ROWS
        numbers = range(count) if whole else [count * i // CHECKED_ROWS for i in range(CHECKED_ROWS)]
        kept: array[int] = array("Q")
        for number in numbers:
            row = self._reader.row(self._rows, number)
            # The first prompt shows whether the template works at all; the others cost time only for a limit.
            if number == 0 or (whole and self._limit is not None):
                tokens = self._reader.tokens(row)
                if whole and self._limit is not None and len(tokens) > self._limit:
                    self.num_too_long += 1
                    continue
            kept.append(number)
        if whole and self.num_too_long:
            self._kept = kept
            if not kept:
                raise self._all_too_long()

    def _all_too_long(self) -> DataInvalid:
        return DataInvalid(
            f"data.prompt_data holds no prompt: all {len(self._rows)} prompts exceed data.max_prompt_len = "
            f"{self._limit}: {self.identity}"
        )


class _Reader:
    """From a row's content to a prompt and its tokens."""

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, check_label: LabelCheck | None) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._check_label = check_label

    def row(self, rows: Rows, number: int) -> Row:
        config, content = self._config, rows.read(number)

        def invalid(what: str) -> DataInvalid:
            return DataInvalid(f"{rows.where(number)}: {what}")

        wanted = (("input_key", config.input_key), ("label_key", config.label_key))
        for field, key in wanted:
            if key is not None and key not in content:
                raise invalid(f"no key {key!r} (data.{field}); its keys are {sorted(content)}")
        metadata = content.get(config.metadata_key)
        if metadata is not None and not isinstance(metadata, dict):
            raise invalid(f"{config.metadata_key!r} (data.metadata_key) is a JSON {json_name(metadata)}, not an object")
        tools = content.get(config.tool_key) if config.tool_key is not None else None
        if tools is not None and not isinstance(tools, list):
            raise invalid(f"{config.tool_key!r} (data.tool_key) is a JSON {json_name(tools)}, expected an array")
        label = None if config.label_key is None else content[config.label_key]
        if self._check_label is not None:
            try:
                self._check_label(label, metadata or {})
            except ValueError as error:
                raise invalid(str(error)) from None
        try:
            prompt = self._prompt(content[config.input_key])
        except ValueError as error:
            raise invalid(str(error)) from None
        return Row(lambda: rows.where(number), prompt, label, metadata or {}, tools)

    def _prompt(self, value: Any) -> Prompt:
        key = f"{self._config.input_key!r} (data.input_key)"
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise ValueError(f"{key} is a JSON {json_name(value)}, expected a string or a list of messages")
        if not self._config.apply_chat_template:
            raise ValueError(f"{key} is a list of messages: set data.apply_chat_template to render it")
        if not value or not all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in value):
            raise ValueError(f"{key} must be a non-empty list of messages, each with a 'role'")
        return value

    def tokens(self, row: Row) -> list[int]:
        config = self._config
        if config.apply_chat_template:
            user: list[dict[str, Any]] = [{"role": "user", "content": row.prompt}]
            messages = user if isinstance(row.prompt, str) else row.prompt
            tools = {} if row.tools is None else {"tools": row.tools}
            try:
                tokens = self._tokenizer.apply_chat_template(
                    messages,
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=False,
                    **tools,
                    **config.apply_chat_template_kwargs,
                )
            except Exception as error:  # a template is a program: Jinja's own errors, TypeError, ValueError, …
                raise DataInvalid(f"{row.where()}: the tokenizer's chat template refuses it: {error}") from error
        else:
            tokens = self._tokenizer.encode(str(row.prompt))
        if not tokens:
            raise DataInvalid(f"{row.where()}: the prompt has no tokens")
        return list(tokens)
