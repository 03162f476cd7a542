"""The OpenAI endpoint of a job, through real sockets: the API on one side, a router of the test on the other."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from controlplane.app import create_app
from controlplane.settings import Settings
from tests.service.conftest import QUICK
from tests.service.scripted import API_KEY, Api, Driver, ScriptedCluster


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """``app`` behind uvicorn on a free port of the loopback."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:
            await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)


@dataclass
class Router:
    """What the proxied requests looked like when they arrived."""

    headers: list[dict[str, str]] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    first_chunk: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/slow", self.slow, methods=["POST"]),
                Route("/v1/upload", self.upload, methods=["POST"]),
                Route("/v1/cut", self.cut),
            ]
        )

    async def models(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        answer = {"data": ["toy"], "query": str(request.url.query)}
        return JSONResponse(answer, headers={"X-Router": "yes", "Keep-Alive": "timeout=5"})

    async def chat(self, request: Request) -> Response:
        body = await request.json()

        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield f"data: {json.dumps(body['messages'])}\n\n".encode()
                await self.go_on.wait()
                yield b"data: [DONE]\n\n"
            finally:
                self.ended.set()

        return StreamingResponse(chunks(), media_type="text/event-stream")

    async def completions(self, request: Request) -> Response:
        return JSONResponse({"asked": (await request.body()).decode(), "length": request.headers["content-length"]})

    async def slow(self, request: Request) -> Response:
        await request.body()
        self.first_chunk.set()
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        self.ended.set()
        return Response(status_code=499)

    async def upload(self, request: Request) -> Response:
        total = 0
        async for chunk in request.stream():
            total += len(chunk)
            self.first_chunk.set()
        return JSONResponse({"bytes": total, "length": request.headers.get("content-length")})

    async def cut(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"half"
            raise ConnectionResetError("the router died")

        return StreamingResponse(chunks(), media_type="text/plain")


@dataclass
class Path:
    api: Api
    router: Router
    job_id: str
    driver: Driver
    base_url: str


@pytest.fixture
async def through(database_url: str, settings: Settings) -> AsyncIterator[Path]:
    cluster, router = ScriptedCluster(), Router()
    app = create_app(
        settings,
        database_url=database_url,
        api_key=API_KEY,
        cluster=cluster,
        public_url="http://api.test",
        timing=QUICK,
    )
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(listening(router.app()))
        url = await stack.enter_async_context(listening(app))
        headers = {"Authorization": f"Bearer {API_KEY}"}
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, timeout=20))
        api = Api(client, cluster)
        job_id = await api.submit()
        driver = await api.driver(job_id)
        driver.launch = driver.launch.model_copy(
            update={"report_url": driver.launch.report_url.replace("http://api.test", url)}
        )
        await driver.tell(driver.serving(f"{upstream}/v1"))
        await api.until(job_id, "running")
        yield Path(api, router, job_id, driver, f"/v1/jobs/{job_id}/openai/v1")


async def test_requests_arrive_as_sent_without_the_key_and_answers_as_given(through: Path) -> None:
    response = await through.api.http.get(
        f"{through.base_url}/models?a=1&b=x%20y",
        headers={"X-Mine": "kept", "Connection": "keep-alive, X-Hop", "X-Hop": "1"},
    )
    assert response.status_code == 200
    assert response.json() == {"data": ["toy"], "query": "a=1&b=x%20y"}
    assert response.headers["x-router"] == "yes"
    arrived = through.router.headers[0]
    assert arrived["x-mine"] == "kept"
    assert not {"authorization", "x-hop", "keep-alive"} & set(arrived)
    assert API_KEY not in json.dumps(arrived)
    missing = await through.api.http.get(f"{through.base_url}/nothing")
    assert missing.status_code == 404
    assert missing.text == "Not Found", "the router's own words"


