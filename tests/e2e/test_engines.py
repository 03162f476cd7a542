"""A real SGLang engine behind a real router, fed with weights over a real process group. One engine for all tests:
they run in order, and the last one kills it."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil
import pytest
import ray

from engines.config import EngineConfig, ResourcesConfig, SamplingConfig
from engines.errors import EngineLost, EngineRefused, EngineStartError, PlacementTimeout, WeightSyncError
from engines.hardware import Hardware
from engines.placement import reserve
from engines.protocols import TensorMeta
from engines.router import Router
from engines.sglang.actor import EngineLaunch, SGLangEngine
from engines.sglang.weights import SGLangReceiver
from engines.types import FinishReason, Sample
from tests.e2e.conftest import RunningFleet
from tests.e2e.hf_trainer import HFTrainer
from tests.unit.rollout.scripted import Prompts, context
from trainers.rollout.buffer import Buffer
from trainers.rollout.context_length import context_length
from trainers.rollout.default import generate_rollout
from trainers.rollout.protocols import RolloutContext

# An engine alone takes half a minute to import what it needs, and minutes beside other work.
pytestmark = pytest.mark.timeout(900)

PROMPT = [40, 41, 42, 43]


@pytest.fixture(scope="module")
async def trainer(running: RunningFleet, tiny_model: Path) -> AsyncIterator[Any]:
    actor = ray.remote(HFTrainer).options(num_cpus=0.5).remote(str(tiny_model))
    await actor.ready.remote()
    yield actor
    ray.kill(actor)


async def raw_generate(url: str) -> dict[str, Any]:
    """Past the router and the client."""
    body = {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": 4}}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
        http.post(f"{url}/generate", json=body) as reply,
    ):
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def worst_difference(running: RunningFleet, trainer: Any, temperature: float, rid: str) -> tuple[float, int]:
    """Largest |engine − Hugging Face| over the log-probabilities of 16 sampled tokens or more, and their version."""
    sampling = SamplingConfig(temperature=temperature, max_new_tokens=16)
    generations = await asyncio.gather(*(running.client.generate(PROMPT, sampling, rid=f"{rid}-{i}") for i in range(8)))
    assert sum(len(generation.output_ids) for generation in generations) >= 16
    worst = 0.0
    for generation in generations:
        expected = await trainer.log_probs.remote(PROMPT, generation.output_ids, temperature)
        worst = max([worst, *(abs(a - b) for a, b in zip(generation.log_probs, expected, strict=True))])
    (version,) = {generation.weight_version for generation in generations}
    return worst, version


async def test_an_engine_without_published_weights_gets_no_requests(running: RunningFleet) -> None:
    (receiver,) = running.fleet.receivers()
    assert [line.split(" ready")[0] for line in sorted(running.progress)] == ["engine-0", "router"]
    assert await receiver.weight_version() is None
    with pytest.raises(EngineLost, match=r"engine-0 reports weight version None, not 0"):
        await running.fleet.admit(0)
    with pytest.raises(EngineLost):
        await running.client.generate(PROMPT, SamplingConfig(max_new_tokens=2), rid="early")
    assert (await raw_generate(receiver.url))["meta_info"]["weight_version"] == "default"


async def test_ten_updates_each_reach_the_engine_whole(running: RunningFleet, trainer: Any) -> None:
    receivers = running.fleet.receivers()
    num_bytes = set()
    for version in range(10):
        await trainer.change.remote(version)
        stats = await trainer.send.remote(receivers, version)
        num_bytes.add(stats.num_bytes)
        assert stats.version == version
        assert stats.buckets > 3
        if version == 0:
            await running.fleet.admit(0)
        difference, seen = await worst_difference(running, trainer, (1.0, 0.6)[version % 2], f"update-{version}")
        assert seen == version
        assert difference < 1e-3
    assert len(num_bytes) == 1


async def test_a_gate_that_expects_another_version_stays_shut(running: RunningFleet, trainer: Any) -> None:
    await trainer.send.remote(running.fleet.receivers(), 10)
    with pytest.raises(EngineLost, match="reports weight version 10, not 11"):
        await running.fleet.admit(11)
    await running.fleet.admit(10)  # a second time is no error


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"cut": "model.layers.1.self_attn.q_proj.weight"}, r"q_proj.weight has shape \[63, 64\].*\[64, 64\]"),
        ({"leave_out": "model.norm.weight"}, r"1 tensors .* were not sent.*model\.norm\.weight"),
    ],
)
async def test_a_wrong_update_is_refused_and_the_next_one_heals(
    running: RunningFleet, trainer: Any, wrong: dict[str, str], text: str
) -> None:
    receivers = running.fleet.receivers()
    with pytest.raises(WeightSyncError, match=text):
        await asyncio.wait_for(_send(trainer, receivers, 11, **wrong), 30)
    # What it holds is a mixture by now: it answers, and nothing that it says is taken for data.
    assert (await raw_generate(receivers[0].url))["meta_info"]["weight_version"] == "mixed"
    with pytest.raises(EngineRefused, match="holds no published weights"):
        await running.client.generate(PROMPT, SamplingConfig(max_new_tokens=2), rid="mixed")
    await trainer.send.remote(receivers, 11)
    difference, seen = await worst_difference(running, trainer, 1.0, f"healed-{text[:5]}")
    assert (difference < 1e-3, seen) == (True, 11)


@dataclass(frozen=True, slots=True)
class _Misspelling(SGLangReceiver):
    """The real engine, asked for an element type that does not exist: it answers 400 and never enters the broadcast."""

    async def load(self, group: str, bucket: Sequence[TensorMeta]) -> None:
        await SGLangReceiver.load(self, group, [TensorMeta(m.name, m.shape, "float33") for m in bucket])


async def test_an_engine_that_refuses_leaves_no_broadcast_hanging(
    running: RunningFleet, trainer: Any, tiny_model: Path
) -> None:
    (receiver,) = running.fleet.receivers()
    odd = _Misspelling(receiver.name, receiver.url, receiver.num_ranks, receiver.model_path, receiver.incarnation)
    sender = HFTrainer(str(tiny_model))
    started = time.monotonic()
    with pytest.raises(WeightSyncError, match=r"engine-0 answered 400.*float33"):
        await sender.send([odd], 12, timeout_s=100.0)
    assert time.monotonic() - started < 20
    await raw_generate(receiver.url)
    await trainer.send.remote([receiver], 12)
    assert (await worst_difference(running, trainer, 1.0, "after-refusal"))[0] < 1e-3


async def test_an_engine_that_cannot_be_reached_fails_the_update_and_the_others_go_on(
    running: RunningFleet, trainer: Any
) -> None:
    (receiver,) = running.fleet.receivers()
    gone = SGLangReceiver("engine-9", "http://127.0.0.1:9", 1, receiver.model_path, "gone")
    with pytest.raises(WeightSyncError, match=r"pausing engine-9.*must be replaced: engine-9"):
        await asyncio.wait_for(_send(trainer, [receiver, gone], 13), 60)
    difference, seen = await worst_difference(running, trainer, 1.0, "others")
    assert (difference < 1e-3, seen) == (True, 12)


@pytest.mark.parametrize("mode", ["abort", "retract", "in_place"])
async def test_requests_in_flight_survive_an_update_as_its_mode_says(
    running: RunningFleet, trainer: Any, mode: str
) -> None:
    (receiver,) = running.fleet.receivers()
    flight = await _in_flight(receiver.url, f"flight-{mode}")
    await trainer.send.remote([receiver], 13, pause_mode=mode)
    answer = await asyncio.wait_for(flight, 30)
    count, reason = len(answer["output_ids"]), answer["meta_info"]["finish_reason"]["type"]
    if mode == "abort":
        assert reason == FinishReason.ABORT and 0 < count < 400
    else:
        assert (reason, count) == (FinishReason.LENGTH, 400)
    difference, seen = await worst_difference(running, trainer, 1.0, f"after-{mode}")
    assert (difference < 1e-3, seen) == (True, 13)


async def test_a_request_can_be_ended_from_outside_with_what_it_has(running: RunningFleet) -> None:
    (receiver,) = running.fleet.receivers()
    flight = await _in_flight(receiver.url, "long")
    await receiver.abort("long")
    answer = await asyncio.wait_for(flight, 20)
    assert answer["meta_info"]["finish_reason"]["type"] == FinishReason.ABORT
    assert 0 < len(answer["output_ids"]) < 400


async def test_a_rollout_stops_what_it_does_not_need_and_the_next_one_goes_on_with_it(
    running: RunningFleet, trainer: Any
) -> None:
    class SomeShort(Prompts):
        """The first two prompts are answered in 4 tokens; all others take 160, long after the rollout is over."""

        def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
            groups = super().next_groups(n_prompts, n_samples)
            for sample in (sample for group in groups for sample in group):
                sample.tokens = list(PROMPT)
                sample.metadata = {"sampling_params": {"max_new_tokens": 4}} if sample.group_index < 2 else {}
            return groups

    (receiver,) = running.fleet.receivers()
    await trainer.send.remote([receiver], 60)
    data = Buffer(SomeShort())

    def rollout(version: int, over_sampling: int) -> RolloutContext:
        return context(
            running.client,
            data=data,
            version=version,
            rollout_batch_size=2,
            over_sampling_batch_size=over_sampling,
            n_samples_per_prompt=3,
            partial_rollout=True,
            sampling={"max_new_tokens": 160, "ignore_eos": True},
            timeout_s=120,
        )

    first = await generate_rollout(rollout(60, 6), 0)
    assert [[sample.response_length for sample in group] for group in first.groups] == [[4] * 3, [4] * 3]
    assert first.metrics["num_groups_given_back"] == data.num_waiting == 4
    assert 0 < first.metrics["num_tokens_carried_over"] < 12 * 160
    await running.fleet.name_weights(61)  # the same weights under another name: one model has all log-probabilities
    second = await generate_rollout(rollout(61, 2), 1)
    assert second.metrics["num_groups_resumed"] == 2
    for sample in (sample for group in second.groups for sample in group):
        assert sample.weight_versions == sorted(sample.weight_versions)
        assert set(sample.weight_versions) == {60, 61}, "cut in the middle of its response"
        assert (sample.tokens[:4], sample.response_length) == (PROMPT, 160)
        expected = await trainer.log_probs.remote(PROMPT, sample.tokens[4:], 1.0)
        assert sample.rollout_log_probs == pytest.approx(expected, abs=1e-3)


async def test_the_router_serves_the_openai_protocol(running: RunningFleet, tiny_model: Path) -> None:
    body = {"model": str(tiny_model), "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{running.fleet.base_url}/v1/chat/completions", json=body) as reply,
    ):
        assert reply.status == 200, await reply.text()
        answer = await reply.json()
    assert answer["usage"]["prompt_tokens"] == 4  # <user> h i <assistant>


async def test_the_longest_prompt_that_leaves_room_is_taken(running: RunningFleet, tiny_model: Path) -> None:
    limit = context_length(str(tiny_model), {})
    assert limit is not None
    sampling = SamplingConfig(max_new_tokens=1, ignore_eos=True)
    generation = await running.client.generate([5] * (limit - 1), sampling, rid="longest")
    assert len(generation.output_ids) == 1
    with pytest.raises(EngineRefused, match="maximum allowed length"):
        await running.client.generate([5] * limit, sampling, rid="longer")


async def test_a_request_that_is_too_long_is_refused_with_the_engines_words(running: RunningFleet) -> None:
    with pytest.raises(EngineRefused, match="context length"):
        await running.client.generate([5] * 600, SamplingConfig(max_new_tokens=2), rid="too-long")


@pytest.mark.parametrize(
    "prompt",
    [{"text": "\r"}, {"text": ["hi", "\r"]}, {"input_ids": []}, {"input_ids": [[]]}, {"input_ids": [PROMPT, []]}],
    ids=str,
)
async def test_a_prompt_without_a_token_is_refused_and_the_engine_goes_on(
    running: RunningFleet, prompt: dict[str, Any]
) -> None:
    (receiver,) = running.fleet.receivers()
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
        http.post(f"{receiver.url}/generate", json=prompt | {"sampling_params": {"max_new_tokens": 2}}) as reply,
    ):
        assert (reply.status, "error" in await reply.json()) == (400, True)
    await raw_generate(receiver.url)


async def test_room_that_the_cluster_lacks_is_reported_in_time(ray_cluster: str, hardware: Hardware) -> None:
    asked = ResourcesConfig(actor_num_gpus_per_node=1000, rollout_num_gpus=3, placement_timeout_s=1.0)
    with pytest.raises(PlacementTimeout, match=r"1 × \[500 CPU\], 3 × \[0\.5 CPU\]; node [\d.]+: .* free of 8 CPU"):
        await reserve(asked, hardware, name="too-much")
    again = await reserve(ResourcesConfig(placement_timeout_s=20.0), hardware, name="too-much")
    await again.release()


async def test_an_option_that_sglang_lacks_fails_the_start_with_the_nearest_name(
    tiny_model: Path, hardware: Hardware, tmp_path: Path
) -> None:
    config = EngineConfig(start_timeout_s=120.0, sglang={"max_total_token": 5})
    engine = SGLangEngine(EngineLaunch(0, str(tiny_model), config, hardware, 1, tmp_path), host="127.0.0.1")
    with pytest.raises(EngineStartError, match=r"sglang\.max_total_token is no option.*did you mean max_total_tokens"):
        await engine.start()


async def test_a_router_that_is_killed_is_noticed(tmp_path: Path) -> None:
    router = Router(host="127.0.0.1", log_dir=tmp_path, request_timeout_s=5.0)
    await router.start()
    try:
        router.check()
        assert router._process is not None
        [process] = psutil.Process(router._process.pid).children()
        process.kill()
        with pytest.raises(EngineLost, match=r"the router ended with status 137; last lines of \S+/router-\d+\.log"):
            async with asyncio.timeout(20):
                while True:
                    router.check()
                    await asyncio.sleep(0.02)
    finally:
        await router.close()


async def test_sigkill_of_the_engines_actor_leaves_no_process_and_is_noticed(running: RunningFleet) -> None:
    (described,) = await running.fleet.describe()
    guard = psutil.Process(int(str(described["guard_pid"])))
    tree = [guard, *guard.children(recursive=True)]
    assert len(tree) >= 4  # guard, server, scheduler, detokenizer
    watch = asyncio.create_task(running.fleet.watch())
    os.kill(int(str(described["actor_pid"])), signal.SIGKILL)
    _, alive = await asyncio.to_thread(psutil.wait_procs, tree, 30)
    assert alive == []
    with pytest.raises(EngineLost, match=r"(?s)the actor of engine-0 died.*last lines of .*engine-0-"):
        await asyncio.wait_for(watch, 60)
    await running.fleet.close()
    await running.fleet.close()


async def _send(trainer: Any, receivers: Sequence[SGLangReceiver], version: int, **options: Any) -> Any:
    return await trainer.send.remote(receivers, version, **options)


async def _stream(url: str, rid: str, begun: asyncio.Event) -> dict[str, Any]:
    """400 tokens at most, past router and client; the last chunk. ``begun`` is set with the first."""
    sampling = {"max_new_tokens": 400, "ignore_eos": True}
    body = {"rid": rid, "input_ids": PROMPT, "sampling_params": sampling, "stream": True}
    last = b""
    async with aiohttp.ClientSession() as http, http.post(f"{url}/generate", json=body) as reply:
        async for line in reply.content:
            if line.startswith(b"data: {"):
                last = line
                begun.set()
    return orjson.loads(last.removeprefix(b"data: "))


async def _in_flight(url: str, rid: str) -> asyncio.Task[dict[str, Any]]:
    """A request that has begun to generate."""
    begun = asyncio.Event()
    task = asyncio.create_task(_stream(url, rid, begun))
    await asyncio.wait_for(begun.wait(), 20)
    return task
