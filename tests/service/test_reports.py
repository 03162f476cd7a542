"""What drivers report is stored once, in order, whatever the network does."""

import asyncio
import itertools
from typing import Any

from tests.service.scripted import Api, Driver


async def running(api: Api, **changes: Any) -> tuple[str, Driver]:
    job_id = await api.submit(**changes)
    driver = await api.driver(job_id)
    await driver.tell(driver.serving())
    await api.until(job_id, "running")
    return job_id, driver


async def rollouts(api: Api, job_id: str) -> list[tuple[int, int, float]]:
    items = (await api.http.get(f"/v1/jobs/{job_id}/metrics")).json()["items"]
    return [(item["rollout_id"], item["attempt"], item["values"]["reward"]) for item in items]


async def test_a_batch_sent_twice_is_stored_once(api: Api) -> None:
    job_id, driver = await running(api)
    batch = [driver.report("event", type="note", message="one"), driver.step(0)]
    assert (await driver.tell(*batch))["acked"] == 3
    assert (await driver.tell(*batch))["acked"] == 3
    again = await asyncio.gather(*(driver.tell(*batch) for _ in range(5)))
    assert {reply["acked"] for reply in again} == {3}
    assert [event["message"] for event in await api.events(job_id) if event["type"] == "note"] == ["one"]
    assert await rollouts(api, job_id) == [(0, 1, 0.5)]


async def test_a_gap_is_acknowledged_only_up_to_where_it_begins(api: Api) -> None:
    job_id, driver = await running(api)
    first, second, third = driver.step(0), driver.step(1), driver.step(2)
    assert (await driver.tell(first, third))["acked"] == 2
    assert [rollout for rollout, *_ in await rollouts(api, job_id)] == [0]
    assert (await driver.tell(third))["acked"] == 2
    assert (await driver.tell(second, third))["acked"] == 4
    assert [rollout for rollout, *_ in await rollouts(api, job_id)] == [0, 1, 2]


async def test_any_order_and_overlap_of_batches_ends_with_each_event_once_and_in_order(api: Api) -> None:
    job_id, driver = await running(api)
    reports = [driver.report("event", type="note", message=str(number)) for number in range(12)]
    for order in itertools.islice(itertools.permutations(range(0, 12, 3)), 0, 24, 5):
        await asyncio.gather(*(driver.tell(*reversed(reports[start : start + 5])) for start in order))
    assert (await driver.tell(*reports))["acked"] == 13
    notes = [event["message"] for event in await api.events(job_id) if event["type"] == "note"]
    assert notes == [str(number) for number in range(12)]


async def test_a_heartbeat_beside_a_batch_never_moves_the_acknowledgement_back(api: Api) -> None:
    _, driver = await running(api)
    for number in range(20):
        step = driver.step(number % 5)
        replies = await asyncio.gather(driver.tell(step), driver.tell(), driver.tell())
        assert replies[0]["acked"] == driver.seq
    assert (await driver.tell())["acked"] == driver.seq


async def test_a_token_opens_only_its_own_attempt(api: Api) -> None:
    _, driver = await running(api)
    _, other = await running(api)
    response = await driver.post(token=other.launch.report_token)
    assert response.status_code == 401


async def test_reports_show_as_phase_progress_endpoint_and_checkpoints(api: Api) -> None:
    job_id, driver = await running(api)
    await driver.tell(
        driver.report("phase", phase="generating", waiting_for="8 samples from the engines"),
        driver.step(0, loss="NaN"),
        driver.report("checkpoint", rollout_id=0, format="megatron", path="/runs/x/iter_0", weight_version=2),
    )
    job = await api.job(job_id)
    assert (job["phase"], job["waiting_for"]) == ("generating", "8 samples from the engines")
    assert job["progress"] == {"rollout_id": 0, "num_rollouts": 5, "weight_version": 2}
    assert job["router_url"] == "http://127.0.0.1:1/v1"
    assert driver.launch.report_url == f"http://drivers.test/v1/attempts/{job_id}/1/reports"
    assert job["openai_base_url"] == f"http://api.test/v1/jobs/{job_id}/openai/v1"
    items = (await api.http.get(f"/v1/jobs/{job_id}/metrics")).json()["items"]
    assert items[0]["values"] == {"reward": 0.5, "loss": None}
    checkpoints = (await api.http.get(f"/v1/jobs/{job_id}/checkpoints")).json()["items"]
    assert [(item["format"], item["path"], item["rollout_id"]) for item in checkpoints] == [
        ("megatron", "/runs/x/iter_0", 0)
    ]


async def test_a_job_that_goes_by_epochs_says_how_many_rollouts_it_has_once_they_are_counted(api: Api) -> None:
    rollout = {"num_epochs": 2, "rollout_batch_size": 2, "n_samples_per_prompt": 4}
    job_id, driver = await running(api, rollout=rollout)
    assert (await api.job(job_id))["progress"]["num_rollouts"] == 0
    await driver.tell(driver.report("plan", num_rollouts=6))
    assert (await api.job(job_id))["progress"]["num_rollouts"] == 6


