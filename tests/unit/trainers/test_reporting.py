"""Reports arrive in order and exactly once, whatever the API does meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from trainers.errors import StorageFailed
from trainers.reporting import Reporter
from trainers.reports import (
    EndReason,
    EvaluationReport,
    EventReport,
    FinishedReport,
    Phase,
    Report,
    ReportBatch,
    StepReport,
    Wanted,
)
from trainers.spool import Spool

TOKEN = "t0ken"


@dataclass
class Api:
    """An API that stores what it is sent, and fails when told to."""

    stored: list[Report] = field(default_factory=list)
    requests: int = 0
    failing: bool = False
    garbled: bool = False
    forgets_reply: bool = False
    wanted: Wanted = Wanted.RUN
    superseded: bool = False
    url: str = ""

    async def ingest(self, request: web.Request) -> web.Response:
        self.requests += 1
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        if self.failing:
            return web.Response(status=503)
        if self.garbled:
            return web.Response(text="<html>please sign in</html>", content_type="text/html")
        for report in ReportBatch.model_validate_json(await request.read()).reports:
            if report.seq == self.acked + 1:
                self.stored.append(report)
        if self.forgets_reply:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"acked": self.acked, "wanted": self.wanted.value, "superseded": self.superseded})

    @property
    def acked(self) -> int:
        return len(self.stored)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    api = Api()
    app = web.Application()
    app.router.add_post("/reports", api.ingest)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}/reports"
    yield api
    await runner.cleanup()


def reporter(api: Api, directory: Path, attempt: int = 1) -> Reporter:
    return Reporter(url=api.url, token=TOKEN, spool_directory=directory, attempt=attempt)


async def until(condition: object, timeout_s: float = 5) -> None:
    assert callable(condition)
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_reports_arrive_in_the_order_in_which_they_were_made(api: Api, tmp_path: Path) -> None:
    async with reporter(api, tmp_path) as report:
        report.phase(Phase.GENERATING, "rollout 0")
        for rollout_id in range(700):  # more than one batch
            report.step(rollout_id, rollout_id + 1, {"reward": 0.5})
        report.finished(EndReason.FINISHED, "")
        assert await report.drain(10)
    assert [stored.seq for stored in api.stored] == list(range(1, 703))
    assert [stored.rollout_id for stored in api.stored if isinstance(stored, StepReport)] == list(range(700))


async def test_a_proxy_of_the_environment_is_not_between_the_driver_and_the_api(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with reporter(api, tmp_path) as report:
        report.step(0, 1, {})
        assert await report.drain(3)


async def test_reports_made_while_the_api_fails_arrive_when_it_is_back(api: Api, tmp_path: Path) -> None:
    api.failing = True
    async with reporter(api, tmp_path) as report:
        report.step(0, 1, {})
        report.step(1, 2, {})
        await until(lambda: api.requests > 1)
        assert not await report.drain(0.1)
        api.failing = False
        assert await report.drain(10)
    assert [stored.seq for stored in api.stored] == [1, 2]


async def test_an_answer_that_is_none_of_the_apis_is_no_end_of_the_reports(api: Api, tmp_path: Path) -> None:
    api.garbled = True
    async with reporter(api, tmp_path) as report:
        report.step(0, 1, {})
        await until(lambda: api.requests > 1)
        api.garbled = False
        assert await report.drain(10)
    assert [stored.seq for stored in api.stored] == [1]


async def test_a_reply_that_is_lost_causes_a_second_delivery_and_no_second_fact(api: Api, tmp_path: Path) -> None:
    api.forgets_reply = True
    async with reporter(api, tmp_path) as report:
        report.step(0, 1, {})
        await until(lambda: api.requests > 1)
        api.forgets_reply = False
        assert await report.drain(10)
    assert [stored.seq for stored in api.stored] == [1]


async def test_what_a_dead_attempt_could_not_deliver_is_delivered_by_the_next(api: Api, tmp_path: Path) -> None:
    api.failing = True
    async with reporter(api, tmp_path) as report:
        report.phase(Phase.TRAINING, "a phase is gone with its attempt")
        report.step(0, 1, {"reward": 0.25})
        report.event("engine_started", "engine 0 is up")
        report.evaluation("gsm8k", 1, {"reward": 0.5}, tmp_path / "gsm8k.jsonl")
    with (tmp_path / "attempt-1.jsonl").open("ab") as spool:
        spool.write(b'{"seq":5,"kind":"st')  # the crash cut a line off
    api.failing = False
    async with reporter(api, tmp_path, attempt=2) as report:
        assert await report.drain(10)
    step, event, evaluation = api.stored
    assert isinstance(step, StepReport)
    assert (step.rollout_id, step.metrics) == (0, {"reward": 0.25})
    assert isinstance(event, EventReport)
    assert isinstance(evaluation, EvaluationReport)
    assert (evaluation.name, evaluation.metrics) == ("gsm8k", {"reward": 0.5})
    async with reporter(api, tmp_path, attempt=3) as report:
        assert await report.drain(1)
    assert len(api.stored) == 3


async def test_an_attempt_whose_driver_is_started_a_second_time_goes_on_where_the_first_stopped(
    api: Api, tmp_path: Path
) -> None:
    async with reporter(api, tmp_path) as report:
        report.step(0, 1, {})
        assert await report.drain(10)
        api.failing = True
        report.step(1, 2, {})
    with (tmp_path / "attempt-1.jsonl").open("ab") as spool:
        spool.write(b'{"seq":3,"kind":"st')  # killed as it wrote
    api.failing = False
    async with reporter(api, tmp_path) as report:
        report.step(2, 3, {})
        assert await report.drain(10)
    assert [(stored.seq, stored.rollout_id) for stored in api.stored if isinstance(stored, StepReport)] == [
        (1, 0),
        (2, 1),
        (3, 2),
    ]
    assert [fact.seq for fact in Spool(tmp_path, 2).facts()] == [1, 2, 3]


@pytest.mark.parametrize("written", range(4))
async def test_a_death_while_the_facts_of_the_last_attempt_are_taken_over_loses_and_repeats_none(
    api: Api, tmp_path: Path, written: int
) -> None:
    api.failing = True
    async with reporter(api, tmp_path) as report:
        for rollout_id in range(3):
            report.step(rollout_id, rollout_id + 1, {})
    second = Spool(tmp_path, 2)  # gets as far as to write ``written`` of them, and dies
    for seq, fact in enumerate(second.left_behind()[:written], 1):
        second.append(fact.model_copy(update={"seq": seq}), durable=True)
    second.close()
    api.failing = False
    async with reporter(api, tmp_path, attempt=3) as report:
        assert await report.drain(10)
    assert sorted(stored.rollout_id for stored in api.stored if isinstance(stored, StepReport)) == [0, 1, 2]


async def test_what_is_delivered_again_bears_the_attempt_and_sequence_that_told_it_first(
    api: Api, tmp_path: Path
) -> None:
    origins: list[list[tuple[int, int] | None]] = []
    for attempt in (1, 2, 3):
        api.stored.clear()
        async with reporter(api, tmp_path, attempt=attempt) as report:
            report.phase(Phase.TRAINING, "is gone with its attempt")
            report.event("engine_started", f"in attempt {attempt}")
            assert await report.drain(10)
        (tmp_path / f"attempt-{attempt}.acked").unlink()  # killed before it could note what was confirmed
        origins.append([each.origin and (each.origin.attempt, each.origin.seq) for each in api.stored])
    assert origins == [[None, None], [(1, 2), None, None], [(1, 2), (2, 3), None, None]]


async def test_the_checkpoints_that_are_there_are_known_to_the_next_attempt(api: Api, tmp_path: Path) -> None:
    first, second = tmp_path / "iter_0000000", tmp_path / "iter_0000001"
    async with reporter(api, tmp_path / "reports") as report:
        report.checkpoint(0, "megatron", first, 1)
        report.checkpoint(0, "hf", tmp_path / "hf", 1)
        report.checkpoint(1, "megatron", second, 2)
        report.checkpoint_deleted("megatron", first)
        assert report.megatron_checkpoints == {second}
    async with reporter(api, tmp_path / "reports", attempt=2) as report:
        assert report.megatron_checkpoints == {second}
        report.checkpoint(0, "megatron", first, 1)
        assert report.megatron_checkpoints == {first, second}


async def test_what_was_delivered_is_not_delivered_by_the_next_attempt(api: Api, tmp_path: Path) -> None:
    async with reporter(api, tmp_path) as report:
        report.step(0, 1, {})
        assert await report.drain(10)
    async with reporter(api, tmp_path, attempt=2) as report:
        assert await report.drain(1)
    assert len(api.stored) == 1


@pytest.mark.parametrize("wanted", [Wanted.CANCEL, Wanted.FINISH])
async def test_a_heartbeat_brings_back_what_is_wanted(api: Api, tmp_path: Path, wanted: Wanted) -> None:
    async with reporter(api, tmp_path) as report:
        await until(lambda: api.requests > 0)
        api.wanted = wanted
        async with asyncio.timeout(5):
            await report.finish.wait()
        assert report.stop.is_set() == (wanted is Wanted.CANCEL)


async def test_a_superseded_attempt_stops_and_sends_no_more(api: Api, tmp_path: Path) -> None:
    api.superseded = True
    async with reporter(api, tmp_path) as report:
        async with asyncio.timeout(5):
            await report.stop.wait()
        count = api.requests
        report.step(0, 1, {})
        assert await report.drain(1)
        assert api.requests == count


async def test_text_that_is_no_utf8_is_spelled_and_stops_no_report(api: Api, tmp_path: Path) -> None:
    half = "half \ud83d of a pair"  # json.loads makes it of an escape; os.listdir the like of a name in Latin-1
    spelled = "half \\ud83d of a pair"
    async with reporter(api, tmp_path) as report:
        report.phase(Phase.LOADING_DATA, half)
        report.event("x", half, inner=[{half: half}])
        report.step(0, 1, {half: 0.5})
        report.finished(EndReason.DATA_INVALID, half)
        assert await report.drain(10)
    _, event, step, finished = api.stored
    assert isinstance(event, EventReport) and isinstance(step, StepReport) and isinstance(finished, FinishedReport)
    assert (event.message, event.data, step.metrics) == (spelled, {"inner": [{spelled: spelled}]}, {spelled: 0.5})
    assert finished.detail == spelled


async def test_a_full_disk_is_an_error_for_a_fact_and_not_for_the_last_word(api: Api, tmp_path: Path) -> None:
    async with reporter(api, tmp_path) as report:
        report._spool._file.close()
        report._spool._file = open("/dev/full", "ab")  # noqa: SIM115 - the spool's to close
        with pytest.raises(StorageFailed, match="No space left"):
            report.step(0, 1, {})
        report.finished(EndReason.STORAGE_FAILED, "no space")
        assert await report.drain(10)
    last = api.stored[-1]
    assert isinstance(last, FinishedReport)
    assert last.reason is EndReason.STORAGE_FAILED
