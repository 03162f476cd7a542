"""The client against a scripted server: retries, and answers that must not become data."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from engines.client import GenerateClient
from engines.config import SamplingConfig
from engines.errors import EngineLost, EngineRefused, WaitTimeout
from engines.types import FinishReason

type Answer = Callable[[dict[str, Any]], web.Response] | asyncio.Event


def good(request: dict[str, Any], **meta: Any) -> web.Response:
    fields = {
        "weight_version": "3",
        "finish_reason": {"type": "length", "length": 2},
        "output_token_logprobs": [[-0.5, 11, None], [-1.5, 12, None]],
    }
    return web.json_response({"text": "ab", "output_ids": [11, 12], "meta_info": fields | meta})


@dataclass
class Server:
    """Answers /generate from a script; the last entry repeats. An event means: hang until it is set."""

    url: str = ""
    script: list[Answer] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.seen.append(body)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if isinstance(answer, asyncio.Event):
                await answer.wait()
                return web.Response()
            return answer(body)
        finally:
            self._now -= 1

    async def abort(self, request: web.Request) -> web.Response:
        self.aborted.append((await request.json())["rid"])
        return web.Response()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/generate", server.generate)
    app.router.add_post("/abort_request", server.abort)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


def client(server: Server, **options: Any) -> GenerateClient:
    return GenerateClient(server.url, **({"max_concurrency": 4, "request_timeout_s": 20.0} | options))


SAMPLING = SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=5, stop=("x",), stop_token_ids=(2,))


async def test_ids_log_probs_version_and_finish_reason_are_the_engines(server: Server) -> None:
    server.script = [good]
    async with client(server) as to:
        generation = await to.generate([1, 2, 3], SAMPLING, rid="r1", max_new_tokens=2)
    assert generation.output_ids == [11, 12]
    assert generation.log_probs == [-0.5, -1.5]
    assert (generation.weight_version, generation.finish_reason, generation.text) == (3, FinishReason.LENGTH, "ab")
    assert generation.rid == "r1"
    (body,) = server.seen
    assert body["input_ids"] == [1, 2, 3] and body["rid"] == "r1~0" and body["return_logprob"] is True
    assert body["sampling_params"] == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": -1,
        "max_new_tokens": 2,
        "stop": ["x"],
        "no_stop_trim": True,
        "stop_token_ids": [2],
    }


async def test_a_busy_or_broken_connection_is_tried_again_under_a_new_id(server: Server) -> None:
    def drop(body: dict[str, Any]) -> web.Response:
        raise asyncio.CancelledError  # aiohttp closes the connection without an answer

    def broken_behind_router(body: dict[str, Any]) -> web.Response:
        error = {"type": "Internal Server Error", "code": "call_upstream_request_error", "message": "error sending"}
        return web.json_response({"error": error}, status=500)

    server.script = [lambda _: web.Response(status=503, text="no workers"), drop, broken_behind_router, good]
    async with client(server) as to:
        assert (await to.generate([1], SAMPLING, rid="r")).output_ids == [11, 12]
    assert [body["rid"] for body in server.seen] == ["r~0", "r~1", "r~2", "r~3"]


async def test_retries_end(server: Server) -> None:
    server.script = [lambda _: web.Response(status=503, text="no workers")]
    async with client(server, retry_window_s=0.3) as to:
        with pytest.raises(EngineLost, match="no workers"):
            await asyncio.wait_for(to.generate([1], SAMPLING, rid="r"), 10)


async def test_nobody_listening_is_engine_lost() -> None:
    async with GenerateClient("http://127.0.0.1:9", max_concurrency=1, request_timeout_s=5, retry_window_s=0.2) as to:
        with pytest.raises(EngineLost, match=r"127\.0\.0\.1:9"):
            await asyncio.wait_for(to.generate([1], SAMPLING, rid="r"), 10)


async def test_a_refused_request_is_not_tried_again(server: Server) -> None:
    server.script = [lambda _: web.Response(status=400, text="input is longer than the context")]
    async with client(server) as to:
        with pytest.raises(EngineRefused, match="longer than the context"):
            await to.generate([1], SAMPLING, rid="r")
    assert len(server.seen) == 1


async def test_an_engine_that_hangs_is_given_up_and_told_so(server: Server) -> None:
    server.script = [asyncio.Event()]
    async with client(server, request_timeout_s=0.3) as to:
        with pytest.raises(WaitTimeout, match="request r was not answered"):
            await asyncio.wait_for(to.generate([1], SAMPLING, rid="r"), 10)
    assert server.aborted == ["r~0"]


async def test_a_cancelled_request_is_ended_at_the_engine(server: Server) -> None:
    server.script = [asyncio.Event()]
    async with client(server) as to:
        task = asyncio.create_task(to.generate([1], SAMPLING, rid="r"))
        async with asyncio.timeout(10):
            while not server.seen:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert server.aborted == ["r~0"]


@pytest.mark.parametrize(
    ("meta", "text"),
    [
        ({"output_token_logprobs": [[-0.5, 11, None]]}, "2 output ids do not match the ids of 1 log-prob"),
        ({"output_token_logprobs": [[-0.5, 11, None], [-0.5, 13, None]]}, "do not match"),
        ({"output_token_logprobs": [[-0.5, 11, None], [None, 12, None]]}, "token 1 of 2 is not a finite"),
        ({"finish_reason": {"type": "boredom"}}, "'boredom' is not a valid FinishReason"),
        ({"weight_version": "default"}, "holds no published weights"),
        ({"weight_version": "mixed"}, "holds no published weights"),
    ],
)
async def test_an_answer_that_would_mislabel_tokens_is_refused(server: Server, meta: dict[str, Any], text: str) -> None:
    server.script = [lambda body: good(body, **meta)]
    async with client(server) as to:
        with pytest.raises(EngineRefused, match=text):
            await to.generate([1], SAMPLING, rid="r")


async def test_an_answer_without_log_probs_is_refused(server: Server) -> None:
    server.script = [lambda _: web.json_response({"output_ids": [1], "meta_info": {}})]
    async with client(server) as to:
        with pytest.raises(EngineRefused, match="output_token_logprobs"):
            await to.generate([1], SAMPLING, rid="r")


async def test_requests_in_flight_are_bounded(server: Server) -> None:
    server.script = [good]
    async with client(server, max_concurrency=3) as to:
        await asyncio.gather(*(to.generate([1], SAMPLING, rid=f"r{i}") for i in range(20)))
    assert len(server.seen) == 20
    assert 1 <= server.most_at_once <= 3


async def test_abort_ends_calls_by_the_beginning_of_their_id_and_no_others(server: Server) -> None:
    """The engine knows only whole ids, and ends what begins with one; those that wait for their turn never reach it."""
    server.script = [asyncio.Event()]
    async with client(server, max_concurrency=3) as to:
        names = ["a-1", "a-10", "b-1", "a-2", "b-2"]
        calls = {name: asyncio.create_task(to.generate([1], SAMPLING, rid=name)) for name in names}
        async with asyncio.timeout(10):
            while len(server.seen) < 3:
                await asyncio.sleep(0.01)
        await to.abort("a-")
        waited = await asyncio.wait_for(calls["a-2"], 10)
        assert (waited.output_ids, waited.finish_reason) == ([], FinishReason.ABORT)
        assert sorted(server.aborted) == ["a-10~0", "a-1~0"]
        assert not any(a != b and a.startswith(b) for a in server.aborted for b in server.aborted)
        assert not calls["b-1"].done() and not calls["b-2"].done()
        for call in calls.values():
            call.cancel()
        await asyncio.gather(*calls.values(), return_exceptions=True)


async def test_an_empty_prompt_is_refused_before_it_kills_an_engine(server: Server) -> None:
    server.script = [good]
    async with client(server) as to:
        with pytest.raises(EngineRefused, match="request r: the prompt is empty"):
            await to.generate([], SAMPLING, rid="r")
    assert server.seen == []


async def test_every_sampling_parameter_reaches_the_engine(server: Server) -> None:
    server.script = [good]
    sampling = SamplingConfig(min_p=0.1, max_new_tokens=9, min_new_tokens=4, ignore_eos=True, skip_special_tokens=False)
    async with client(server) as to:
        await to.generate([1], sampling, rid="r")
        await to.generate([1], sampling, rid="s", max_new_tokens=3)
    expected = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.1, "max_new_tokens": 9, "min_new_tokens": 4}
    expected |= {"ignore_eos": True, "skip_special_tokens": False}
    assert server.seen[0]["sampling_params"] == expected
    assert server.seen[1]["sampling_params"] == expected | {"max_new_tokens": 3, "min_new_tokens": 3}


async def test_a_turn_is_given_back_when_its_call_is_cancelled_in_the_queue(server: Server) -> None:
    server.script = [good]
    async with client(server, max_concurrency=1) as to:
        for _ in range(20):
            calls = [asyncio.create_task(to.generate([1], SAMPLING, rid=f"r{i}")) for i in range(6)]
            await asyncio.sleep(0)
            for call in calls[1::2]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        assert (await asyncio.wait_for(to.generate([1], SAMPLING, rid="last"), 10)).output_ids == [11, 12]
