"""Tokens per second through client and router, against the same requests sent straight to the engine.

python benchmarks/generation.py [--model DIRECTORY] [--requests 64] [--tokens 64]
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp

from engines.client import GenerateClient
from engines.config import Accelerator, EngineConfig, SamplingConfig
from engines.hardware import resolve
from engines.router import Router
from engines.sglang.actor import EngineLaunch, SGLangEngine
from tests.e2e.tiny_model import build_tiny_model

HOST = "127.0.0.1"
REPEATS = 5


async def main(model: Path | None, num_requests: int, num_tokens: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        model = model or build_tiny_model(directory / "model")
        launch = EngineLaunch(
            0, str(model), EngineConfig(dtype="auto"), resolve(Accelerator.AUTO), tp_size=1, log_dir=directory
        )
        engine = SGLangEngine(launch, HOST)
        router = Router(host=HOST, log_dir=directory, request_timeout_s=600.0)
        try:
            print("starting the engine: imports take half a minute and more")
            _, receiver = await asyncio.gather(router.start(), engine.start())
            await receiver.commit(0)
            await router.register(receiver.url, timeout_s=60.0)
            ours: list[float] = []
            bare: list[float] = []
            # By turns, so that a machine that gets slower slows both.
            for repeat in range(-1, REPEATS):
                rates = (
                    await through_client(router.url, num_requests, num_tokens, repeat),
                    await straight(receiver.url, num_requests, num_tokens),
                )
                if repeat >= 0:
                    ours.append(rates[0])
                    bare.append(rates[1])
        finally:
            await router.close()
            await engine.stop()
    print(f"{num_requests} requests × {num_tokens} tokens, median of {REPEATS}")
    print(f"client and router  {statistics.median(ours):8.0f} tok/s   ({min(ours):.0f} to {max(ours):.0f})")
    print(f"bare /generate     {statistics.median(bare):8.0f} tok/s   ({min(bare):.0f} to {max(bare):.0f})")
    print(f"ratio              {statistics.median(ours) / statistics.median(bare):8.2f}")


async def through_client(url: str, num_requests: int, num_tokens: int, repeat: int) -> float:
    sampling = SamplingConfig(max_new_tokens=num_tokens)
    async with GenerateClient(url, max_concurrency=num_requests, request_timeout_s=600.0) as client:
        started = time.perf_counter()
        generations = await asyncio.gather(
            *(client.generate(_prompt(i), sampling, rid=f"bench-{repeat}-{i}") for i in range(num_requests))
        )
        return sum(len(generation.output_ids) for generation in generations) / (time.perf_counter() - started)


async def straight(url: str, num_requests: int, num_tokens: int) -> float:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def one(i: int) -> int:
            body = {
                "input_ids": _prompt(i),
                "sampling_params": {"temperature": 1.0, "max_new_tokens": num_tokens},
                "return_logprob": True,
            }
            async with http.post(f"{url}/generate", json=body) as reply:
                return len((await reply.json())["output_ids"])

        started = time.perf_counter()
        counts = await asyncio.gather(*(one(i) for i in range(num_requests)))
        return sum(counts) / (time.perf_counter() - started)


def _prompt(i: int) -> list[int]:
    return [5 + (i + j) % 90 for j in range(16)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    asyncio.run(main(options.model, options.requests, options.tokens))
