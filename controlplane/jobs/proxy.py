"""Passes OpenAI requests on to a job's own router: streamed both ways, ended when the client hangs up."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any, cast
from urllib.parse import quote

import aiohttp
import orjson
from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from starlette.types import Receive, Scope, Send
from yarl import URL

from controlplane.db import Database
from controlplane.errors import BadGateway, BadRequest, Conflict, ControlPlaneError, NotFound
from controlplane.jobs import repository as jobs
from controlplane.jobs.models import JobRow
from controlplane.jobs.schemas import ErrorBody, ErrorView
from controlplane.jobs.states import JobState

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 4096

# RFC 9110 §7.6.1, and what belongs to this hop: its address and its key.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
_OURS = frozenset({b"host", b"authorization", b"expect"})

# RFC 3986 §3.3: what a path may hold as it is.
_PATH_CHARACTERS = "/:@!$&'()*+,;=~"


class Upstream:
    """The one client for all routers: its connections are pooled and reused."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def proxy_router(database: Database, upstream: Upstream) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs/{job_id}/openai/v1", tags=["generation"])

    async def relay(job_id: str, path: str, request: Request) -> Response:
        """The job's OpenAI endpoint: `base_url` of any OpenAI client, with the API key of this installation."""
        base, timeout_s = await _endpoint(database, job_id)
        if any(segment in (".", "..") for segment in path.split("/")):
            raise BadRequest("the path must not hold '.' or '..'")
        query = f"?{request.url.query}" if request.url.query else ""
        url = URL(f"{base}/{quote(path, safe=_PATH_CHARACTERS)}{query}", encoded=True)
        body = None
        if request.method == "POST" and path.strip("/") == "completions":
            body = await request.body()
            _refuse_empty_prompt(body)
        return Relay(upstream.session, request.method, url, timeout_s, body=body)

    router.add_api_route("/{path:path}", relay, methods=["GET"], name="openai_get", response_class=Response)
    router.add_api_route("/{path:path}", relay, methods=["POST"], name="openai_post", response_class=Response)
    return router


async def _endpoint(database: Database, job_id: str) -> tuple[str, float]:
    jobs.check_id(job_id)
    timeout = JobRow.spec["engine"]["request_timeout_s"].as_float()
    async with database.read() as session:
        statement = select(JobRow.state, JobRow.router_url, timeout).where(JobRow.id == job_id)
        found = (await session.execute(statement)).one_or_none()
    if found is None:
        raise NotFound(f"there is no job {job_id}")
    state, router_url, timeout_s = found[0], found[1], found[2]
    if state != JobState.RUNNING or router_url is None:
        raise Conflict(f"the job serves nothing now: it is {state}; it serves while it is running")
    return router_url, timeout_s


class Relay(Response):
    """An answer that is fetched while it is given."""

    def __init__(
        self, session: aiohttp.ClientSession, method: str, url: URL, timeout_s: float, *, body: bytes | None = None
    ) -> None:
        """``body``: the request's, if it was read already."""
        super().__init__()
        self._body = body
        self._session = session
        self._method = method
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inbound = _Inbound(receive, self._body)
        work = asyncio.create_task(self._forward(scope, inbound, send))
        gone = asyncio.create_task(inbound.wait_until_gone())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:  # the client hung up, or the server shuts down: leaving the request ends it at the router too
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _forward(self, scope: Scope, inbound: "_Inbound", send: Send) -> None:
        headers = _end_to_end(scope["headers"], also_without=_OURS)
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
        if not has_body:
            inbound.nothing_to_read()
        started = False
        try:
            async with self._session.request(
                self._method,
                self._url,
                headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers],
                data=inbound.chunks() if has_body else None,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                started = True
                await send(
                    {
                        "type": "http.response.start",
                        "status": response.status,
                        "headers": _end_to_end((name.lower(), value) for name, value in response.raw_headers),
                    }
                )
                async for chunk in response.content.iter_any():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if inbound.gone:
                return
            reason = str(error) or type(error).__name__
            log.warning("the router at %s failed: %s", self._url.origin(), reason)
            if not started:
                await _answer(send, BadGateway(f"the job's router at {self._url.origin()} did not answer: {reason}"))
            # Otherwise the answer stays unfinished, and the server closes the connection: the client sees it cut off.


class _Inbound:
    """The client's side of the connection: its body, and the moment it hangs up."""

    def __init__(self, receive: Receive, body: bytes | None) -> None:
        self.gone = False
        self._receive = receive
        self._body = body
        self._read = asyncio.Event()

    def nothing_to_read(self) -> None:
        self._read.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._body is not None:
            self._read.set()
            yield self._body
            return
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                self._read.set()
                raise ConnectionResetError("the client hung up")
            if body := message.get("body", b""):
                yield body
            if not message.get("more_body", False):
                self._read.set()
                return

    async def wait_until_gone(self) -> None:
        await self._read.wait()
        while not self.gone:
            self.gone = (await self._receive())["type"] == "http.disconnect"


def _refuse_empty_prompt(body: bytes) -> None:
    """Plainly empty ones are answered here, with the field's name; of text without a token the engine says so."""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        return  # the router says what is wrong with it
    fields = cast("dict[str, Any]", asked) if isinstance(asked, dict) else {}
    for name in ("prompt", "input_ids"):
        given = fields.get(name)
        several = cast("list[Any]", given) if isinstance(given, list) else []
        if given in ("", []) or any(each in ("", []) for each in several):
            raise BadRequest(f"{name} must not be empty: the engine needs at least one token to go on from")


def _end_to_end(
    headers: Iterable[tuple[bytes, bytes]], *, also_without: frozenset[bytes] = frozenset()
) -> list[tuple[bytes, bytes]]:
    """``headers`` (names in lower case) without those that concern one hop only."""
    given = list(headers)
    listed = {part.strip().lower() for name, value in given if name == b"connection" for part in value.split(b",")}
    return [(name, value) for name, value in given if name not in _HOP_BY_HOP | listed | also_without]


async def _answer(send: Send, error: ControlPlaneError) -> None:
    view = ErrorView(error=ErrorBody(code=error.code, message=error.message, fields=[]))
    body = orjson.dumps(view.model_dump(mode="json"))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
