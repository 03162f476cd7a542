"""What the shipped rollout costs in Python for each sample, beyond the bare HTTP exchange.

python benchmarks/rollout_overhead.py [--samples 4096] [--in-flight 1024] [--prompt-tokens 512] [--tokens 512]

A scripted engine in a process of its own answers each request as SGLang does, some time later, so that all of
``--in-flight`` are under way. Processor time of this process, event loop included: of whole rollouts, less that of the
same exchanges by bare aiohttp, which neither encodes a request nor reads an answer. By turns, so that a machine that
gets slower slows both.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from engines.client import GenerateClient
from engines.types import Sample
from trainers.config import RunConfig
from trainers.rollout.default import generate_rollout
from trainers.rollout.protocols import RolloutContext

ROUNDS = 5
ENGINE_S = 1.0
"""How long the scripted engine takes for each request."""
SAMPLES_PER_PROMPT = 8


def serve(num_tokens: int, port: Connection) -> None:
    """The scripted engine."""
    ids = [1000 + i % 50_000 for i in range(num_tokens)]
    meta = {
        "id": "0" * 24,
        "finish_reason": {"type": "length", "length": num_tokens},
        "prompt_tokens": 512,
        "completion_tokens": num_tokens,
        "weight_version": "0",
        "output_token_logprobs": [[-1.0 / (i % 97 + 1.37), token, None] for i, token in enumerate(ids)],
        "e2e_latency": ENGINE_S,
    }
    answer = orjson.dumps({"text": "word " * num_tokens, "output_ids": ids, "meta_info": meta})

    async def generate(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(ENGINE_S)
        return web.Response(body=answer, content_type="application/json")

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/generate", generate)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


@contextmanager
def scripted_engine(num_tokens: int) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(num_tokens, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(60):
            raise TimeoutError("the scripted engine did not come up within 60 s")
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join(10)


class Prompts:
    """As many as are asked for, each with token ids of its own."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._next = 0

    def __len__(self) -> int:
        return 1 << 20

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        first, self._next = self._next, self._next + n_prompts
        return [
            [
                Sample(group * n_samples + i, group, "a prompt", tokens=list(range(1000, 1000 + self._num_tokens)))
                for i in range(n_samples)
            ]
            for group in range(first, self._next)
        ]

    def put_back(self, groups: Sequence[list[Sample]]) -> None:
        raise AssertionError("nothing is left over")

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None: ...


async def judge(sample: Sample) -> float:
    return float(sample.index % 2)


async def rollout(url: str, num_samples: int, in_flight: int, prompt_tokens: int, num_tokens: int) -> float:
    """Processor seconds for each sample."""
    config = RunConfig.model_validate(
        {
            "model": {"hf_checkpoint": "/none"},
            "data": {"prompt_data": "/none.jsonl"},
            "rollout": {
                "num_rollouts": 1,
                "rollout_batch_size": num_samples // SAMPLES_PER_PROMPT,
                "n_samples_per_prompt": SAMPLES_PER_PROMPT,
                "sampling": {"max_new_tokens": num_tokens},
            },
        }
    )
    async with GenerateClient(url, max_concurrency=in_flight, request_timeout_s=300.0) as client:
        context = RolloutContext(
            config=config,
            data=Prompts(prompt_tokens),
            client=client,
            reward=judge,
            tokenizer=None,
            base_url=url,
            weight_version=0,
            progress=lambda text: None,
        )
        begin = time.process_time()
        output = await generate_rollout(context, 0)
        spent = time.process_time() - begin
    assert sum(sample.response_length for group in output.groups for sample in group) == num_samples * num_tokens
    return spent / num_samples


async def bare(url: str, num_samples: int, in_flight: int, prompt_tokens: int) -> float:
    """The same exchanges, with a request that is encoded once and answers that are not looked at."""
    ids = list(range(1000, 1000 + prompt_tokens))
    body = orjson.dumps({"rid": "rollout-0-1000~0", "input_ids": ids, "return_logprob": True, "sampling_params": {}})
    turns = asyncio.Semaphore(in_flight)
    timeout = aiohttp.ClientTimeout(total=300.0, sock_connect=10.0)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def one() -> None:
            async with (
                turns,
                http.post(
                    f"{url}/generate", data=body, headers={"Content-Type": "application/json"}, timeout=timeout
                ) as reply,
            ):
                await reply.read()

        begin = time.process_time()
        await asyncio.gather(*(one() for _ in range(num_samples)))
        return (time.process_time() - begin) / num_samples


async def main(num_samples: int, in_flight: int, prompt_tokens: int, num_tokens: int) -> None:
    with scripted_engine(num_tokens) as url:
        ours: list[float] = []
        theirs: list[float] = []
        for number in range(-1, ROUNDS):
            spent = (
                await rollout(url, num_samples, in_flight, prompt_tokens, num_tokens),
                await bare(url, num_samples, in_flight, prompt_tokens),
            )
            if number >= 0:
                ours.append(spent[0] * 1e3)
                theirs.append(spent[1] * 1e3)
    more = [a - b for a, b in zip(ours, theirs, strict=True)]
    print(
        f"{num_samples} samples, {in_flight} in flight, {prompt_tokens} prompt and {num_tokens} response tokens each; "
        f"processor time for each sample, median of {ROUNDS}"
    )
    for name, figures in (("rollout", ours), ("bare aiohttp", theirs), ("beyond HTTP", more)):
        print(f"{name:<14}{statistics.median(figures):7.3f} ms   ({min(figures):.3f} to {max(figures):.3f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--in-flight", type=int, default=1024)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=512)
    told = parser.parse_args()
    asyncio.run(main(told.samples, told.in_flight, told.prompt_tokens, told.tokens))
