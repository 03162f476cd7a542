"""A service that judges: what it is sent, when it is asked again, and what it may answer."""

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from engines.types import Sample, SampleStatus
from tests.unit.rollout.hostile_strings import hostile
from trainers.config.reward import RemoteRewardConfig
from trainers.errors import RolloutFailed
from trainers.rollout.rewards import remote
from trainers.rollout.rewards.remote import RemoteReward
from trainers.rollout.rewards.verdict import Verdict


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)


def sample(index: int = 4) -> Sample:
    return Sample(
        index, 0, prompt="p", response=f"r{index}", label="l", status=SampleStatus.COMPLETED, metadata={"difficulty": 2}
    )


def service(handle: Callable[[httpx.Request], Any], **fields: Any) -> RemoteReward:
    config = RemoteRewardConfig(url="http://judge.test/score", **fields)
    return RemoteReward(config, transport=httpx.MockTransport(handle))


async def test_one_sample_a_request_is_what_slimes_services_expect() -> None:
    asked: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(200, json=0.5)

    judge = service(handle)
    assert await judge(sample()) == Verdict(0.5)
    assert asked == [{"prompt": "p", "response": "r4", "label": "l", "metadata": {"difficulty": 2}}]
    await judge.close()


async def test_one_who_asks_as_soon_as_it_is_answered_is_answered_again() -> None:
    judge = service(lambda _: httpx.Response(200, json=0.5), max_concurrency=1)
    async with asyncio.timeout(5):
        assert [await judge(sample(index)) for index in range(5)] == [Verdict(0.5)] * 5
    await judge.close()


async def test_an_object_is_kept_whole_and_gives_the_reward_under_its_key() -> None:
    judge = service(lambda _: httpx.Response(200, json={"score": 1, "why": "right"}), reward_key="score")
    assert await judge(sample()) == Verdict(1.0, {"score": 1, "why": "right"})
    await judge.close()


async def test_a_batch_is_what_waits_and_every_sample_gets_its_own_reward() -> None:
    sizes: list[int] = []

    async def handle(request: httpx.Request) -> httpx.Response:
        samples = json.loads(request.content)["samples"]
        sizes.append(len(samples))
        await asyncio.sleep(0)
        return httpx.Response(200, json={"rewards": [int(each["response"][1:]) for each in samples]})

    judge = service(handle, batch_size=8, max_concurrency=2)
    found = await asyncio.gather(*(judge(sample(i)) for i in range(100)))
    assert found == [Verdict(float(i)) for i in range(100)]
    assert max(sizes) == 8
    assert sum(sizes) == 100
    assert len(sizes) <= 15
    await judge.close()


async def test_ten_thousand_hostile_strings_reach_the_service_as_they_are() -> None:
    heard: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        samples = json.loads(request.content)["samples"]
        heard.extend(each["response"] for each in samples)
        return httpx.Response(200, json={"rewards": [0] * len(samples)})

    judge = service(handle, batch_size=100)
    responses = hostile(10_000)
    found = await asyncio.gather(*(judge(dataclasses.replace(sample(), response=each)) for each in responses))
    assert found == [Verdict(0.0)] * 10_000
    assert sorted(heard) == sorted(responses)
    await judge.close()


async def test_no_more_requests_are_under_way_than_allowed() -> None:
    now = most = 0

    async def handle(request: httpx.Request) -> httpx.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return httpx.Response(200, json=1)

    judge = service(handle, max_concurrency=3)
    await asyncio.gather(*(judge(sample(i)) for i in range(30)))
    assert most == 3
    await judge.close()


async def test_a_busy_or_lost_service_is_asked_again() -> None:
    answers: list[Any] = [
        httpx.ConnectError("refused"),
        httpx.Response(503),
        httpx.Response(429),
        httpx.ReadError("cut"),
        *[httpx.Response(502)] * 6,
    ]

    def handle(request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0) if answers else httpx.Response(200, json=1)
        if isinstance(answer, Exception):
            raise answer
        return answer

    judge = service(handle)
    assert await judge(sample()) == Verdict(1.0)
    assert not answers
    await judge.close()


@pytest.mark.parametrize(
    ("answer", "fields", "message"),
    [
        (httpx.Response(500, text="boom"), {"max_retries": 2}, "sample 4 failed 3 times: status 500: .boom"),
        (httpx.Response(404, text="gone"), {}, "refused with status 404: 'gone'"),
        (httpx.Response(200, text="fine"), {}, "answered 'fine', which is no JSON"),
        (httpx.Response(200, text="[" * 5000), {}, "which is no JSON"),
        (httpx.Response(200, json="1"), {}, "answered '1': expected a finite number"),
        (httpx.Response(200, text="null"), {}, "answered None: expected a finite number"),
        (httpx.Response(200, text="NaN"), {}, "answered nan: expected a finite number"),
        (httpx.Response(200, json={"score": 1}), {}, r"expected a finite number; reward\.reward_key"),
        (httpx.Response(200, json={"acc": 1}), {"reward_key": "score"}, "expected the key 'score'"),
        (httpx.Response(200, json=1), {"reward_key": "score"}, "expected an object with the key 'score'"),
        (httpx.Response(200, json=[1]), {"batch_size": 2}, r"expected \{'rewards': \[\.\.\.\]\} with 1 elements"),
        (httpx.Response(200, json={"rewards": [1, 2]}), {"batch_size": 2}, "with 1 elements"),
    ],
)  # fmt: skip
async def test_what_is_no_reward_ends_the_rollout_and_says_what_came(
    answer: httpx.Response, fields: dict[str, Any], message: str
) -> None:
    judge = service(lambda _: answer, **fields)
    with pytest.raises(RolloutFailed, match=message):
        await judge(sample())
    await judge.close()


async def test_a_service_that_does_not_answer_in_time_gives_no_reward() -> None:
    async def handle(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    judge = service(handle, timeout_s=0.05)
    assert await judge(sample()) is None
    await judge.close()


async def test_a_service_that_fails_until_the_deadline_is_an_error_not_a_slow_one() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    judge = service(handle, timeout_s=0.05)
    with pytest.raises(RolloutFailed, match=r"failed until reward\.timeout_s was over: ConnectError: refused"):
        await judge(sample())
    await judge.close()


async def test_a_cancelled_sample_does_not_disturb_the_others() -> None:
    gate = asyncio.Event()

    async def handle(request: httpx.Request) -> httpx.Response:
        await gate.wait()
        return httpx.Response(200, json=1)

    judge = service(handle, max_concurrency=1)
    tasks = [asyncio.create_task(judge(sample(i))) for i in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    gate.set()
    assert [await tasks[0], await tasks[2]] == [Verdict(1.0)] * 2
    await judge.close()
