"""Jobs that convert weights."""

from typing import Any

from tests.service.scripted import Api

TO_HF = {"to": "hf", "load": "/runs/1/checkpoints", "hf_checkpoint": "/models/toy", "ckpt_step": 7}


async def submit(api: Api, conversion: dict[str, Any], **beside: Any) -> str:
    response = await api.http.post("/v1/jobs", json={"conversion": conversion, **beside})
    assert response.status_code == 202, response.text
    return response.json()["id"]


async def test_it_is_a_job_like_any_other_from_its_submission_to_where_the_weights_are(api: Api) -> None:
    job_id = await submit(api, TO_HF, name="export", labels={"team": "a"}, max_attempts=2)
    job = await api.job(job_id)
    assert (job["name"], job["labels"], job["max_attempts"]) == ("export", {"team": "a"}, 2)
    assert job["spec"]["conversion"] == TO_HF | {"save": None, "check": False}, "defaults are resolved and stored"
    driver = await api.driver(job_id)
    assert driver.launch.num_cpus == 1
    assert set(driver.launch.spec) == {"conversion", "resources", "runtime"}
    await driver.tell(driver.report("phase", phase="converting", waiting_for="the weights"))
    job = await api.until(job_id, "running", phase="converting", waiting_for="the weights")
    assert job["progress"] == {"rollout_id": None, "num_rollouts": 0, "weight_version": None}
    await driver.tell(
        driver.report("event", type="conversion_progress", message="written: 3 of 12 parameters"),
        driver.report("checkpoint", rollout_id=7, format="hf", path="/runs/2/hf", weight_version=8),
        driver.finished(),
    )
    await api.until(job_id, "succeeded", end_reason="finished")
    assert "written: 3 of 12 parameters" in [event["message"] for event in await api.events(job_id)]
    [found] = (await api.http.get(f"/v1/jobs/{job_id}/checkpoints")).json()["items"]
    assert (found["format"], found["path"], found["rollout_id"]) == ("hf", "/runs/2/hf", 7)
    assert [job["id"] for job in (await api.http.get("/v1/jobs")).json()["items"]] == [job_id]


async def test_a_run_keeps_its_own_cpus(api: Api) -> None:
    driver = await api.driver(await api.submit())
    assert driver.launch.num_cpus == 0
    assert {"model", "data", "rollout"} <= set(driver.launch.spec)


async def test_it_fails_with_the_reason_that_it_was_given_and_goes_on_when_its_driver_is_lost(api: Api) -> None:
    job_id = await submit(api, {"to": "megatron", "hf_checkpoint": "/models/toy"})
    await api.driver(job_id)
    api.cluster.kill(job_id, 1)
    driver = await api.driver(job_id, 2)
    await driver.tell(driver.finished("model_invalid", "MambaForCausalLM is not known"))
    await api.until(job_id, "failed", end_reason="model_invalid", end_detail="MambaForCausalLM is not known")


async def test_it_can_be_cancelled_and_has_nothing_to_finish_or_to_serve(api: Api) -> None:
    job_id = await submit(api, TO_HF)
    driver = await api.driver(job_id)
    await driver.tell(driver.report("phase", phase="converting", waiting_for="the weights"))
    reply = await api.http.post(f"/v1/jobs/{job_id}/finish")
    assert reply.status_code == 409
    assert "a conversion has no rollouts" in reply.json()["error"]["message"]
    assert (await api.http.get(f"/v1/jobs/{job_id}/openai/v1/models")).status_code == 409
    assert (await api.http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 202
    assert (await driver.tell())["wanted"] == "cancel"
    await driver.tell(driver.finished("cancelled_by_user"))
    await api.until(job_id, "cancelled")


async def test_every_wrong_field_of_it_is_named(api: Api) -> None:
    cases: list[tuple[dict[str, Any], dict[str, str | None]]] = [
        ({"conversion": {"to": "megatron"}}, {"conversion.hf_checkpoint": None}),
        ({"conversion": TO_HF | {"ckpt_step": -1}}, {"conversion.ckpt_step": None}),
        ({"conversion": TO_HF | {"hf_chekpoint": "x"}}, {"conversion.hf_chekpoint": "conversion.hf_checkpoint"}),
        ({"conversion": {"to": "megatron", "hf_checkpoint": "x", "load": "y"}}, {"conversion.load": None}),
        ({"conversion": TO_HF | {"to": "onnx"}}, {"conversion.to": None}),
        ({"conversion": {"hf_checkpoint": "x"}}, {"conversion.to": None}),
        ({"conversion": TO_HF, "rollout": {"num_rollouts": 1}}, {"rollout": None}),
        ({"conversion": TO_HF, "name": "a\x00"}, {"": None}),
    ]
    for body, expected in cases:
        response = await api.http.post("/v1/jobs", json=body)
        assert response.status_code == 422, body
        assert {field["path"]: field["suggestion"] for field in response.json()["error"]["fields"]} == expected, body
