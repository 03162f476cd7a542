"""From rows to groups of pending samples."""

import copy
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import batched
from typing import Any

from engines.types import Sample
from trainers.config.data import DataConfig, DataSetConfig
from trainers.errors import CheckpointInvalid, DataInvalid
from trainers.rollout.data.cache import cache_directory, keep, key_of
from trainers.rollout.data.check import check_rows
from trainers.rollout.data.order import Cursor, next_of, order_of
from trainers.rollout.data.reader import LabelCheck, PromptTokens, Row, RowReader, Tokenizer
from trainers.rollout.data.rows import Rows, open_rows

MEASURED_ROWS = 100_000
"""Of a data set with at most this many rows all labels are checked and all prompts are rendered and measured before a
run; of a larger one that is done to ``SAMPLED_ROWS``, evenly spread, and to each prompt when its turn comes."""
SAMPLED_ROWS = 10_000
_MEASURED_AT_ONCE = 1000
_PROGRESS_S = 2.0

type Progress = Callable[[str], None]
"""Says in plain words what opening the data waits for."""


class PromptData:
    """Prompts of one data set, or of several in proportion to their weights.

    What is wrong with a row is known before any accelerator is taken: each is read and checked. Of a large data set
    that is done once, and remembered for as long as its content is the same. Raises :class:`DataInvalid` that names
    the file, the line or row, and the fix.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        *,
        check_label: LabelCheck | None = None,
        progress: Progress = lambda text: None,
    ) -> None:
        tokens = PromptTokens(config, tokenizer)
        self._sets = [_DataSet(each, config, tokens, check_label, progress) for each in config.data_sets]
        self._weights = [each.weight for each in config.data_sets]
        self._next_sample = self._next_group = 0
        self._order: dict[str, Any] = {
            "shuffle": config.shuffle,
            "seed": config.seed,
            "weights": self._weights,
            "max_prompt_len": config.max_prompt_len,
            "prompts": [len(each) for each in self._sets],
        }
        """What the order follows from, beside the data and the position."""

    @property
    def num_too_long(self) -> int:
        """Prompts left out so far because they have more than ``max_prompt_len`` tokens."""
        return sum(each.num_too_long for each in self._sets)

    def __len__(self) -> int:
        """Prompts in one epoch of all data sets; of a large one, those that are too long are still among them."""
        return sum(len(each) for each in self._sets)

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        """The next ``n_prompts`` prompts with ``n_samples`` pending samples each; goes on into the next epoch."""
        return [self._group(n_samples) for _ in range(n_prompts)]

    def state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return {
            "cursors": [asdict(each.cursor) for each in self._sets],
            "identities": [each.identity for each in self._sets],
            "order": self._order,
            "next_sample_index": self._next_sample,
            "next_group_index": self._next_group,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved position. Raises :class:`CheckpointInvalid` for one that is not of this data."""
        try:
            cursors = [Cursor(**each) for each in state["cursors"]]
            identities, order = state["identities"], state["order"]
            sample, group = state["next_sample_index"], state["next_group_index"]
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
        if order != self._order:
            raise CheckpointInvalid(
                f"the checkpoint's data came in another order: then {order}, now {self._order}; resume with the same, "
                "or take the weights alone (checkpoint.finetune)"
            )
        for each, cursor in zip(self._sets, cursors, strict=True):
            each.move(cursor)
        self._next_sample, self._next_group = sample, group

    def _group(self, n_samples: int) -> list[Sample]:
        place = 0
        if len(self._sets) > 1:
            place = next_of(self._weights, [each.cursor.drawn for each in self._sets])
        row, tokens = self._sets[place].next()
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
                metadata=copy.deepcopy(row.metadata),
            )
            for i in range(n_samples)
        ]


