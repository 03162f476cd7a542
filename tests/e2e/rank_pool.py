"""Processes that act as trainer ranks, without Ray: forked once from one that has imported everything, and used for
one layout after the other."""

import gc
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic
from typing import Any

from trainers.config import RunConfig
from trainers.megatron.start import Checkpoint
from trainers.protocols import StepStats, TrainBatch


@dataclass(frozen=True)
class Task:
    """What all ranks of one world do: begin, then train, or ask for log-probabilities."""

    config: RunConfig
    batches: Sequence[TrainBatch]
    begin: Checkpoint | None = None
    log_probs: bool = False
    export_to: Path | None = None


@dataclass
class Outcome:
    stats: list[StepStats] = field(default_factory=list)
    log_probs: list[list[Any]] = field(default_factory=list)
    """Of each batch before it is trained on: [R] per sample of this rank, in the plan's order."""


def _perform(task: Task, rank: int, world_size: int, init_method: str | None) -> Outcome:
    from trainers.megatron.rank import Rank

    trainer = Rank(
        task.config,
        run_id="test",
        rank=rank,
        world_size=world_size,
        device="cpu",
        init_method=init_method,
        begin=task.begin,
    )
    outcome = Outcome()
    try:
        for batch in task.batches:
            if task.log_probs:
                outcome.log_probs.append([values.numpy() for values in trainer.log_probs(batch)])
            outcome.stats.append(trainer.step(batch))
        if task.export_to is not None:
            trainer.export_hf(task.export_to)
    finally:
        trainer.close()
    return outcome


def _serve(rank: int, pipe: Connection) -> None:
    import torch

    from trainers.megatron.rendezvous import meeting_place

    torch.set_num_threads(1)
    gc.freeze()  # see tests/conftest.py
    while (task := pipe.recv()) is not None:
        try:
            world_size, init_method = task.config.resources.train_world_size, None
            if world_size > 1 and rank == 0:
                _store, init_method = meeting_place("127.0.0.1")  # held until all have done their task
                pipe.send(init_method)
            if world_size > 1:
                init_method = pipe.recv()
            where = rank, world_size, init_method
            pipe.send(task(*where) if callable(task) else _perform(task, *where))
        except BaseException as error:
            import traceback

            pipe.send(f"rank {rank}: {error!r}\n{traceback.format_exc()}")


class RankPool:
    """Use as a context manager."""

    def __init__(self, size: int):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["trainers.megatron.rank"])
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        for rank in range(size):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, theirs), daemon=True)
            process.start()
            self._pipes.append(mine)
            self._processes.append(process)

    def __enter__(self) -> "RankPool":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(10)

    def run(self, task: Any, *, timeout_s: float = 240.0) -> list[Any]:
        """What each rank's process makes of a Task, an Outcome, or of another picklable callable with a config, which
        is given (rank, world size, init method). Raises AssertionError with what the ranks said, or when one has not
        answered."""
        world_size = task.config.resources.train_world_size
        pipes = self._pipes[:world_size]
        for pipe in pipes:
            pipe.send(task)
        if world_size > 1:
            assert pipes[0].poll(timeout_s), "rank 0 has not opened a meeting place"
            init_method = pipes[0].recv()
            for pipe in pipes:
                pipe.send(init_method)
        answers: dict[int, Any] = {}
        deadline = monotonic() + timeout_s
        while len(answers) < world_size:
            waiting = [pipe for number, pipe in enumerate(pipes) if number not in answers]
            ready = wait(waiting, max(0.0, deadline - monotonic()))
            # A rank that failed leaves the others waiting for it.
            failed = [answer for answer in answers.values() if isinstance(answer, str)]
            assert ready or failed, f"no answer from {world_size - len(answers)} ranks within {timeout_s:.0f} s"
            if not ready:
                break
            for pipe in ready:
                answers[pipes.index(pipe)] = pipe.recv()  # type: ignore[arg-type]
            if any(isinstance(answer, str) for answer in answers.values()):
                deadline = min(deadline, monotonic() + 5)
        failures = [answer for answer in answers.values() if isinstance(answer, str)]
        assert not failures, "\n".join(failures)
        return [answers[rank] for rank in range(world_size)]
