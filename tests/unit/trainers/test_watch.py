"""What a run is told when one of its parts is lost."""

import asyncio
from typing import Any, NoReturn

import pytest

from engines.errors import EngineLost, EngineRefused
from trainers.outcome import end_of
from trainers.reports import EndReason
from trainers.watch import watched


async def lost(when: asyncio.Event) -> NoReturn:
    await when.wait()
    raise EngineLost("engine-0 is gone")


async def ended(body: Any, **options: Any) -> tuple[EndReason, str]:
    """How a run ends that consists of ``body``, which is given what makes the loss happen."""
    when = asyncio.Event()
    with pytest.raises(BaseException) as error:
        async with asyncio.timeout(20), watched(lost(when), **options):
            await body(when)
    return end_of(error.value)


async def test_a_loss_ends_what_would_wait_for_ever() -> None:
    async def body(when: asyncio.Event) -> None:
        when.set()
        await asyncio.Event().wait()

    assert await ended(body) == (EndReason.ENGINE_LOST, "engine-0 is gone")


@pytest.mark.parametrize(("dying_s", "reason"), [(20.0, EndReason.ENGINE_LOST), (0.05, EndReason.ROLLOUT_FAILED)])
async def test_nonsense_of_an_engine_is_its_loss_when_that_follows_soon(dying_s: float, reason: EndReason) -> None:
    async def body(when: asyncio.Event) -> None:
        if reason is EndReason.ENGINE_LOST:
            asyncio.get_running_loop().call_later(0.1, when.set)
        raise EngineRefused("status 500")

    assert (await ended(body, dying_s=dying_s))[0] is reason


async def test_the_bodys_own_failure_is_the_reason_and_its_end_ends_the_watch() -> None:
    async def body(when: asyncio.Event) -> None:
        raise MemoryError("no room")

    assert await ended(body) == (EndReason.OUT_OF_MEMORY, "no room")
    async with asyncio.timeout(20), watched(lost(asyncio.Event())):
        pass
