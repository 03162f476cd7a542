"""All engines of a job behind one router, and the gate through which they come."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import ray
import ray.exceptions
import ray.util

from engines.config import EngineConfig
from engines.errors import EngineError, EngineLost, EngineOutOfMemory, EngineStartError, WaitTimeout
from engines.hardware.base import Hardware
from engines.placement import Slot
from engines.process import tail
from engines.router import Router
from engines.sglang.actor import EngineLaunch, SGLangEngine
from engines.sglang.weights import SGLangReceiver

REGISTER_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 45.0
WATCH_INTERVAL_S = 2.0
"""How long a dead server can go unnoticed."""
ANSWER_TIMEOUT_S = 60.0
"""For an engine or its actor to answer what costs it nothing."""
START_MARGIN_S = 60.0
"""For Ray to bring up the actor, beside the engine's own start."""


@dataclass(slots=True)
class _Engine:
    launch: EngineLaunch
    actor: Any
    """A Ray handle on SGLangEngine."""
    receiver: SGLangReceiver | None = None


class Fleet:
    """Router and engines of one job. Lives in one event loop."""

    def __init__(
        self,
        config: EngineConfig,
        hardware: Hardware,
        *,
        model_path: str,
        slots: Sequence[Slot],
        tp_size: int,
        log_dir: Path,
        env_vars: Mapping[str, str] | None = None,
    ):
        """``slots``: one per engine, of :class:`engines.placement.Placement`. ``env_vars``: for the engines alone."""
        self._config = config
        self._hardware = hardware
        self._model_path = model_path
        self._slots = list(slots)
        self._tp_size = tp_size
        self._log_dir = log_dir
        self._env_vars = dict(env_vars or {})
        self._engines: list[_Engine] = []
        self._router: Router | None = None

    @property
    def base_url(self) -> str:
        """The router's, without ``/v1``."""
        return self._running_router().url

    async def start(self, progress: Callable[[str], None] = lambda text: None) -> None:
        """Start router and engines at once. No engine gets requests before :meth:`admit`.

        ``progress`` is called with a line about each that came up. Raises EngineStartError or
        EngineOutOfMemory; call :meth:`close` then.
        """
        router = Router(
            host=ray.util.get_node_ip_address(),
            log_dir=self._log_dir,
            request_timeout_s=self._config.request_timeout_s,
        )
        self._router = router
        self._engines = [self._create(index, slot) for index, slot in enumerate(self._slots)]

        async def start_router() -> None:
            await router.start()
            progress(f"router ready at {router.url}")

        up = 0

        async def start_engine(engine: _Engine) -> None:
            nonlocal up
            engine.receiver = await self._start_engine(engine)
            up += 1
            progress(f"{engine.launch.name} ready at {engine.receiver.url} ({up} of {len(self._engines)})")

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(start_router())
                for engine in self._engines:
                    tasks.create_task(start_engine(engine))
        except* EngineError as errors:
            raise _first(errors) from None

    def receivers(self) -> list[SGLangReceiver]:
        """The engines, as weight sync addresses them, in order of their index."""
        receivers = [engine.receiver for engine in self._engines if engine.receiver is not None]
        if len(receivers) != len(self._engines) or not receivers:
            raise RuntimeError("the fleet is not started")
        return receivers

    async def name_weights(self, version: int) -> None:
        """The weights that the engines began with are ``version``: for a run that publishes none."""
        await asyncio.gather(
            *(_answered(each.commit(version), f"{each.name} did not name its weights") for each in self.receivers())
        )

    async def admit(self, version: int) -> None:
        """The admission gate: an engine joins the router only once it reports ``version``. Engines that are in
        already stay. Raises EngineLost, naming an engine that reports something else; none is admitted then."""
        router = self._running_router()
        receivers = self.receivers()
        reported = await asyncio.gather(
            *(_answered(each.weight_version(), f"{each.name} did not report its weight version") for each in receivers)
        )
        for receiver, seen in zip(receivers, reported, strict=True):
            if seen != version:
                raise EngineLost(f"{receiver.name} reports weight version {seen}, not {version}: it may not serve")
        known = set(await router.registered())
        await asyncio.gather(
            *(
                router.register(receiver.url, timeout_s=REGISTER_TIMEOUT_S)
                for receiver in receivers
                if receiver.url not in known
            )
        )

    async def watch(self) -> NoReturn:
        """Runs until an engine or the router is gone, and raises EngineLost or EngineOutOfMemory with the end of its
        log."""
        while True:
            self._running_router().check()
            try:
                async with asyncio.TaskGroup() as tasks:
                    for engine in self._engines:
                        tasks.create_task(self._check(engine))
            except* EngineError as errors:
                raise _first(errors) from None
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def describe(self) -> list[dict[str, object]]:
        """Name, address, log and process ids of each engine."""
        return list(await asyncio.gather(*(engine.actor.describe.remote() for engine in self._engines)))

    async def close(self) -> None:
        """End router and engines and everything they started. Safe to call again, and after a failed start."""
        engines, self._engines = self._engines, []
        router, self._router = self._router, None
        await asyncio.gather(*(_stop(engine) for engine in engines))
        if router is not None:
            await router.close()

    def _create(self, index: int, slot: Slot) -> _Engine:
        launch = EngineLaunch(
            index=index,
            model_path=self._model_path,
            config=self._config,
            hardware=self._hardware,
            tp_size=self._tp_size,
            log_dir=self._log_dir,
            env_vars=self._env_vars,
        )
        actor_class = ray.remote(SGLangEngine)
        actor = actor_class.options(**slot.actor_options, max_restarts=0, max_concurrency=16).remote(launch)
        return _Engine(launch, actor)

    async def _start_engine(self, engine: _Engine) -> SGLangReceiver:
        timeout_s = self._config.start_timeout_s + START_MARGIN_S
        try:
            return await asyncio.wait_for(_result(engine.actor.start.remote()), timeout_s)
        except TimeoutError:
            raise EngineStartError(f"{engine.launch.name} did not come up within {timeout_s:.0f} s") from None
        except ray.exceptions.OutOfMemoryError as error:
            raise self._ended_by_ray(engine, error) from error
        except ray.exceptions.RayActorError as error:
            raise EngineStartError(
                f"the actor of {engine.launch.name} died while starting: {error}{self._log_text(engine)}"
            ) from error

    async def _check(self, engine: _Engine) -> None:
        try:
            await asyncio.wait_for(_result(engine.actor.health.remote()), ANSWER_TIMEOUT_S)
        except TimeoutError:
            raise EngineLost(
                f"the actor of {engine.launch.name} did not answer for {ANSWER_TIMEOUT_S:.0f} s{self._log_text(engine)}"
            ) from None
        except ray.exceptions.OutOfMemoryError as error:
            raise self._ended_by_ray(engine, error) from error
        except ray.exceptions.RayActorError as error:
            raise EngineLost(f"the actor of {engine.launch.name} died: {error}{self._log_text(engine)}") from error

    def _ended_by_ray(self, engine: _Engine, error: Exception) -> EngineOutOfMemory:
        return EngineOutOfMemory(
            f"the actor of {engine.launch.name} was ended by Ray, as its host ran out of memory: {error}"
        )

    def _log_text(self, engine: _Engine) -> str:
        """The end of an engine's newest log, where this node can read it."""
        logs = sorted(self._log_dir.glob(f"{engine.launch.name}-*.log"), key=lambda path: path.stat().st_mtime)
        return f"; last lines of {logs[-1]}:\n{tail(logs[-1], 25)}" if logs else ""

    def _running_router(self) -> Router:
        if self._router is None:
            raise RuntimeError("the fleet is not started")
        return self._router


async def _result(ref: Any) -> Any:
    """Await a Ray call, with errors of this room as themselves rather than inside Ray's wrapper."""
    try:
        return await ref
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EngineError):
            raise error.cause from None
        raise


async def _answered[T](call: Awaitable[T], complaint: str) -> T:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await call
    except TimeoutError:
        raise WaitTimeout(f"{complaint} within {ANSWER_TIMEOUT_S:.0f} s") from None


async def _stop(engine: _Engine) -> None:
    """In good order if the actor answers; its death ends the server in any case."""
    # One that does not answer is killed all the same, and its guard ends the server.
    with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
        await asyncio.wait_for(_result(engine.actor.stop.remote()), STOP_TIMEOUT_S)
    ray.kill(engine.actor, no_restart=True)


def _first(errors: BaseExceptionGroup[EngineError]) -> EngineError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, EngineError)
    return error
