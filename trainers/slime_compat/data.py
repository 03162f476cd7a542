"""slime's data buffer over our data source, and slime's data sources as ours."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as Late
from typing import Any

from engines.types import Sample
from trainers.errors import CheckpointInvalid, DataInvalid, RolloutFailed
from trainers.rollout.protocols import DataSource
from trainers.slime_compat.args import SlimeArgs
from trainers.slime_compat.sample import from_slime, to_slime

WAIT_S = 300.0


class DataBuffer:
    """``data_buffer`` as a slime rollout function calls it, from the thread that it runs in."""

    def __init__(
        self,
        data: DataSource,
        args: SlimeArgs,
        loop: asyncio.AbstractEventLoop,
        view: Callable[[Sample], Any] = to_slime,
    ) -> None:
        self._data = data
        self._args = args
        self._loop = loop
        self._view = view
        self._handed: dict[int, Sample] = {}

    def get_samples(self, num_samples: int) -> list[list[Any]]:
        """``num_samples`` groups."""
        groups = self._at_home(lambda: self._data.next_groups(num_samples, self._args.n_samples_per_prompt))
        for group in groups:
            for sample in group:
                self._handed[sample.index] = sample
        return [[self._view(sample) for sample in group] for group in groups]

    def add_samples(self, samples: Sequence[Sequence[Any]]) -> None:
        """Put unfinished groups back: they are handed out again."""
        groups = [[self._back(each, "data_buffer.add_samples") for each in group] for group in samples]
        self._at_home(lambda: self._data.put_back(groups))

    def __len__(self) -> int:
        return len(self._data)

    def original(self, made: Any, name: str) -> Sample:
        """The sample of ours that ``made`` came of; one like it, where the function ``name`` made it by itself."""
        if isinstance(made, Sample):
            return made
        index = getattr(made, "index", None)
        return self._handed[index] if index in self._handed else original_of(made, name)

    def _back(self, made: Any, name: str) -> Sample:
        original = self.original(made, name)
        version = max(original.weight_versions, default=0)
        return from_slime(made, original, name=name, weight_version=version, needs_log_probs=False)

    def _at_home(self, what: Callable[[], Any]) -> Any:
        """In the event loop, which owns the data."""
        try:
            if asyncio.get_running_loop() is self._loop:
                return what()
        except RuntimeError:
            pass  # called from a plain thread

        async def there() -> Any:
            return what()

        waiting = asyncio.run_coroutine_threadsafe(there(), self._loop)
        try:
            return waiting.result(WAIT_S)
        except Late:
            waiting.cancel()
            raise RolloutFailed(f"the data source did not answer within {WAIT_S:g} s") from None


def original_of(made: Any, name: str) -> Sample:
    """What a sample of slime's that the function ``name`` made by itself came of. Raises RolloutFailed for one
    without an index."""
    index, group = getattr(made, "index", None), getattr(made, "group_index", None)
    try:
        index = operator.index(index)  # type: ignore[arg-type]
    except TypeError:
        raise RolloutFailed(
            f"{name} returned a sample with index {index!r}: keep the index of the sample that yours came of, or "
            "number your own"
        ) from None
    return Sample(index=index, group_index=index if group is None else group, prompt=made.prompt)


class SlimeDataSource:
    """A data source of slime's kind as :class:`DataSource`. Its state is what it saves under a number of ours."""

    def __init__(self, source: Any, name: str, tokenizer: Any) -> None:
        self._source = source
        self._name = name
        self._tokenizer = tokenizer
        self._saved = 0

    def __len__(self) -> int:
        return len(self._source)

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        """Raises :class:`DataInvalid` for groups of another size."""
        groups = [[self._ours(each) for each in group] for group in self._source.get_samples(n_prompts)]
        if len(groups) != n_prompts or any(len(group) != n_samples for group in groups):
            raise DataInvalid(
                f"{self._name}.get_samples({n_prompts}) returned groups of {[len(group) for group in groups]}: "
                f"expected {n_prompts} groups of {n_samples}"
            )
        return groups

    def state(self) -> dict[str, Any]:
        self._saved += 1
        self._source.save(self._saved)
        return {"saved": self._saved}

    def load_state(self, state: dict[str, Any]) -> None:
        if set(state) != {"saved"}:
            raise CheckpointInvalid(f"the saved position of the data is {state}, not one of {self._name}")
        self._saved = int(state["saved"])
        self._source.load(self._saved)

    def _ours(self, made: Any) -> Sample:
        try:
            original = original_of(made, f"{self._name}.get_samples")
        except RolloutFailed as error:
            raise DataInvalid(str(error)) from None
        index = original.index
        sample = from_slime(made, original, name=self._name, weight_version=0, needs_log_probs=False)
        if not sample.tokens:
            if not isinstance(sample.prompt, str):
                raise DataInvalid(f"{self._name}: the prompt of sample {index} is a list of messages: render it")
            sample.tokens = list(self._tokenizer.encode(sample.prompt, add_special_tokens=False))
        return sample
