"""Jobs from submission to every kind of end, with drivers and a cluster that misbehave."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from controlplane.cluster.base import DriverSeen, DriverStatus, driver_name
from controlplane.db import Database
from controlplane.errors import LeaseLost
from controlplane.jobs import repository as jobs
from controlplane.jobs.spec import stored_spec
from controlplane.jobs.states import JobState
from controlplane.reconcile import jobs as reconcile
from tests.service.conftest import StartApi
from tests.service.postgres import PostgresServer
from tests.service.scripted import Api, Driver, ScriptedCluster


async def running(api: Api, **changes: Any) -> tuple[str, Driver]:
    job_id = await api.submit(**changes)
    driver = await api.driver(job_id)
    await driver.tell(driver.serving())
    await api.until(job_id, "running")
    return job_id, driver


def path(events: list[dict[str, Any]]) -> list[str]:
    """The states that a job went through."""
    return [
        event["type"].removeprefix("job.")
        for event in events
        if "to" in event["data"] or event["id"] == events[0]["id"]
    ]


async def test_a_job_runs_from_queued_to_succeeded_and_its_run_is_released(api: Api) -> None:
    job_id = await api.submit(name="sums", max_attempts=2)
    driver = await api.driver(job_id)
    assert driver.launch.run_dir.endswith(f"runs/{job_id}")
    assert "max_attempts" not in driver.launch.spec
    await driver.tell(driver.report("phase", phase="placing", waiting_for="2 CPU"))
    assert (await api.job(job_id))["state"] == "starting"
    await driver.tell(driver.serving(), *(driver.step(rollout) for rollout in range(5)))
    await api.until(job_id, "running")
    assert (await driver.tell(driver.finished()))["acked"] == driver.seq
    job = await api.until(job_id, "succeeded")
    assert (job["end_reason"], job["phase"], job["waiting_for"], job["router_url"]) == ("finished", None, None, None)
    assert [attempt["end_reason"] for attempt in job["attempts"]] == ["finished"]
    assert api.cluster.released == [driver_name(job_id, 1)]
    assert path(await api.events(job_id)) == ["queued", "starting", "running", "stopping", "succeeded"]
    assert (await driver.tell())["superseded"] is True


async def test_a_driver_that_dies_is_tried_again_until_the_attempts_are_used_up(api: Api) -> None:
    job_id = await api.submit(max_attempts=3)
    for number in (1, 2, 3):
        driver = await api.driver(job_id, number)
        await driver.tell(driver.serving())
        await api.until(job_id, "running", attempt=number)
        api.cluster.kill(job_id, number, f"node {number} was lost")
    job = await api.until(job_id, "failed")
    assert job["end_reason"] == "driver_lost"
    assert "node 3 was lost" in job["end_detail"]
    assert [(attempt["number"], attempt["end_reason"]) for attempt in job["attempts"]] == [
        (number, "driver_lost") for number in (1, 2, 3)
    ]
    assert api.cluster.released == [driver_name(job_id, number) for number in (1, 2, 3)]


async def test_a_job_whose_spec_another_version_accepted_ends_with_what_is_wrong(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "stored_spec", lambda spec: stored_spec(spec | {"gone_since": 1}))
    job = await api.until(await api.submit(), "failed")
    assert (job["end_reason"], job["attempt"]) == ("config_invalid", 1)
    assert "accepted by another version of Rollway" in job["end_detail"] and "gone_since" in job["end_detail"]
    assert api.cluster.launches == {}


async def test_a_driver_that_dies_before_it_reports_is_told_apart(api: Api) -> None:
    job_id = await api.submit(max_attempts=1)
    await api.driver(job_id)
    api.cluster.kill(job_id, 1, "no module named plugins")
    job = await api.until(job_id, "failed")
    assert job["end_reason"] == "driver_start_failed"
    assert "no module named plugins" in job["end_detail"]


@pytest.mark.parametrize("reason", ["data_invalid", "model_invalid", "out_of_memory", "engine_start_failed"])
async def test_an_end_that_would_come_again_is_not_retried(api: Api, reason: str) -> None:
    job_id = await api.submit()
    driver = await api.driver(job_id)
    await driver.tell(driver.finished(reason, "prompts.jsonl, line 3: not JSON"))
    job = await api.until(job_id, "failed")
    assert (job["end_reason"], job["end_detail"]) == (reason, "prompts.jsonl, line 3: not JSON")
    assert len(job["attempts"]) == 1


async def test_a_lost_engine_is_retried_and_the_job_can_still_succeed(api: Api) -> None:
    job_id, driver = await running(api)
    await driver.tell(driver.finished("engine_lost", "exit code -9"))
    second = await api.driver(job_id, 2)
    assert second.launch.report_token != driver.launch.report_token
    await second.tell(second.serving(), second.finished())
    job = await api.until(job_id, "succeeded")
    assert [attempt["end_reason"] for attempt in job["attempts"]] == ["engine_lost", "finished"]


async def test_cancel_while_the_driver_cannot_be_started_ends_the_job(start_api: StartApi) -> None:
    cluster = ScriptedCluster()
    cluster.away = True
    api = await start_api(cluster)
    job_id = await api.submit()
    job = await api.until(job_id, "starting", waiting_for="the cluster to answer: the test took it away")
    assert job["attempt"] == 1
    assert (await api.http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 202
    await api.until(job_id, "stopping")
    cluster.away = False
    job = await api.until(job_id, "cancelled")
    assert job["end_reason"] == "cancelled_by_user"
    assert cluster.started == []


async def test_cancel_of_a_queued_job_never_starts_it(start_api: StartApi) -> None:
    api = await start_api(retry_delay_s=60.0)
    job_id, driver = await running(api)
    await driver.tell(driver.finished("engine_lost"))
    await api.until(job_id, "queued")
    await api.http.post(f"/v1/jobs/{job_id}/cancel")
    await api.until(job_id, "cancelled")
    assert api.cluster.started == [driver_name(job_id, 1)]


async def test_a_driver_that_is_not_placed_yet_is_cancelled_at_once(start_api: StartApi) -> None:
    cluster = ScriptedCluster()
    cluster.first_status = DriverStatus.PENDING
    api = await start_api(cluster)
    job_id = await api.submit()
    await api.until(job_id, "starting", waiting_for="a node that can run the driver")
    await api.http.post(f"/v1/jobs/{job_id}/cancel")
    await api.until(job_id, "cancelled")
    assert cluster.released == [driver_name(job_id, 1)]


async def test_a_running_driver_hears_of_the_cancel_and_ends_by_itself(api: Api) -> None:
    job_id, driver = await running(api)
    for _ in range(2):  # asking twice is asking once
        assert (await api.http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 202
    assert (await driver.tell())["wanted"] == "cancel"
    assert (await api.job(job_id))["state"] == "running"
    await driver.tell(driver.finished("cancelled_by_user", "at rollout 3"))
    job = await api.until(job_id, "cancelled")
    assert job["end_detail"] == "at rollout 3"
    assert [event["type"] for event in await api.events(job_id)].count("job.cancel_requested") == 1
    assert (await api.http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 202


async def test_a_driver_that_does_not_hear_is_killed_after_the_grace(start_api: StartApi) -> None:
    api = await start_api(cancel_grace_s=0.2)
    job_id, _ = await running(api)
    await api.http.post(f"/v1/jobs/{job_id}/cancel")
    job = await api.until(job_id, "cancelled")
    assert "was killed" in job["end_detail"]
    assert api.cluster.released == [driver_name(job_id, 1)]


async def test_cancel_while_a_lost_run_is_released_ends_the_retries(api: Api) -> None:
    job_id, driver = await running(api)
    api.cluster.holds = True
    await driver.tell(driver.finished("engine_lost", "gone"))
    await api.until(job_id, "stopping")
    await api.http.post(f"/v1/jobs/{job_id}/cancel")
    api.cluster.holds = False
    job = await api.until(job_id, "cancelled")
    assert len(job["attempts"]) == 1


async def test_a_job_that_has_ended_otherwise_cannot_be_cancelled(api: Api) -> None:
    job_id, driver = await running(api)
    await driver.tell(driver.finished())
    await api.until(job_id, "succeeded")
    response = await api.http.post(f"/v1/jobs/{job_id}/cancel")
    assert response.status_code == 409
    assert "succeeded already" in response.json()["error"]["message"]


async def test_a_running_job_finishes_early_when_asked_and_a_queued_one_cannot(api: Api) -> None:
    job_id, driver = await running(api)
    assert (await api.http.post(f"/v1/jobs/{job_id}/finish")).status_code == 202
    assert (await driver.tell())["wanted"] == "finish"
    await driver.tell(driver.finished())
    await api.until(job_id, "succeeded")
    assert (await api.http.post(f"/v1/jobs/{job_id}/finish")).status_code == 409


async def test_silence_kills_only_after_its_deadline(start_api: StartApi) -> None:
    api = await start_api(silence_s=0.6)
    job_id, driver = await running(api, max_attempts=1)
    for _ in range(10):
        await driver.tell()
        await asyncio.sleep(0.1)
    assert (await api.job(job_id))["state"] == "running"
    job = await api.until(job_id, "failed")
    assert "has not reported to http://drivers.test for 0.6 s" in job["end_detail"]


async def test_a_control_plane_that_takes_over_hands_the_same_token_to_the_same_driver(
    start_api: StartApi, database_url: str
) -> None:
    """The first process dies between writing the attempt and learning that the driver started."""
    cluster = ScriptedCluster()
    first = await start_api(cluster)
    job_id = await first.submit()
    driver = await first.driver(job_id)
    await driver.tell(driver.serving())
    database = Database(database_url)
    async with database.begin() as session:
        await session.execute(text("UPDATE attempts SET driver_started_at = NULL"))
    while len(cluster.started) < 2:
        await asyncio.sleep(0.02)
    assert set(cluster.started) == {driver_name(job_id, 1)}
    assert (await driver.tell(driver.finished()))["superseded"] is False
    await first.until(job_id, "succeeded")
    await database.close()


async def test_two_control_planes_share_the_work_and_each_step_happens_once(start_api: StartApi) -> None:
    cluster = ScriptedCluster()
    apis = [await start_api(cluster) for _ in range(2)]
    ids = [await apis[number % 2].submit() for number in range(10)]
    for job_id in ids:
        driver = await apis[0].driver(job_id)
        await driver.tell(driver.serving(), driver.finished())
    for job_id in ids:
        await apis[1].until(job_id, "succeeded")
        assert path(await apis[0].events(job_id)) == ["queued", "starting", "running", "stopping", "succeeded"]
    assert sorted(cluster.started) == sorted(driver_name(job_id, 1) for job_id in ids)


async def test_a_writer_whose_lease_was_taken_walks_away_without_a_trace(api: Api, database_url: str) -> None:
    api.cluster.away = True
    job_id = await api.submit()
    await api.until(job_id, "starting")
    events = await api.events(job_id)
    database = Database(database_url)
    async with database.read() as session:
        job = await jobs.get(session, job_id)
    with pytest.raises(LeaseLost):
        async with database.begin() as session:
            await jobs.transition(session, job, JobState.STOPPING, message="too late", lease_token="someone else's")
    with pytest.raises(ValueError, match="cannot go from starting to succeeded"):
        async with database.begin() as session:
            await jobs.transition(session, job, JobState.SUCCEEDED, message="never")
    assert await api.events(job_id) == events
    assert (await api.job(job_id))["state"] == "starting"
    await database.close()


async def test_what_the_cluster_said_is_dropped_when_the_run_ended_meanwhile(api: Api) -> None:
    """The driver's last report arrives between the look at the cluster and the decision."""
    job_id, driver = await running(api)
    looked = asyncio.Event()

    async def finish_first(name: str) -> None:
        api.cluster.before_observe = None
        await driver.tell(driver.finished())
        api.cluster.seen[name] = DriverSeen(DriverStatus.DEAD, "exited")
        looked.set()

    api.cluster.before_observe = finish_first
    await asyncio.wait_for(looked.wait(), 10)
    job = await api.until(job_id, "succeeded")
    assert [attempt["end_reason"] for attempt in job["attempts"]] == ["finished"]