async def test_an_answer_streams_chunk_by_chunk(through: Path) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with through.api.http.stream("POST", f"{through.base_url}/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        chunks = response.aiter_raw()
        first = await asyncio.wait_for(anext(chunks), 10)
        assert first == b'data: [{"role": "user", "content": "hi"}]\n\n'
        assert not through.router.ended.is_set(), "the first chunk came while the router was still at work"
        through.router.go_on.set()
        assert b"".join([chunk async for chunk in chunks]) == b"data: [DONE]\n\n"


async def test_a_body_streams_to_the_router_while_it_is_sent(through: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        async with asyncio.timeout(10):
            await through.router.first_chunk.wait()
        yield b"y" * 500

    response = await through.api.http.post(f"{through.base_url}/upload", content=body())
    assert response.json() == {"bytes": 1500, "length": None}
    whole = await through.api.http.post(f"{through.base_url}/upload", content=b"z" * 300_000)
    assert whole.json() == {"bytes": 300_000, "length": "300000"}


async def test_hanging_up_in_the_middle_of_an_answer_ends_the_request_at_the_router(through: Path) -> None:
    body = {"messages": [], "stream": True}
    async with through.api.http.stream("POST", f"{through.base_url}/chat/completions", json=body) as response:
        await asyncio.wait_for(anext(response.aiter_raw()), 10)
    await asyncio.wait_for(through.router.ended.wait(), 10)


async def test_hanging_up_before_the_answer_begins_ends_the_request_at_the_router(through: Path) -> None:
    asking = asyncio.create_task(through.api.http.post(f"{through.base_url}/slow", json={}))
    await asyncio.wait_for(through.router.first_chunk.wait(), 10)
    asking.cancel()
    await asyncio.wait_for(through.router.ended.wait(), 10)


async def test_an_answer_that_the_router_cuts_off_is_cut_off_for_the_client_too(through: Path) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await through.api.http.get(f"{through.base_url}/cut")


async def test_a_router_that_does_not_answer_is_a_502_that_says_so(through: Path) -> None:
    await through.driver.tell(through.driver.serving("http://127.0.0.1:9/v1"))
    response = await through.api.http.post(f"{through.base_url}/chat/completions", json={"messages": []})
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "bad_gateway"
    assert "http://127.0.0.1:9" in response.json()["error"]["message"]


async def test_a_job_that_serves_nothing_is_a_409_that_says_so(through: Path) -> None:
    await through.driver.tell(through.driver.finished())
    await through.api.until(through.job_id, "succeeded")
    response = await through.api.http.get(f"{through.base_url}/models")
    assert response.status_code == 409
    assert "it is succeeded" in response.json()["error"]["message"]
    assert (await through.api.http.get("/v1/jobs/job_none/openai/v1/models")).status_code == 404


async def test_a_path_cannot_leave_the_openai_endpoint(through: Path) -> None:
    for path in ("..%2Fflush_cache", "%2e%2e/flush_cache", "a/..%2f..%2fflush_cache"):
        response = await through.api.http.get(f"{through.base_url}/{path}")
        assert response.status_code in (400, 404), path
        assert "error" in response.json()


async def test_forty_requests_at_once_share_the_connections(through: Path) -> None:
    begun = time.monotonic()
    answers = await asyncio.gather(
        *(through.api.http.get(f"{through.base_url}/models?n={number}") for number in range(40))
    )
    assert [answer.json()["query"] for answer in answers] == [f"n={number}" for number in range(40)]
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("prompt", ["", [], ["a", ""], [[1], []]])
async def test_an_empty_prompt_is_refused_before_it_kills_the_engine(through: Path, prompt: Any) -> None:
    for path, name in (("completions", "prompt"), ("completions", "input_ids"), ("/completions/", "prompt")):
        response = await through.api.http.post(f"{through.base_url}/{path}", json={"model": "toy", name: prompt})
        assert response.status_code == 400
        assert response.json()["error"]["message"].startswith(f"{name} must not be empty")


@pytest.mark.parametrize("body", [b'{"prompt":"Hello", "max_tokens": 1}', b"no json", b"[]", b'{"prompt":[1,2]}'])
async def test_other_completions_arrive_as_sent(through: Path, body: bytes) -> None:
    response = await through.api.http.post(f"{through.base_url}/completions", content=body)
    assert response.json() == {"asked": body.decode(), "length": str(len(body))}
