"""The cluster is Ray. The API's process never touches it: Ray waits for minutes for a cluster that is gone, and ends
its process when it gives up. A process of its own (:mod:`controlplane.cluster.ray_calls`) makes the calls; it is killed
when an answer is late, and started again for the next call.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from controlplane.cluster.base import ClusterUnavailable, DriverSeen, DriverStatus
from trainers.reports import Launch

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 15.0
DESCRIBE_CONNECT_S = 4.0
_LINE_LIMIT = 32 << 20
# What drivers on this cluster should know as the API does, unless their spec says otherwise.
_PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME")


class RayCluster:
    """Implements :class:`controlplane.cluster.base.Cluster`.

    ``address`` is asked before every call: ``host:port``, or None while the cluster is down. After a restart of the
    cluster at another address the next call goes there.
    """

    def __init__(
        self,
        address: Callable[[], str | None],
        *,
        token_path: Path,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._address = address
        self._token_path = token_path
        self._connect_timeout_s = connect_timeout_s
        self._call_timeout_s = call_timeout_s
        self._caller: _Caller | None = None
        self._connecting: asyncio.Task[_Caller] | None = None
        self._refusal: str | None = None
        """Why the last attempt to connect failed, while there is no connection."""

    def connect(self) -> None:
        """Begin to connect, so that the first call need not wait for all of it. Needs a running event loop."""
        address = self._address()
        if self._connecting is None and self._caller is None and address is not None:
            self._connecting = asyncio.create_task(
                _Caller.start(address, self._token_path, self._connect_timeout_s), name="connect to Ray"
            )
            self._connecting.add_done_callback(self._note)

    async def start_driver(self, name: str, launch: Launch) -> None:
        runtime: dict[str, Any] = launch.spec.get("runtime", {})
        env_vars = {key: os.environ[key] for key in _PASSED_ON if key in os.environ} | runtime.get("env_vars", {})
        if python_path := runtime.get("python_path"):
            env_vars["PYTHONPATH"] = os.pathsep.join(
                [*python_path, *filter(None, [env_vars.get("PYTHONPATH", os.environ.get("PYTHONPATH"))])]
            )
        await self._call("start_driver", name=name, launch=launch.model_dump(mode="json"), env_vars=env_vars)

    async def observe(self, name: str) -> DriverSeen:
        seen = await self._call("observe", name=name)
        return DriverSeen(DriverStatus(seen["status"]), seen["detail"])

    async def release(self, name: str) -> bool:
        return bool(await self._call("release", name=name))

    async def describe(self) -> str:
        """Says soon that there is no connection, and why: who asks does not wait for as long as others."""
        try:
            async with asyncio.timeout(DESCRIBE_CONNECT_S):
                await self._connected()
        except TimeoutError as error:
            raise self._still_connecting() from error
        return str(await self._call("describe"))

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._caller is not None:
            await self._caller.end()

    async def _call(self, operation: str, **arguments: Any) -> Any:
        try:
            async with asyncio.timeout(self._call_timeout_s):
                caller = await self._connected()
                return await caller.call(operation, arguments)
        except TimeoutError as error:
            if self._caller is not None:  # connected, and silent
                await self._discard(self._caller)
                raise ClusterUnavailable(
                    f"Ray at {self._address()} did not answer ({operation}) within {self._call_timeout_s:g} s"
                ) from error
            raise self._still_connecting() from error

    def _still_connecting(self) -> ClusterUnavailable:
        before = f"; before: {self._refusal}" if self._refusal else ""
        return ClusterUnavailable(f"still connecting to Ray at {self._address()}{before}")

    def _note(self, connecting: "asyncio.Task[_Caller]") -> None:
        """Also of an attempt that no call waited for."""
        if not connecting.cancelled():
            error = connecting.exception()
            self._refusal = str(error) if error else None

    async def _connected(self) -> "_Caller":
        address = self._address()
        if self._caller is not None and (self._caller.address != address or not self._caller.alive):
            await self._discard(self._caller)
        if self._caller is not None:
            return self._caller
        if address is None:
            raise ClusterUnavailable("the local Ray cluster is down: run `rollway up`")
        self.connect()
        connecting = self._connecting
        if connecting is None:  # another call was first
            return await self._connected()
        try:
            caller = await asyncio.shield(connecting)
        except ClusterUnavailable:
            if self._connecting is connecting:
                self._connecting = None
            raise
        if self._connecting is connecting:
            self._connecting = None
            self._caller = caller
        return caller

    async def _discard(self, caller: "_Caller") -> None:
        if self._caller is caller:
            self._caller = None
        await caller.end()


class _Caller:
    """One process that is connected to Ray, and the calls that it has in hand."""

    def __init__(self, address: str, process: Process) -> None:
        self.address = address
        self._process = process
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._reader = asyncio.create_task(self._read(), name="answers from Ray")

    @classmethod
    async def start(cls, address: str, token_path: Path, timeout_s: float) -> "_Caller":
        """Raises ClusterUnavailable: nothing listens there, it refuses the token, or it is silent."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(5.0):  # cheaper to learn this way than from a process that imports Ray
                _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterUnavailable(f"nothing answers at {address}: {error or 'no answer'}") from error
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from controlplane.cluster.ray_calls import main; main()",
            address,
            stdin=PIPE,
            stdout=PIPE,
            limit=_LINE_LIMIT,
            env=_environment(token_path),
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await process.stdout.readline()
        except TimeoutError as error:
            raise ClusterUnavailable(
                f"Ray at {address} let nobody in within {timeout_s:g} s: is the token in {token_path} its own?"
            ) from error
        else:
            hello: dict[str, Any] = json.loads(line) if line else {"error": "the connecting process died, see the log"}
            if "error" not in hello:
                connected, process = cls(address, process), None
                return connected
            raise ClusterUnavailable(
                f"Ray at {address} refused the connection (is the token in {token_path} its own?): {hello['error']}"
            )
        finally:
            if process is not None:
                await _kill(process)

    @property
    def alive(self) -> bool:
        return not self._reader.done()

    async def call(self, operation: str, arguments: dict[str, Any]) -> Any:
        self._count += 1
        number = self._count
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(
                json.dumps({"id": number, "operation": operation, "arguments": arguments}).encode() + b"\n"
            )
            await self._process.stdin.drain()
            return await answer
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ClusterUnavailable(f"the connection to Ray at {self.address} is lost") from error
        finally:
            self._waiting.pop(number, None)

    async def end(self) -> None:
        self._reader.cancel()
        self._fail(f"the connection to Ray at {self.address} was given up")
        await _kill(self._process)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            reply = cast("dict[str, Any]", json.loads(line))
            answer = self._waiting.get(reply["id"])
            if answer is None or answer.done():
                continue
            if "error" in reply:
                answer.set_exception(ClusterUnavailable(reply["error"]))
            else:
                answer.set_result(reply["result"])
        self._fail(f"the connection to Ray at {self.address} is lost")

    def _fail(self, text: str) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ClusterUnavailable(text))


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()


def _environment(token_path: Path) -> dict[str, str]:
    """Always a token of ours: one that another program left behind would decide whether the connection hangs."""
    kept = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    return kept | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
