"""A service judges, over HTTP."""

import asyncio
import itertools
import json
import random
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import httpx

from engines.types import Sample
from trainers.config.reward import RemoteRewardConfig
from trainers.errors import RolloutFailed
from trainers.rollout.rewards.verdict import Verdict, verdict

FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 10.0
_AGAIN = {408, 425, 429}


class RemoteReward:
    """Posts samples to ``reward.url``: one each as ``{prompt, response, label, metadata}``, which is answered by the
    reward; or, with ``batch_size``, ``{"samples": [...]}``, answered by ``{"rewards": [...]}`` in the same order.

    A batch is what waits when a request becomes free, so that no sample waits for others to come.
    """

    def __init__(self, config: RemoteRewardConfig, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._config = config
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._waiting: deque[tuple[Sample, asyncio.Future[Verdict | None]]] = deque()
        self._senders: set[asyncio.Task[None]] = set()

    async def __call__(self, sample: Sample) -> Verdict | None:
        """The verdict, or None when the service did not answer within ``reward.timeout_s`` of the first request.
        Raises RolloutFailed when the service cannot be reached, refuses, or answers with anything else."""
        future: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((sample, future))
        if len(self._senders) < self._config.max_concurrency:
            self._senders.add(asyncio.create_task(self._send_waiting()))
        return await future

    async def close(self) -> None:
        for sender in list(self._senders):
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _send_waiting(self) -> None:
        try:
            await self._send_all()
        finally:
            # Here and not in a callback of the task: who asks before that has run would count on this one.
            self._senders.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _send_all(self) -> None:
        while self._waiting:
            batch: list[tuple[Sample, asyncio.Future[Verdict | None]]] = []
            while self._waiting and len(batch) < (self._config.batch_size or 1):
                each = self._waiting.popleft()
                if not each[1].done():  # its caller may have been cancelled
                    batch.append(each)
            if not batch:
                return
            futures = [future for _, future in batch]
            try:
                verdicts = await self._judge([sample for sample, _ in batch])
                for future, found in zip(futures, verdicts, strict=True):
                    if not future.done():
                        future.set_result(found)
            except asyncio.CancelledError:
                for future in futures:
                    future.cancel()
                raise
            except Exception as error:  # each caller raises it
                for future in futures:
                    if not future.done():
                        future.set_exception(RolloutFailed(*error.args) if isinstance(error, RolloutFailed) else error)

    async def _judge(self, samples: Sequence[Sample]) -> Sequence[Verdict | None]:
        items = [
            {"prompt": each.prompt, "response": each.response, "label": each.label, "metadata": each.metadata}
            for each in samples
        ]
        batched = self._config.batch_size is not None
        try:
            content = json.dumps({"samples": items} if batched else items[0]).encode()
        except (TypeError, ValueError) as error:
            raise RolloutFailed(f"{self._where(samples)}: the sample is no JSON: {error}") from error
        response = await self._post(content, samples)
        if response is None:
            return [None] * len(samples)
        try:
            answer: Any = response.json()
        except (ValueError, RecursionError):
            raise RolloutFailed(f"{self._where(samples)} answered {response.text!r:.200}, which is no JSON") from None
        if not batched:
            return [self._verdict(answer, samples[0])]
        rewards = answer.get("rewards") if isinstance(answer, dict) else None
        if not isinstance(rewards, list) or len(rewards) != len(samples):
            raise RolloutFailed(
                f"{self._where(samples)} answered {answer!r:.200}: expected {{'rewards': [...]}} with {len(samples)} "
                "elements"
            )
        return [self._verdict(each, sample) for each, sample in zip(rewards, samples, strict=True)]

    async def _post(self, content: bytes, samples: Sequence[Sample]) -> httpx.Response | None:
        """The answer; None when the service was too slow. Retries what another try may mend."""
        slip, most, pause = "", self._config.max_retries, FIRST_PAUSE_S
        deadline = asyncio.timeout(self._config.timeout_s)
        try:
            async with deadline:
                for attempt in itertools.count() if most is None else range(most + 1):
                    if attempt:
                        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                        pause = min(2 * pause, MAX_PAUSE_S)
                    try:
                        response = await self._http().post(
                            self._config.url, content=content, headers={"content-type": "application/json"}
                        )
                    except httpx.TransportError as error:
                        slip = f"{type(error).__name__}: {error}"
                        continue
                    if response.status_code < 300:
                        return response
                    slip = f"status {response.status_code}: {response.text!r:.200}"
                    if response.status_code < 500 and response.status_code not in _AGAIN:
                        raise RolloutFailed(f"{self._where(samples)} refused with {slip}")
        except TimeoutError:
            if not deadline.expired():
                raise
            if not slip:
                return None
            raise RolloutFailed(f"{self._where(samples)} failed until reward.timeout_s was over: {slip}") from None
        raise RolloutFailed(f"{self._where(samples)} failed {(most or 0) + 1} times: {slip}")

    def _verdict(self, answer: Any, sample: Sample) -> Verdict:
        try:
            return verdict(answer, self._config.reward_key)
        except ValueError as error:
            shown, expected = error.args
            raise RolloutFailed(f"{self._where([sample])} answered {shown}: expected {expected}") from None

    def _where(self, samples: Sequence[Sample]) -> str:
        others = f" and {len(samples) - 1} more" if len(samples) > 1 else ""
        return f"remote reward {self._config.url}, sample {samples[0].index}{others}"

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=None,  # each request stands under its own deadline
                limits=httpx.Limits(max_connections=self._config.max_concurrency),
                transport=self._transport,
            )
        return self._client