async def test_a_cluster_outage_is_shown_and_survived(start_api: StartApi) -> None:
    cluster = ScriptedCluster()
    api = await start_api(cluster)
    job_id, driver = await running(api)
    cluster.away = True
    await driver.tell(driver.step(0))
    await driver.tell(driver.finished())
    await api.until(job_id, "stopping", waiting_for="the cluster to answer: the test took it away")
    cluster.away = False
    await api.until(job_id, "succeeded")


@pytest.mark.parametrize(
    ("quiet_s", "shown"), [(0.1, "the cluster to answer: the test took it away"), (60.0, "8 samples")]
)
async def test_an_outage_of_the_cluster_is_shown_once_the_driver_is_silent_too(
    start_api: StartApi, quiet_s: float, shown: str
) -> None:
    cluster = ScriptedCluster()
    api = await start_api(cluster, quiet_s=quiet_s)
    job_id, driver = await running(api)
    await driver.tell(driver.report("phase", phase="generating", waiting_for="8 samples"))
    cluster.away = True
    async with asyncio.timeout(15):
        while cluster.refused < 10:
            await asyncio.sleep(0.02)
    await api.until(job_id, "running", waiting_for=shown)


async def test_a_driver_that_died_before_its_start_was_noted_gets_no_double_under_its_attempt(
    start_api: StartApi, database_url: str
) -> None:
    first = await start_api()
    job_id, driver = await running(first)
    first.cluster.holds = True
    async with Database(database_url).begin() as session:  # as when the API is killed before it writes this
        await session.execute(text("UPDATE attempts SET driver_started_at = NULL"))
    first.cluster.kill(job_id, 1)
    await first.until(job_id, "stopping", end_reason="driver_lost")
    assert first.cluster.started == [driver_name(job_id, 1)]
    first.cluster.holds = False
    second = await first.driver(job_id, 2)
    await second.tell(second.take_over(driver.step(0), attempt=1))
    assert [event["attempt"] for event in await first.events(job_id) if event["type"] == "job.starting"] == [1, 2]


async def test_the_database_goes_away_and_comes_back_and_the_job_goes_on(
    start_api: StartApi, postgres: PostgresServer
) -> None:
    api = await start_api()
    job_id, driver = await running(api)
    await asyncio.to_thread(postgres.stop)
    try:
        for method, target in (("GET", f"/v1/jobs/{job_id}"), ("GET", "/v1/jobs"), ("GET", "/readyz")):
            response = await api.http.request(method, target)
            assert response.status_code == 503, response.text
            assert response.json()["error"]["code"] in ("database_unavailable", "not_ready")
        assert (await driver.post(driver.step(0))).status_code == 503
        driver.seq -= 1
    finally:
        await asyncio.to_thread(postgres.start)
    assert (await driver.tell(driver.step(0)))["acked"] == driver.seq
    await driver.tell(driver.finished())
    await api.until(job_id, "succeeded")
    items = (await api.http.get(f"/v1/jobs/{job_id}/metrics")).json()["items"]
    assert [item["rollout_id"] for item in items] == [0]
