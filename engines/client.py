"""Token ids in, token ids out: the way to generate through a router or a single engine."""

import asyncio
import random
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from engines.config import SamplingConfig
from engines.errors import EngineLost, EngineRefused, WaitTimeout
from engines.sglang.weights import parse_version
from engines.turns import Turns
from engines.types import FinishReason, Generation

_RETRIED_STATUS = frozenset({429, 502, 503, 504})
_LOST_BEHIND_ROUTER = b'"call_upstream_'
"""In a router's answer of status 500: its connection to the engine broke."""
_RETRY_WINDOW_S = 60.0
"""How long a request that reached no engine is tried again: a router that restarts, an engine that is swapped."""
_ABORTS_AT_ONCE = 64
_UNSEEN = -1
"""The weight version of a response without a token that no engine began."""


class GenerateClient:
    """Speaks SGLang's ``/generate``. Use it within one event loop, as ``async with`` or with :meth:`close`.

    ``max_concurrency``: requests in flight at most; further calls wait their turn.
    ``request_timeout_s``: for one call of :meth:`generate`, from the moment that its turn comes, retries included.
    """

    def __init__(
        self,
        base_url: str,
        *,
        max_concurrency: int,
        request_timeout_s: float,
        retry_window_s: float = _RETRY_WINDOW_S,
    ):
        self._base_url = base_url.rstrip("/")
        self._turns = Turns(max_concurrency)
        self._aborts = asyncio.Semaphore(_ABORTS_AT_ONCE)
        self._in_flight: set[str] = set()
        self._timeout_s = request_timeout_s
        self._retry_window_s = retry_window_s
        self._session: aiohttp.ClientSession | None = None

    async def generate(
        self,
        input_ids: Sequence[int],
        sampling: SamplingConfig,
        *,
        rid: str,
        max_new_tokens: int | None = None,
    ) -> Generation:
        """Sample one continuation of ``input_ids``.

        ``rid`` must be unique among requests in flight, and hold no ``~``. ``max_new_tokens`` overrides the sampling
        config's. The log-probabilities are those of softmax(logits / temperature), before top-p, top-k and min-p cut
        it: what a trainer computes when it divides its logits by the temperature. With ``top_k=1`` SGLang samples
        greedily and reports temperature 1.

        Raises EngineRefused for a request or an answer that is wrong, EngineLost when no engine could be reached,
        WaitTimeout when the engine was too slow.
        """
        if not input_ids:
            raise EngineRefused(f"request {rid}: the prompt is empty: an engine needs at least one token id")
        if not await self._turns.take(rid):
            return Generation(rid, [], [], FinishReason.ABORT, _UNSEEN, "")
        try:
            return await self._generate(input_ids, sampling, rid, max_new_tokens)
        finally:
            self._turns.give_back()

    async def _generate(
        self, input_ids: Sequence[int], sampling: SamplingConfig, rid: str, max_new_tokens: int | None
    ) -> Generation:
        started = time.monotonic()
        attempt = 0
        failing_since: float | None = None
        while True:
            # An engine may still hold the request of the attempt before: an id of its own for each. And an engine
            # ends all whose id begins as the aborted one: no id may begin another.
            this_rid = f"{rid}~{attempt}"
            body = _body(input_ids, sampling, this_rid, max_new_tokens)
            remaining = self._timeout_s - (time.monotonic() - started)
            self._in_flight.add(this_rid)
            try:
                return parse_generation(await self._post("/generate", body, max(remaining, 0.001)), rid=rid)
            except _Unreachable as error:
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > self._retry_window_s or remaining <= 0:
                    raise EngineLost(
                        f"{self._base_url} took no request for {self._retry_window_s:.0f} s: {error}"
                    ) from error
            except TimeoutError as error:
                await self._abort_quietly(this_rid)
                raise WaitTimeout(
                    f"request {rid} was not answered within engine.request_timeout_s = {self._timeout_s:.0f} s"
                ) from error
            except asyncio.CancelledError:
                await asyncio.shield(self._abort_quietly(this_rid))
                raise
            finally:
                self._in_flight.discard(this_rid)
            attempt += 1
            await asyncio.sleep(random.uniform(0.5, 1.0) * min(0.05 * 2**attempt, 2.0))

    async def abort(self, rid: str) -> None:
        """End all calls of :meth:`generate` whose id begins with ``rid``: they return what they have, with finish
        reason ``abort``; those that still wait for their turn, nothing. One that is just on its way to an engine may
        be missed: call again while any is left. Raises EngineLost.

        Goes to the engines themselves, as the router passes no such call and does not tell which engine has which
        request; an engine ignores the ids that it does not have.
        """
        self._turns.send_away(rid)
        if ids := [each for each in self._in_flight if each.startswith(rid)]:
            try:
                urls = await self._engine_urls()
                await asyncio.gather(*(self._abort_at(url, each) for each in ids for url in urls))
            except (aiohttp.ClientError, TimeoutError) as error:
                raise EngineLost(
                    f"the engines behind {self._base_url} could not be told to abort: {error!r}"
                ) from error

    async def close(self) -> None:
        """Safe to call again."""
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            # The semaphore bounds the connections; a second bound here would only hide behind it.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0))
        return self._session

    async def _post(self, path: str, body: bytes, timeout_s: float) -> Any:
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=10.0)
        try:
            async with self._http.post(
                self._base_url + path, data=body, headers={"Content-Type": "application/json"}, timeout=timeout
            ) as reply:
                content = await reply.read()
        except aiohttp.ClientError as error:
            raise _Unreachable(repr(error)) from error
        if reply.status in _RETRIED_STATUS or (reply.status == 500 and _LOST_BEHIND_ROUTER in content):
            raise _Unreachable(f"status {reply.status}: {content[:500].decode(errors='replace')}")
        if reply.status >= 400:
            raise EngineRefused(f"status {reply.status} to {path}: {content[:2000].decode(errors='replace')}")
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise EngineRefused(f"the answer to {path} is no JSON: {content[:200]!r}") from error

    async def _engine_urls(self) -> list[str]:
        async with self._http.get(f"{self._base_url}/workers", timeout=aiohttp.ClientTimeout(total=10.0)) as reply:
            if reply.status != 200:
                return [self._base_url]  # no router: the engine itself
            return [worker["url"] for worker in (await reply.json(content_type=None))["workers"]]

    async def _abort_at(self, url: str, rid: str) -> None:
        async with self._aborts:
            if rid in self._in_flight:
                await self._tell_to_abort(url, rid)

    async def _tell_to_abort(self, url: str, rid: str) -> None:
        timeout = aiohttp.ClientTimeout(total=10.0)
        async with self._http.post(f"{url}/abort_request", json={"rid": rid}, timeout=timeout) as reply:
            await reply.read()

    async def _abort_quietly(self, rid: str) -> None:
        """For a request that nobody waits for any more: an engine that cannot be told is no further error."""
        try:
            async with asyncio.timeout(5.0):
                await asyncio.gather(*(self._tell_to_abort(url, rid) for url in await self._engine_urls()))
        except (aiohttp.ClientError, TimeoutError):
            pass


