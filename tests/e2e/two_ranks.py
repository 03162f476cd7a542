"""A rank of two in a process of its own, for tests that compare layouts."""

import multiprocessing
from collections.abc import Sequence
from typing import Any

from engines.network import free_port
from trainers.config import RunConfig
from trainers.protocols import StepStats, TrainBatch

type Case = tuple[RunConfig, list[TrainBatch]]


def _work(rank: int, cases: Sequence[Case], ports: Sequence[int], results: Any) -> None:
    from trainers.megatron.rank import Rank

    found: list[list[StepStats]] = []
    try:
        for (config, batches), port in zip(cases, ports, strict=True):
            trainer = Rank(
                config,
                run_id="test",
                rank=rank,
                world_size=2,
                device="cpu",
                init_method=f"tcp://127.0.0.1:{port}",
                begin=None,
            )
            try:
                found.append([trainer.step(batch) for batch in batches])
            finally:
                trainer.close()
    except BaseException as error:
        results.put((rank, repr(error)))
        raise
    results.put((rank, found))


def train_on_two_ranks(cases: Sequence[Case], *, timeout_s: float) -> list[list[StepStats]]:
    """Of each case, what rank 0 says of each batch. Raises what a rank raised, or Empty when they take too long."""
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    ports = [free_port("127.0.0.1") for _ in cases]
    ranks = [spawn.Process(target=_work, args=(rank, cases, ports, results), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        answers: dict[int, Any] = {}
        for _ in ranks:
            rank, said = results.get(timeout=timeout_s)
            if isinstance(said, str):
                raise AssertionError(f"rank {rank}: {said}")
            answers[rank] = said
        assert [[stats.losses for stats in case] for case in answers[0]] == [
            [stats.losses for stats in case] for case in answers[1]
        ]
        return answers[0]
    finally:
        for process in ranks:
            process.kill()
            process.join(10)
