"""Jobs that are submitted as slime's command line, and options that are checked when a job is submitted."""

from tests.service.scripted import Api, spec

ARGV = [
    *("--hf-checkpoint", "/models/toy", "--prompt-data", "/data/toy.jsonl", "--actor-num-gpus-per-node", "1"),
    *("--rollout-num-gpus", "1", "--num-rollout", "5", "--rollout-batch-size", "2", "--n-samples-per-prompt", "4"),
]


async def test_a_command_line_becomes_a_job_and_the_reply_says_what_is_ignored(api: Api) -> None:
    argv = [*ARGV, "--lr", "2e-6", "--balance-data", "--wandb-key", "a-secret"]
    response = await api.http.post("/v1/jobs", json={"argv": argv, "name": "pasted"})
    assert response.status_code == 202
    job = response.json()
    assert (job["name"], job["progress"]["num_rollouts"]) == ("pasted", 5)
    assert (job["spec"]["trainer"]["lr"], job["spec"]["trainer"]["adam_beta2"]) == (2e-6, 0.999)
    assert any(notice.startswith("--balance-data: ignored") for notice in job["notices"])
    assert "a-secret" not in response.text
    assert "a-secret" not in (await api.http.get(f"/v1/jobs/{job['id']}")).text


async def test_refused_flags_are_named_with_the_nearest_known_one(api: Api) -> None:
    response = await api.http.post("/v1/jobs", json={"argv": [*ARGV, "--rollout-shufle", "--num-epoch", "x"]})
    assert response.status_code == 422
    fields = {field["path"]: field for field in response.json()["error"]["fields"]}
    assert fields["--rollout-shufle"]["suggestion"] == "--rollout-shuffle"
    assert "whole number" in fields["--num-epoch"]["message"]


async def test_what_does_not_go_together_is_named_by_field_and_flag(api: Api) -> None:
    response = await api.http.post("/v1/jobs", json={"argv": [*ARGV, "--rollout-num-gpus-per-engine", "2"]})
    assert response.status_code == 422
    message = response.json()["error"]["message"]
    assert "rollout_num_gpus (1) must be a multiple" in message and "--rollout-num-gpus-per-engine" in message


async def test_a_wrong_form_around_a_command_line_is_named_by_its_field(api: Api) -> None:
    response = await api.http.post("/v1/jobs", json={"argv": ARGV, "nam": "x", "max_attempts": "many"})
    assert response.status_code == 422
    paths = {field["path"]: field["suggestion"] for field in response.json()["error"]["fields"]}
    assert paths == {"nam": "name", "max_attempts": None}


async def test_options_of_megatron_and_sglang_in_a_spec_are_checked_when_it_is_submitted(api: Api) -> None:
    body = spec(
        trainer={"megatron": {"recompute_granularty": "full", "recompute_num_layers": "two"}},
        engine={"sglang": {"mem_fraction_statik": 0.7, "chunked_prefill_size": 0.5, "log_level": "info"}},
    )
    response = await api.http.post("/v1/jobs", json=body)
    assert response.status_code == 422
    paths = {field["path"]: field["suggestion"] for field in response.json()["error"]["fields"]}
    assert paths == {
        "trainer.megatron.recompute_granularty": "trainer.megatron.recompute_granularity",
        "trainer.megatron.recompute_num_layers": None,
        "engine.sglang.mem_fraction_statik": "engine.sglang.mem_fraction_static",
        "engine.sglang.chunked_prefill_size": None,
    }