class _DataSet:
    """The rows of one data set, and where it stands."""

    def __init__(
        self,
        data_set: DataSetConfig,
        config: DataConfig,
        tokens: PromptTokens,
        check_label: LabelCheck | None,
        progress: Progress,
    ) -> None:
        self._config = config
        self._tokens = tokens
        self._reader = RowReader(data_set, messages=config.apply_chat_template)
        self._check_label = check_label
        name = ", ".join(data_set.paths)
        self._rows: Rows = open_rows(data_set.paths)
        self.identity = self._rows.identity
        self.num_too_long = 0
        self.cursor = Cursor()
        self._fitting: array[int] | None = None
        """The rows that are short enough, where all were measured and some are not."""
        count = len(self._rows)
        if not count:
            raise DataInvalid(f"data.prompt_data {name} holds no prompt")
        if count <= MEASURED_ROWS:
            self._measure(lambda done: progress(f"the prompts of {name} to be measured: {done} of {count} are"))
        else:
            progress(f"{count} rows of {name} to be checked")
            check_rows(self._rows, data_set, messages=config.apply_chat_template)
            sampled = (self._row(count * i // SAMPLED_ROWS) for i in range(SAMPLED_ROWS))
            for some in batched(sampled, _MEASURED_AT_ONCE):
                tokens.of_many(some)
        self._order = self._order_of(0)

    def __len__(self) -> int:
        return len(self._rows) if self._fitting is None else len(self._fitting)

    def move(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self._order = self._order_of(cursor.epoch)

    def next(self) -> tuple[Row, list[int]]:
        """The next row that is short enough, and its tokens."""
        limit = self._config.max_prompt_len
        for _ in range(len(self) + 1):
            row = self._row(self._advance())
            tokens = self._tokens.of(row)
            if limit is None or len(tokens) <= limit:
                self.cursor.drawn += 1
                return row, tokens
            self.num_too_long += 1
        raise self._all_too_long()

    def _row(self, number: int) -> Row:
        return self._reader.row(self._rows.read(number), lambda: self._rows.where(number), self._check_label)

    def _advance(self) -> int:
        cursor = self.cursor
        if cursor.offset >= len(self):
            cursor.epoch, cursor.offset = cursor.epoch + 1, 0
            self._order = self._order_of(cursor.epoch)
        place = self._order(cursor.offset)
        cursor.offset += 1
        return place if self._fitting is None else self._fitting[place]

    def _order_of(self, epoch: int) -> Callable[[int], int]:
        return order_of(len(self), shuffle=self._config.shuffle, seed=self._config.seed, epoch=epoch)

    def _measure(self, progress: Callable[[int], None]) -> None:
        """Check every row, render its prompt, and find those that are short enough."""
        fitting = self._measured(self._checked(), self._config.max_prompt_len or sys.maxsize, progress)
        self.num_too_long = len(self._rows) - len(fitting)
        if not fitting:
            raise self._all_too_long()
        if self.num_too_long:
            self._fitting = fitting

    def _checked(self) -> Iterator[Row]:
        def where(number: int) -> Callable[[], str]:
            return lambda: self._rows.where(number)

        for number, content in enumerate(self._rows.scan(0, len(self._rows))):
            yield self._reader.row(content, where(number), self._check_label)

    def _measured(self, rows: Iterable[Row], limit: int, progress: Callable[[int], None]) -> "array[int]":
        tokens_key = self._tokens.key
        name = f"{key_of(self.identity, self._reader.key, tokens_key, limit)}.fitting"
        if tokens_key is not None and (kept := _kept(name)) is not None:
            for _ in rows:  # labels are checked each time: their rules are not part of the name
                pass
            return kept
        fitting = array("Q")
        told = time.monotonic()
        for number, some in enumerate(batched(rows, _MEASURED_AT_ONCE)):
            first = number * _MEASURED_AT_ONCE
            if time.monotonic() - told > _PROGRESS_S:
                progress(first)
                told = time.monotonic()
            for i, tokens in enumerate(self._tokens.of_many(some)):
                if len(tokens) <= limit:
                    fitting.append(first + i)
        if tokens_key is not None:
            _keep(name, fitting)
        return fitting

    def _all_too_long(self) -> DataInvalid:
        return DataInvalid(
            f"data.prompt_data holds no prompt: all {len(self._rows)} prompts exceed data.max_prompt_len = "
            f"{self._config.max_prompt_len}: {self.identity}"
        )


def _kept(name: str) -> "array[int] | None":
    found = array("Q")
    try:
        found.frombytes((cache_directory() / name).read_bytes())
    except (OSError, ValueError):
        return None
    return found


def _keep(name: str, numbers: "array[int]") -> None:
    try:
        keep(name, lambda file: file.write(numbers.tobytes()))
    except OSError:
        return  # measured again the next time