async def test_every_rollout_counts_once_after_a_retry_and_the_later_attempt_wins(api: Api) -> None:
    job_id, first = await running(api)
    await first.tell(*(first.step(rollout, reward=0.1) for rollout in range(4)))
    undelivered = first.step(4, reward=0.1)
    api.cluster.kill(job_id, 1)
    second = await api.driver(job_id, 2)
    late = await first.tell(undelivered)
    assert (late["superseded"], late["acked"]) == (True, 5), "an attempt that ended is not heard any more"
    # The second attempt hands over what the first left on disk, then resumes from the checkpoint of rollout 2.
    await second.tell(second.serving(), second.take_over(undelivered, attempt=1))
    await second.tell(*(second.step(rollout, reward=0.9) for rollout in (3, 4)))
    assert await rollouts(api, job_id) == [
        (0, 1, 0.1),
        (1, 1, 0.1),
        (2, 1, 0.1),
        (3, 2, 0.9),
        (4, 2, 0.9),
    ]
    cursor = (await api.http.get(f"/v1/jobs/{job_id}/metrics", params={"after": 2})).json()
    assert ([item["rollout_id"] for item in cursor["items"]], cursor["next"]) == ([3, 4], 4)


async def test_what_a_killed_driver_had_delivered_is_not_stored_again_when_later_attempts_deliver_it(api: Api) -> None:
    job_id, first = await running(api)
    told = [
        first.report("event", type="note", message="one"),
        first.step(0, reward=0.1),
        first.report("event", type="note", message="two"),
    ]
    await first.tell(*told[:2])  # and is killed before it notes that this is stored
    api.cluster.kill(job_id, 1)
    second = await api.driver(job_id, 2)
    assert (await first.tell(told[2]))["superseded"], "it comes too late for an attempt that has ended"

    def left_behind(driver: Driver) -> list[dict[str, Any]]:
        return [driver.take_over(report, attempt=1) for report in told]

    await second.tell(*left_behind(second))
    assert (await api.job(job_id))["state"] == "starting", "none of it is this attempt's doing"
    await second.tell(second.step(0, reward=0.9), second.report("event", type="note", message="three"))
    api.cluster.kill(job_id, 2)
    third = await api.driver(job_id, 3)
    of_second = {"kind": "event", "seq": second.seq, "at": told[0]["at"], "type": "note", "message": "three"}
    reply = await third.tell(*left_behind(third), third.take_over(of_second, attempt=2))
    assert (reply["acked"], reply["superseded"]) == (4, False)

    notes = [(each["attempt"], each["message"]) for each in await api.events(job_id) if each["type"] == "note"]
    assert notes == [(1, "one"), (1, "two"), (2, "three")]
    assert await rollouts(api, job_id) == [(0, 2, 0.9)]


async def test_facts_of_an_attempt_that_was_none_before_are_refused(api: Api) -> None:
    _, driver = await running(api)
    for attempt in (1, 2):
        stray = driver.take_over(driver.report("event", type="note", message="stray"), attempt=attempt)
        response = await driver.post(stray | {"seq": 2})
        assert response.status_code == 422, response.text
    assert (await driver.tell())["acked"] == 1


async def test_a_checkpoint_that_was_deleted_is_listed_no_more_unless_it_is_saved_again(api: Api) -> None:
    job_id, driver = await running(api)

    def saved(rollout_id: int, format: str = "megatron") -> dict[str, Any]:
        path = f"/runs/x/{rollout_id}"
        return driver.report("checkpoint", rollout_id=rollout_id, format=format, path=path, weight_version=1)

    def deleted(rollout_id: int) -> dict[str, Any]:
        return driver.report("checkpoint_deleted", format="megatron", path=f"/runs/x/{rollout_id}")

    async def listed() -> list[tuple[str, int]]:
        items = (await api.http.get(f"/v1/jobs/{job_id}/checkpoints")).json()["items"]
        return [(item["format"], item["rollout_id"]) for item in items]

    await driver.tell(saved(0), saved(0, "hf"), saved(1))
    gone = [deleted(0), saved(2), deleted(7)]  # 7 was never reported
    await driver.tell(*gone)
    await driver.tell(*gone)
    assert await listed() == [("hf", 0), ("megatron", 1), ("megatron", 2)]
    await driver.tell(deleted(1), deleted(2), saved(1), saved(3), deleted(3))
    assert await listed() == [("hf", 0), ("megatron", 1)]
    api.cluster.kill(job_id, 1)
    second = await api.driver(job_id, 2)
    await second.tell(*(second.take_over(report, attempt=1) for report in (gone[0], gone[1])))
    assert await listed() == [("hf", 0), ("megatron", 1)], "both had been heard"


async def test_an_evaluation_counts_once_after_a_retry_and_comes_back_in_order_of_versions(api: Api) -> None:
    job_id, driver = await running(api)

    def evaluation(version: int, name: str, value: float | str) -> dict[str, Any]:
        return driver.report(
            "evaluation", weight_version=version, name=name, metrics={"reward": value}, samples_path=f"/runs/{version}"
        )

    await driver.tell(evaluation(0, "sums", 0.25), evaluation(2, "sums", 0.5), evaluation(2, "digits", "NaN"))
    await driver.tell(evaluation(2, "sums", 0.75))
    rows = (await api.http.get(f"/v1/jobs/{job_id}/evaluations")).json()
    assert [(row["weight_version"], row["name"], row["values"]["reward"]) for row in rows["items"]] == [
        (0, "sums", 0.25),
        (2, "digits", None),
        (2, "sums", 0.75),
    ]
    assert rows["next"] == 2
    page = (await api.http.get(f"/v1/jobs/{job_id}/evaluations", params={"limit": 1})).json()
    assert [row["weight_version"] for row in page["items"]] == [0]
    assert (await api.http.get("/v1/jobs/job_none/evaluations")).status_code == 404
