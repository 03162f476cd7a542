"""Submitting, listing and watching jobs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from controlplane.bodies import MAX_BODY
from tests.service.conftest import StartApi
from tests.service.scripted import Api, ScriptedCluster, spec


async def test_a_submitted_job_is_queued_with_its_first_event_and_its_whole_spec(api: Api) -> None:
    response = await api.http.post("/v1/jobs", json=spec(name="sums", labels={"team": "a"}))
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] in ("queued", "starting")
    assert (job["name"], job["labels"], job["progress"]["num_rollouts"]) == ("sums", {"team": "a"}, 5)
    assert job["spec"]["trainer"]["lr"] == 1e-6, "defaults are resolved and stored"
    events = await api.events(job["id"])
    assert events[0]["type"] == "job.queued"


async def test_every_wrong_field_is_named_with_the_nearest_known_one(api: Api) -> None:
    body = spec(modle={}, trainer={"llr": 1}, rollout={"num_rollouts": "many", "rollout_batch_size": 1})
    response = await api.http.post("/v1/jobs", json=body)
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["code"] == "invalid"
    found = {field["path"]: field["suggestion"] for field in error["fields"]}
    assert found == {"modle": "model", "trainer.llr": "trainer.lr", "rollout.num_rollouts": None}


async def test_fields_that_contradict_each_other_are_refused_with_both(api: Api) -> None:
    response = await api.http.post("/v1/jobs", json=spec(trainer={"tensor_model_parallel_size": 3}))
    assert response.status_code == 422
    message = response.json()["error"]["message"]
    assert "trainer.tensor_model_parallel_size" in message and "(3 × 1 × 1)" in message and "processes (1)" in message


async def test_a_body_that_is_not_json_is_refused_with_the_position(api: Api) -> None:
    response = await api.http.post("/v1/jobs", content=b'{"model": ', headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"
    for content, why in ((b'{"name": "\xff"}', "utf-8"), (b"[" * 100_000, "recursion")):
        response = await api.http.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")
        assert why in response.json()["error"]["message"]
    response = await api.http.post("/v1/jobs", content=b"model=x")
    assert response.status_code == 422
    assert "application/json" in response.json()["error"]["message"]


async def test_a_body_beyond_the_limit_is_refused_before_it_is_parsed_whoever_sends_it(api: Api) -> None:
    huge = b'{"name": "' + b"x" * MAX_BODY + b'"}'

    async def in_pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(huge), 1 << 20):
            yield huge[start : start + (1 << 20)]

    json = {"Content-Type": "application/json"}
    for content in (huge, in_pieces()):
        response = await api.http.post("/v1/jobs", content=content, headers=json)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large"), response.text
    nobody = {"Authorization": ""} | json
    response = await api.http.post("/v1/attempts/x/1/reports", content=huge, headers=nobody)
    assert response.status_code == 413


async def test_the_same_idempotency_key_answers_the_same_job_and_refuses_another_spec(api: Api) -> None:
    headers = {"Idempotency-Key": "once"}
    replies = await asyncio.gather(*(api.http.post("/v1/jobs", json=spec(), headers=headers) for _ in range(8)))
    assert {reply.status_code for reply in replies} == {202}
    assert len({reply.json()["id"] for reply in replies}) == 1
    other = await api.http.post("/v1/jobs", json=spec(name="other"), headers=headers)
    assert other.status_code == 409
    assert len((await api.http.get("/v1/jobs")).json()["items"]) == 1


async def test_without_the_api_key_nothing_under_v1_answers(api: Api) -> None:
    job_id = await api.submit()
    for method, path in [
        ("GET", "/v1/jobs"),
        ("POST", "/v1/jobs"),
        ("GET", f"/v1/jobs/{job_id}"),
        ("GET", f"/v1/jobs/{job_id}/events"),
        ("GET", f"/v1/jobs/{job_id}/metrics"),
        ("GET", f"/v1/jobs/{job_id}/checkpoints"),
        ("POST", f"/v1/jobs/{job_id}/cancel"),
        ("GET", f"/v1/jobs/{job_id}/openai/v1/models"),
        ("POST", f"/v1/attempts/{job_id}/1/reports"),
    ]:
        for headers in ({"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}, {"Authorization": ""}):
            response = await api.http.request(method, path, headers=headers, json={"reports": []})
            assert response.status_code == 401, (method, path, response.text)
            assert response.json()["error"]["code"] == "unauthorized"
    assert (await api.http.get("/healthz", headers={"Authorization": ""})).status_code == 200


async def test_unknown_things_and_methods_answer_in_the_one_error_shape(api: Api) -> None:
    for path in ("/v1/jobs/job_none", "/v1/jobs/job_none/events", "/v1/jobs/job_none/metrics", "/v1/nothing"):
        response = await api.http.get(path)
        assert response.status_code == 404
        assert set(response.json()["error"]) == {"code", "message", "fields"}
    response = await api.http.delete("/v1/jobs")
    assert response.status_code == 405
    assert response.json()["error"]["code"] == "method_not_allowed"
    response = await api.http.get("/v1/jobs", params={"limit": 0})
    assert response.status_code == 422
    assert response.json()["error"]["fields"][0]["path"] == "limit"


async def test_characters_that_postgres_refuses_are_answered_like_any_other_wrong_input(api: Api) -> None:
    good = await api.submit()
    replies = await asyncio.gather(
        api.http.get("/v1/jobs/job_%00"), api.http.get(f"/v1/jobs/{good}"), api.http.get("/v1/jobs/%00/events")
    )
    assert [reply.status_code for reply in replies] == [404, 200, 404]
    assert (await api.http.get("/v1/jobs/x%00/openai/v1/models")).status_code == 404
    assert (await api.http.get("/v1/jobs", params={"after": "\x00"})).status_code == 422
    assert (await api.http.post("/v1/jobs", json=spec(name="a\x00b"))).status_code == 422
    nan = b'{"engine": {"sglang": {"x": NaN}}, "model": {"hf_checkpoint": "m"}, "data": {"prompt_data": "d"}, '
    nan += b'"rollout": {"num_rollouts": 1, "rollout_batch_size": 1}}'
    response = await api.http.post("/v1/jobs", content=nan, headers={"Content-Type": "application/json"})
    assert response.status_code == 422, response.text
    assert "engine.sglang.x" in response.text
    huge = await api.http.post("/v1/jobs", json=spec(trainer={"seed": 10**30}))
    assert huge.status_code == 422 and "trainer.seed" in huge.text, huge.text
    assert (await api.http.post(f"/v1/attempts/{good}/99999999999/reports", json={"reports": []})).status_code == 422


async def test_a_large_number_is_answered_as_it_was_given_and_the_same_when_it_is_sent_again(api: Api) -> None:
    data = {"prompt_data": "d", "apply_chat_template": True, "apply_chat_template_kwargs": {"x": [1e30]}}
    body = spec(trainer={"clip_grad": 1e30}, data=data)
    replies = [await api.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "large"}) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [202, 202], replies[0].text
    job_id = replies[0].json()["id"]
    stored = (await api.job(job_id))["spec"]
    assert stored["trainer"]["clip_grad"] == 1e30
    assert stored["data"]["apply_chat_template_kwargs"] == {"x": [1e30]}
    assert (await api.driver(job_id)).launch.spec["trainer"]["clip_grad"] == 1e30


async def test_a_spec_that_is_nested_too_deeply_is_refused(api: Api) -> None:
    for depth in (65, 300, 900):
        nested: dict[str, Any] = {}
        for _ in range(depth):
            nested = {"x": nested}
        data = {"prompt_data": "d", "apply_chat_template": True, "apply_chat_template_kwargs": nested}
        response = await api.http.post("/v1/jobs", json=spec(data=data))
        assert response.status_code == 422, response.text
        assert "data.apply_chat_template_kwargs.x.x" in response.text and "64 levels" in response.text


async def test_jobs_are_listed_newest_first_page_by_page_and_by_state(api: Api) -> None:
    ids = [await api.submit(name=f"job {number}") for number in range(5)]
    seen: list[str] = []
    after = None
    while True:
        page = (await api.http.get("/v1/jobs", params={"limit": 2} | ({"after": after} if after else {}))).json()
        seen += [job["id"] for job in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == ids[::-1]
    driver = await api.driver(ids[0])
    await driver.tell(driver.finished("cancelled_by_user"))
    await api.until(ids[0], "cancelled")
    listed = (await api.http.get("/v1/jobs", params={"state": "cancelled"})).json()["items"]
    assert [job["id"] for job in listed] == [ids[0]]


async def test_polling_with_the_etag_answers_304_until_something_visible_changes(api: Api) -> None:
    job_id = await api.submit()
    driver = await api.driver(job_id)
    await driver.tell(driver.serving())
    await api.until(job_id, "running")
    response = await api.http.get(f"/v1/jobs/{job_id}")
    tag = {"If-None-Match": response.headers["etag"]}
    await driver.tell()  # a heartbeat is nothing that a reader sees
    same = await api.http.get(f"/v1/jobs/{job_id}", headers=tag)
    assert (same.status_code, same.content) == (304, b"")
    await driver.tell(driver.step(0))
    changed = await api.http.get(f"/v1/jobs/{job_id}", headers=tag)
    assert changed.status_code == 200
    assert changed.json()["progress"] == {"rollout_id": 0, "num_rollouts": 5, "weight_version": 2}


async def test_many_pollers_of_many_jobs_each_get_their_own(api: Api) -> None:
    ids = [await api.submit(name=f"job {number}") for number in range(6)]
    answers = await asyncio.gather(*(api.job(job_id) for _ in range(20) for job_id in ids))
    for index, job in enumerate(answers):
        assert (job["id"], job["name"]) == (ids[index % 6], f"job {index % 6}")
    missing = await asyncio.gather(*(api.http.get(f"/v1/jobs/{name}") for name in (ids[0], "job_none")))
    assert [response.status_code for response in missing] == [200, 404]


async def test_an_event_wakes_those_who_wait_for_it(api: Api) -> None:
    job_id = await api.submit()
    driver = await api.driver(job_id)
    await driver.tell(driver.serving())
    await api.until(job_id, "running")
    after = (await api.events(job_id))[-1]["id"]
    waiting = asyncio.create_task(api.http.get(f"/v1/jobs/{job_id}/events", params={"after": after, "wait": 20}))
    await driver.tell(driver.report("event", type="rollout", message="hello\x00", data={"n": [1, "a\x00"]}))
    page = (await asyncio.wait_for(waiting, 5)).json()
    assert [(event["type"], event["message"]) for event in page["items"]] == [("rollout", "hello\ufffd")]
    assert page["next"] == page["items"][-1]["id"]
    empty = await api.http.get(f"/v1/jobs/{job_id}/events", params={"after": page["next"], "wait": 0.1})
    assert empty.json() == {"items": [], "next": page["next"]}


async def test_readiness_says_which_part_is_away(start_api: StartApi) -> None:
    cluster = ScriptedCluster()
    api = await start_api(cluster)
    assert (await api.http.get("/readyz")).json() == {
        "status": "ready",
        "database": "ok",
        "cluster": "1 node, 2 CPU",
    }
    cluster.away = True
    response = await api.http.get("/readyz", headers={"Authorization": ""})
    assert response.status_code == 503
    assert [field["path"] for field in response.json()["error"]["fields"]] == ["cluster"]
    assert (await api.http.get("/healthz")).status_code == 200


async def test_the_openapi_document_names_every_operation_once(api: Api) -> None:
    document = (await api.http.get("/openapi.json")).json()
    operations = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == len(set(operations))
    assert {"submit_job", "get_job", "list_jobs", "cancel_job", "take_reports", "openai_post"} <= set(operations)
    assert document["paths"]["/v1/jobs/{job_id}"]["get"]["responses"]["200"]["content"]["application/json"][
        "schema"
    ] == {"$ref": "#/components/schemas/JobView"}