class _Unreachable(Exception):
    """No engine took the request: worth another try."""


def _body(input_ids: Sequence[int], sampling: SamplingConfig, rid: str, max_new_tokens: int | None) -> bytes:
    params: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_new_tokens": sampling.max_new_tokens if max_new_tokens is None else max_new_tokens,
    }
    if sampling.min_p:
        params["min_p"] = sampling.min_p
    if sampling.min_new_tokens:
        params["min_new_tokens"] = min(sampling.min_new_tokens, params["max_new_tokens"])
    if sampling.ignore_eos:
        params["ignore_eos"] = True
    if not sampling.skip_special_tokens:
        params["skip_special_tokens"] = False
    if sampling.stop:
        params["stop"] = list(sampling.stop)
        params["no_stop_trim"] = True  # the text stays what the ids say
    if sampling.stop_token_ids:
        params["stop_token_ids"] = list(sampling.stop_token_ids)
    ids = input_ids if isinstance(input_ids, list) else list(input_ids)
    return orjson.dumps(
        {"rid": rid, "input_ids": ids, "sampling_params": params, "return_logprob": True, "stream": False}
    )


def parse_generation(answer: Any, *, rid: str) -> Generation:
    """A ``/generate`` answer as a Generation. Raises EngineRefused for one that could mislabel a token."""
    try:
        meta = answer["meta_info"]
        output_ids = list(answer["output_ids"])
        entries = meta["output_token_logprobs"]
        finish = FinishReason((meta["finish_reason"] or {}).get("type", "abort"))
        label = str(meta["weight_version"])
        text = answer.get("text", "")
    except (KeyError, TypeError, ValueError) as error:
        raise EngineRefused(
            f"request {rid}: the engine's answer cannot be read ({error!r}): {str(answer)[:500]}"
        ) from error
    log_probs, logged_ids = [entry[0] for entry in entries], [entry[1] for entry in entries]
    if logged_ids != output_ids:
        raise EngineRefused(
            f"request {rid}: {len(output_ids)} output ids do not match the ids of {len(logged_ids)} log-probabilities"
        )
    if None in log_probs:  # as JSON spells what is not finite
        raise EngineRefused(
            f"request {rid}: the log-probability of token {log_probs.index(None)} of {len(log_probs)} is not a finite "
            "number: what the engine computes with overflows, or its weights do"
        )
    version = parse_version(label)
    if version is None:
        raise EngineRefused(
            f"request {rid}: the engine reports weight version {label!r}: it holds no published weights"
        )
    return Generation(
        rid=rid,
        output_ids=output_ids,
        log_probs=[float(each) for each in log_probs],
        finish_reason=finish,
        weight_version=version,
        text=text,
    )
