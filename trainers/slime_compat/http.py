"""What slime's functions call over HTTP, with a deadline."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import httpx

RETRIES = 60
RETRY_PAUSE_S = 1.0
TIMEOUT_S = 1800.0
_RETRIED_STATUS = frozenset({429, 502, 503, 504})
_KEPT = 256
_direct: set[str] = set()
_clients: dict[tuple[asyncio.AbstractEventLoop, bool], httpx.AsyncClient] = {}


async def post(
    url: str,
    payload: dict[str, Any],
    use_http2: bool = False,
    max_retries: int = RETRIES,
    headers: dict[str, str] | None = None,
) -> Any:
    """POST ``payload`` as JSON and return the answer's JSON, or its text if it is none. Tried again, at most
    ``max_retries`` times, when nobody took it; a refusal raises ``httpx.HTTPStatusError`` with what was said."""
    del use_http2  # one request at a time: there is nothing to multiplex
    timeout = httpx.Timeout(TIMEOUT_S, connect=10.0)
    return await _answered(lambda: _client(url).post(url, json=payload, headers=headers, timeout=timeout), max_retries)


async def get(url: str) -> Any:
    """The answer's JSON."""
    return await _answered(lambda: _client(url).get(url, timeout=30.0), 3)


def reach_directly(netloc: str) -> None:
    """What is at ``host:port`` is of the run: no proxy that the environment names lies before it."""
    _direct.add(netloc)


def _client(url: str) -> httpx.AsyncClient:
    """One for each event loop, as connections belong to theirs."""
    direct = urlsplit(url).netloc in _direct
    key = (asyncio.get_running_loop(), direct)
    if key not in _clients:
        for each in list(_clients):  # other threads' loops have theirs in it, too
            if each[0].is_closed():
                _clients.pop(each, None)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT)
        transport = httpx.AsyncHTTPTransport(limits=limits) if direct else None
        _clients[key] = httpx.AsyncClient(limits=limits, transport=transport)
    return _clients[key]


async def _answered(send: Any, max_retries: int) -> Any:
    attempt = 0
    while True:
        attempt += 1
        try:
            answer: httpx.Response = await send()
            if answer.status_code not in _RETRIED_STATUS or attempt > max_retries:
                break
        except httpx.TransportError:
            if attempt > max_retries:
                raise
        await asyncio.sleep(RETRY_PAUSE_S)
    if answer.is_error:
        raise httpx.HTTPStatusError(
            f"{answer.status_code} from {answer.request.url}: {answer.text[:2000]}",
            request=answer.request,
            response=answer,
        )
    try:
        return answer.json()
    except ValueError:
        return answer.text
