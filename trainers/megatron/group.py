"""The trainer: all ranks, as one. Light to import; lives in the driver's event loop."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import ray
import ray.exceptions

from engines.errors import EngineError
from engines.hardware.base import Hardware
from engines.placement import Slot
from engines.process import tail
from engines.protocols import WeightReceiver
from trainers.config import RunConfig
from trainers.errors import OutOfMemory, RunError, TrainerLost
from trainers.megatron.actor import RankLaunch, TrainRank
from trainers.megatron.start import resolve_start
from trainers.protocols import StepStats, TrainBatch, TrainerState

if TYPE_CHECKING:
    from trainers.weights.collective import SyncStats

CLOSE_TIMEOUT_S = 10.0
SYNC_MARGIN_S = 60.0
"""Beyond ``sync.timeout_s``, for the sender to make the engines generate again."""
WATCH_INTERVAL_S = 5.0
ANSWER_TIMEOUT_S = 120.0
"""For ranks that have nothing to do to say that they live."""
SETTLE_S = 5.0
"""After one rank failed: for the others to say more. What breaks first is often the neighbour of what broke."""


class MegatronTrainer:
    """Implements :class:`trainers.protocols.Trainer` over one Ray actor per rank."""

    def __init__(
        self,
        config: RunConfig,
        *,
        checkpoints: Path,
        run_id: str,
        slots: Sequence[Slot],
        hardware: Hardware,
        log_dir: Path,
    ):
        """``checkpoints``: where this run, ``run_id``, saves and resumes from. ``slots``: one per rank. Each rank
        writes ``log_dir/trainer-{rank}.log``."""
        self._config = config
        self._checkpoints = checkpoints
        self._run_id = run_id
        self._slots = list(slots)
        self._hardware = hardware
        self._log_dir = log_dir
        self._ranks: list[Any] = []
        self._turn = asyncio.Lock()
        """One call of all ranks at a time: each is bounded from when the ranks are free for it."""

    async def start(self) -> TrainerState:
        """Bring up all ranks, within ``trainer.start_timeout_s``. Raises ConfigInvalid, ModelInvalid,
        CheckpointInvalid, OutOfMemory or TrainerLost; call :meth:`close` then."""
        config = self._config
        begin = await asyncio.to_thread(
            resolve_start,
            self._checkpoints,
            config.checkpoint,
            run_id=self._run_id,
        )
        launches = [
            RankLaunch(
                rank, len(self._slots), config, self._run_id, self._hardware, self._log_dir / f"trainer-{rank}.log"
            )
            for rank in range(len(self._slots))
        ]
        actor_class = ray.remote(TrainRank)
        self._ranks = [
            actor_class.options(**slot.actor_options, max_restarts=0).remote(launch)
            for slot, launch in zip(self._slots, launches, strict=True)
        ]

        async def begun() -> list[TrainerState]:
            [init_method] = await self._settled([self._ranks[0].rendezvous.remote()])
            return await self._settled([rank.start.remote(init_method, begin) for rank in self._ranks])

        limit = "trainer.start_timeout_s"
        return (await self._within(config.trainer.start_timeout_s, limit, "start", begun()))[0]

    async def step(self, batch: TrainBatch) -> StepStats:
        """Train on one rollout, within ``trainer.step_timeout_s``."""
        shared = await asyncio.to_thread(ray.put, batch)
        what = f"train on rollout {batch.rollout_id}"
        return (await self._on_all(what, lambda rank: rank.step.remote(shared)))[0]

    async def save(self, rollout_id: int, directory: Path, extra_state: dict[str, Any]) -> Path:
        """As in the protocol; also raises StorageFailed, which names the directory."""
        what = f"save rollout {rollout_id} in {directory}"
        return (await self._on_all(what, lambda rank: rank.save.remote(rollout_id, directory, extra_state)))[0]

    async def save_settled(self) -> bool:
        """As in the protocol; also raises StorageFailed, which names the directory."""
        return all(await self._on_all("complete a checkpoint", lambda rank: rank.save_settled.remote()))

    async def export_hf(self, directory: Path) -> Path:
        """Write a Hugging Face directory, replacing what was there. Raises StorageFailed."""
        return (await self._on_all(f"export to {directory}", lambda rank: rank.export_hf.remote(directory)))[0]

    async def sync_weights(self, receivers: Sequence[WeightReceiver], version: int) -> "SyncStats":
        """Bring the receivers to ``version``. Raises WeightSyncError; they are continued whatever happens."""
        stats = await self._on_all(
            f"send weight version {version}",
            lambda rank: rank.sync_weights.remote(list(receivers), version),
            timeout_s=self._config.sync.timeout_s + SYNC_MARGIN_S,
            limit=f"sync.timeout_s, and {SYNC_MARGIN_S:.0f} s to continue the engines",
        )
        return stats[0]

    async def describe(self) -> list[dict[str, Any]]:
        """Rank, process id, host and log of each rank."""
        return await self._on_all("describe themselves", lambda rank: rank.describe.remote())

    async def watch(self) -> NoReturn:
        """Runs until a rank is gone that has nothing to do, while others generate, say; one that works is noticed by
        who waits for it. Raises TrainerLost or OutOfMemory."""
        while True:
            await self._on_all(
                "answer",
                lambda rank: rank.describe.remote(),
                timeout_s=ANSWER_TIMEOUT_S,
                limit="they had nothing to do",
            )
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def close(self) -> None:
        """End all ranks. Safe to call again, and after a failure."""
        ranks, self._ranks = self._ranks, []
        if not ranks:
            return
        # A rank that waits in a collective does not answer, and is killed all the same.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.gather(*(_result(rank.close.remote()) for rank in ranks), return_exceptions=True)
        for rank in ranks:
            ray.kill(rank, no_restart=True)

    async def _on_all(
        self,
        what: str,
        call: Callable[[Any], Any],
        *,
        timeout_s: float | None = None,
        limit: str = "trainer.step_timeout_s",
    ) -> list[Any]:
        if not self._ranks:
            raise RuntimeError("the trainer is not started")
        deadline = self._config.trainer.step_timeout_s if timeout_s is None else timeout_s
        async with self._turn:
            return await self._within(deadline, limit, what, self._settled([call(rank) for rank in self._ranks]))

    async def _within[T](self, timeout_s: float, limit: str, what: str, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await asyncio.wait_for(work, timeout_s)
        except TimeoutError:
            raise TrainerLost(
                f"the trainer's {len(self._slots)} ranks did not {what} within {timeout_s:.0f} s ({limit})"
                f"{self._log_text(0)}"
            ) from None

    async def _settled(self, refs: Sequence[Any]) -> list[Any]:
        """All results; or the failure that says most, once one has failed and the others had time to."""
        tasks = [asyncio.ensure_future(_result(ref)) for ref in refs]
        try:
            _, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            if waiting:
                await asyncio.wait(waiting, timeout=SETTLE_S)
        finally:
            for task in tasks:
                if not task.done():
                    task.cancel()
        failures = [
            (rank, error)
            for rank, task in enumerate(tasks)
            if task.done() and not task.cancelled() and (error := task.exception()) is not None
        ]
        if failures:
            rank, error = min(failures, key=lambda failure: _order(failure[1]))
            raise self._translated(rank, error) from error
        return [task.result() for task in tasks]

    def _translated(self, rank: int, error: BaseException) -> BaseException:
        if isinstance(error, RunError | EngineError):
            return error
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            return OutOfMemory(f"rank {rank} was ended by Ray, as its host ran out of memory: {error}")
        if isinstance(error, ray.exceptions.RayActorError):
            return TrainerLost(f"rank {rank} died: {error}{self._log_text(rank)}")
        return TrainerLost(f"rank {rank} failed: {type(error).__name__}: {error}{self._log_text(rank)}")

    def _log_text(self, rank: int) -> str:
        """The end of a rank's log, where this node can read it."""
        log = self._log_dir / f"trainer-{rank}.log"
        return f"; last lines of {log}:\n{tail(log, 25)}" if log.is_file() else ""


def _order(error: BaseException) -> int:
    """Causes before consequences: a rank's own verdict, then a dead rank, then what broke in its neighbours."""
    if isinstance(error, OutOfMemory | ray.exceptions.OutOfMemoryError):
        return 0
    if isinstance(error, RunError | EngineError) and not isinstance(error, TrainerLost):
        return 1
    return 2 if isinstance(error, ray.exceptions.RayActorError) else 3


async def _result(ref: Any) -> Any:
    """Await a Ray call, with an error that a rank raised as itself rather than inside Ray's wrapper."""
    try:
        return await ref
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RunError | EngineError):
            raise error.cause from None
        raise
