"""Weight updates as SGLang's HTTP endpoints take them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from engines.errors import EngineLost, EngineRefused
from engines.protocols import CollectivePlan, PauseMode, TensorMeta

# Callers set tighter deadlines; this one ends a call that everybody forgot.
_TIMEOUT = aiohttp.ClientTimeout(total=3600.0, sock_connect=10.0)


@dataclass(frozen=True, slots=True)
class SGLangReceiver:
    """The address of one launch of an SGLang server. Control calls go to it directly: the router passes none."""

    name: str
    url: str
    num_ranks: int
    model_path: str
    incarnation: str
    """Differs between two launches at one address: a process group of the first is unknown to the second."""
    caches_prefixes: bool = True

    async def pause(self, mode: PauseMode) -> None:
        await self._post("/pause_generation", {"mode": mode})

    async def join(self, plan: CollectivePlan) -> None:
        await self._post(
            "/init_weights_update_group",
            {
                "master_address": plan.master_address,
                "master_port": plan.master_port,
                "rank_offset": plan.rank_offset,
                "world_size": plan.world_size,
                "group_name": plan.group,
                "backend": plan.backend,
            },
        )

    async def load(self, group: str, bucket: Sequence[TensorMeta]) -> None:
        # Without flush_cache: with requests in flight SGLang's scheduler dies of a failed assertion.
        await self._post(
            "/update_weights_from_distributed",
            {
                "names": [meta.name for meta in bucket],
                "dtypes": [meta.dtype for meta in bucket],
                "shapes": [list(meta.shape) for meta in bucket],
                "group_name": group,
                "load_format": "flattened_bucket",
                "flush_cache": False,
            },
        )

    async def commit(self, version: int) -> bool:
        flushed = await self._flush()
        await self._label(str(version))
        return flushed

    async def invalidate(self) -> None:
        await self._label("mixed")

    async def leave(self, group: str) -> None:
        await self._post("/destroy_weights_update_group", {"group_name": group})

    async def resume(self) -> None:
        await self._post("/continue_generation", {})

    async def drain(self, grace_s: float) -> None:
        if await self._flush(wait_s=grace_s):
            return
        await self.pause("abort")
        try:
            if not await self._flush(wait_s=grace_s):
                raise EngineRefused(f"{self.name} has requests left after aborting all: its cache is stale")
        finally:
            await self.resume()

    async def weight_version(self) -> int | None:
        return parse_version((await self._call("GET", "/model_info"))["weight_version"])

    async def abort(self, rid: str) -> None:
        """End the request ``rid``, and with it those whose id begins with it; one that the engine does not hold is
        ignored, and then they are too."""
        await self._post("/abort_request", {"rid": rid})

    async def _label(self, version: str) -> None:
        await self._post("/update_weight_version", {"new_version": version, "abort_all_requests": False})

    async def _flush(self, wait_s: float = 0.0) -> bool:
        """Drop cached prefixes; False when requests are still there after ``wait_s``."""
        if not self.caches_prefixes:
            return True
        try:
            await self._post(f"/flush_cache?timeout={wait_s:g}", None)
        except EngineRefused:
            return False
        return True

    async def _post(self, path: str, body: dict[str, Any] | None) -> Any:
        return await self._call("POST", path, body)

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as http,
                http.request(method, self.url + path, json=body) as reply,
            ):
                if reply.status >= 400:
                    raise EngineRefused(f"{self.name} answered {reply.status} to {path}: {(await reply.text())[:2000]}")
                return await reply.json() if reply.content_type == "application/json" else None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineLost(f"{self.name} at {self.url} did not answer {path}: {error!r}") from error


def parse_version(label: str) -> int | None:
    """SGLang's label as a version; None for its initial 'default' and for what :meth:`invalidate` sets."""
    return int(label) if label.isdecimal() else None
