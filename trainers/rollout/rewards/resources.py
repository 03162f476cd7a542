"""The processes and connections that the rules of one reward hold."""

from contextlib import AsyncExitStack

from trainers.rollout.rewards.pool import WorkerPool


class Resources(AsyncExitStack):
    """Released together. The rules that compare mathematics share their workers."""

    def __init__(self) -> None:
        super().__init__()
        self._equality: WorkerPool | None = None

    def equality(self, workers: int) -> WorkerPool:
        """The workers that compare mathematics: as many as the first who asks says."""
        if self._equality is None:
            self._equality = WorkerPool("math", workers, isolated=False)
            self.push_async_callback(self._equality.close)
        return self._equality
