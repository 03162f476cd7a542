"""The whole path with real parts: HTTP, Postgres, Ray, Megatron-Core, SGLang, the router."""

import json
import os
import signal
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.multi_turn import job as multi_turn
from examples.quickstart.build import build
from examples.quickstart.job import spec as job_spec
from tests.e2e.service import Service
from trainers.rollout.dump import load_rollout

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="rw-e2e-") as home:
        service = Service(Path(home))
        try:
            service.command("up")
            yield service
        finally:
            service.command("down")
            assert not service.processes("ray", "sglang", "postgres", "controlplane")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("quickstart")
    build(directory)
    return directory


def spec(task: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    spec = job_spec(task)
    for name, fields in sections.items():
        spec[name] = {**spec.get(name, {}), **fields}
    return spec


async def test_a_job_learns_publishes_each_version_and_exports_what_it_served(
    service: Service, task: Path, tmp_path: Path
) -> None:
    rollouts = 10
    prompts = job_spec(task)["data"]["prompt_data"]
    job_id = await service.submit(
        spec(
            task,
            rollout={"num_rollouts": rollouts, "n_samples_per_prompt": 32},
            trainer={"global_batch_size": 128},
            engine={"keep_serving_s": 120.0},
            eval={"sets": [{"name": "sums", "prompt_data": prompts}], "n_samples_per_prompt": 8, "interval": 5},
            debug={"save_rollouts": str(tmp_path)},
        )
    )
    job = await service.until(job_id, lambda job: job["phase"] == "serving", "serving the trained policy", 420)

    steps = await service.rows(job_id, "metrics")
    assert [step["rollout_id"] for step in steps] == list(range(rollouts))
    assert [step["weight_version"] for step in steps] == list(range(1, rollouts + 1))
    rewards = [step["values"]["reward"] for step in steps]
    assert statistics.fmean(rewards[-3:]) > 1.5 * statistics.fmean(rewards[:3]), rewards
    assert max(step["values"]["log_prob_diff"] for step in steps) < 1e-3

    evaluations = await service.rows(job_id, "evaluations")
    assert [(row["name"], row["weight_version"]) for row in evaluations] == [("sums", 0), ("sums", 5), ("sums", 10)]
    assert evaluations[-1]["values"]["reward"] > 1.5 * evaluations[0]["values"]["reward"], evaluations
    answers = [json.loads(line) for line in Path(evaluations[-1]["samples_path"]).read_text().splitlines()]
    assert statistics.fmean(answer["reward"] for answer in answers) == pytest.approx(
        evaluations[-1]["values"]["reward"]
    )

    exported = next(row for row in await service.rows(job_id, "checkpoints") if row["format"] == "hf")
    tokenizer = AutoTokenizer.from_pretrained(exported["path"])
    model = AutoModelForCausalLM.from_pretrained(exported["path"], dtype=torch.float32)
    lines = [json.loads(line) for line in Path(job_spec(task)["data"]["prompt_data"]).read_text().splitlines()]
    async with service.client() as http:
        for line in lines[:8]:
            messages = [{"role": "user", "content": line["input"]}]
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
            ids = prompt["input_ids"] if not isinstance(prompt, torch.Tensor) else prompt
            wanted = model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
            reply = await http.post(
                f"/v1/jobs/{job_id}/openai/v1/chat/completions",
                json={"model": "policy", "messages": messages, "temperature": 0, "max_tokens": 4, "logprobs": True},
            )
            assert reply.status_code == 200, reply.text
            tokens = [token["token"] for token in reply.json()["choices"][0]["logprobs"]["content"]]
            assert tokenizer.convert_tokens_to_ids(tokens) == wanted.tolist()

    async with service.client() as http:
        assert (await http.post(f"/v1/jobs/{job_id}/finish")).status_code == 202
    job = await service.ended(job_id, 60)
    assert (job["state"], job["end_reason"]) == ("succeeded", "finished"), job
    assert not await service.left_behind()

    # The same rollouts again, without engines: the same losses, bit for bit.
    replayed = spec(
        task,
        rollout={"num_rollouts": rollouts, "n_samples_per_prompt": 32},
        trainer={"global_batch_size": 128},
        data={"prompt_data": "nowhere.jsonl"},
        debug={"mode": "train_only", "load_rollouts": str(tmp_path)},
    )
    again = await service.submit(replayed)
    job = await service.ended(again, 480)
    assert (job["state"], job["end_reason"]) == ("succeeded", "finished"), job
    losses = [step["values"]["loss"] for step in await service.rows(again, "metrics")]
    assert losses == [step["values"]["loss"] for step in steps]


async def test_the_generating_half_runs_by_itself_for_two_epochs(service: Service, task: Path, tmp_path: Path) -> None:
    prompts, batch = job_spec(task)["data"]["prompt_data"], job_spec(task)["rollout"]["rollout_batch_size"]
    job_id = await service.submit(
        spec(
            task,
            data={"prompt_data": f"{prompts}@[0:{2 * batch - 1}]"},
            rollout={"num_rollouts": None, "num_epochs": 2, "n_samples_per_prompt": 8},
            eval={"sets": [{"name": "sums", "prompt_data": prompts}]},
            debug={"mode": "rollout_only", "save_rollouts": str(tmp_path)},
        )
    )
    job = await service.ended(job_id, 480)
    assert (job["state"], job["end_reason"]) == ("succeeded", "finished"), job
    assert job["progress"] == {"rollout_id": 1, "num_rollouts": 2, "weight_version": 0}
    assert [step["weight_version"] for step in await service.rows(job_id, "metrics")] == [0, 0]
    assert [row["weight_version"] for row in await service.rows(job_id, "evaluations")] == [0]
    assert not await service.rows(job_id, "checkpoints")
    assert len(load_rollout(tmp_path, 1)) == batch
    assert not await service.left_behind()


def games(directory: Path) -> dict[str, Any]:
    """A job that plays games of several turns, with functions of its user's at every other door; it goes on until it
    is told to finish."""
    multi_turn.build(directory)
    job = multi_turn.spec(directory)
    job["rollout"] |= {"num_rollouts": 500, "n_samples_per_prompt": 8}
    job["trainer"]["global_batch_size"] = 36
    users = "tests.e2e.users_functions"
    job["plugins"] |= {
        "rollout_sample_filter": f"{users}:not_at_once",
        "custom_rollout_log_function": f"{users}.log",  # in slime's form
        "custom_megatron_before_train_step_hook": f"{users}:before_train_step",
        "arguments": {"steps_file": str(directory / "steps.txt")},
    }
    job["debug"] = {"save_rollouts": str(directory / "rollouts")}
    job["checkpoint"] = {"save_interval": 2, "async_save": True, "keep_last": 2}
    return job


async def test_every_game_is_there_once_after_the_api_and_then_an_engine_are_killed(
    service: Service, tmp_path: Path
) -> None:
    job_id = await service.submit(games(tmp_path))
    await service.until(job_id, lambda job: (job["progress"]["rollout_id"] or -1) >= 1, "two rollouts", 480)
    os.kill(service.endpoint["pid"], signal.SIGKILL)
    service.command("up")
    seen = (await service.job(job_id))["progress"]["rollout_id"]
    await service.until(job_id, lambda job: job["progress"]["rollout_id"] > seen, "a step after the API's return", 300)

    server = next(iter(service.processes("sglang::scheduler")))
    os.kill(server, signal.SIGKILL)
    job = await service.until(job_id, lambda job: job["attempt"] == 2, "a second attempt", 60)
    seen = job["progress"]["rollout_id"]
    await service.until(job_id, lambda job: job["progress"]["rollout_id"] > seen, "a step of the second attempt", 480)
    async with service.client() as http:
        assert (await http.post(f"/v1/jobs/{job_id}/finish")).status_code == 202
    job = await service.ended(job_id, 60)
    assert (job["state"], job["end_reason"], job["attempt"]) == ("succeeded", "finished", 2), json.dumps(job, indent=1)

    steps = await service.rows(job_id, "metrics")
    last = job["progress"]["rollout_id"]
    assert [step["rollout_id"] for step in steps] == list(range(last + 1))
    assert [step["weight_version"] for step in steps] == list(range(1, last + 2))
    saved = [row for row in await service.rows(job_id, "checkpoints") if row["format"] == "megatron"]
    assert saved[1]["rollout_id"] == last and len(saved) == 2, "what was deleted is not listed"
    assert all((Path(row["path"]) / "manifest.json").is_file() for row in saved)
    assert len(list(Path(saved[0]["path"]).parent.glob("iter_*"))) == 2
    assert not await service.left_behind()

    loaded = next(row for row in await service.rows(job_id, "events") if row["type"] == "plugins_loaded")
    assert "plugins.custom_generate_function: examples.multi_turn.guess:play (native)" in loaded["message"]
    assert "custom_rollout_log_function: tests.e2e.users_functions.log (slime)" in loaded["message"]
    assert set((tmp_path / "steps.txt").read_text().split()) >= {
        f"{id}.{half}" for id in range(last + 1) for half in (0, 1)
    }
    for rollout_id, step in enumerate(steps):
        groups = load_rollout(tmp_path / "rollouts", rollout_id)
        samples = [sample for group in groups for sample in group]
        assert step["values"]["games"] == len(samples) == 72
        assert step["values"]["reward"] == pytest.approx(statistics.fmean(s.reward or 0.0 for s in samples))
        assert step["values"]["log_prob_diff"] < 1e-3  # over several turns, each token in its context
        for sample in samples:
            at_once = len(sample.metadata["guesses"]) == 1
            assert not any(sample.loss_mask) if at_once else any(sample.loss_mask)
            assert sample.weight_versions == [rollout_id] * sample.response_length


async def test_a_cancelled_job_leaves_nothing_running(service: Service, task: Path) -> None:
    job_id = await service.submit(spec(task))
    await service.until(job_id, lambda job: job["phase"] == "starting", "starting engines", 300)
    async with service.client() as http:
        assert (await http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 202
    job = await service.ended(job_id, 90)
    assert (job["state"], job["end_reason"]) == ("cancelled", "cancelled_by_user"), job
    assert not await service.left_behind()


def _malformed(task: Path, directory: Path) -> dict[str, Any]:
    data = directory / "bad.jsonl"
    data.write_text('{"prompt": "1+1=", "label": "2"}\n{"prompt": \n')
    return spec(task, data={"prompt_data": str(data), "input_key": "prompt", "label_key": "label"})


def _missing(task: Path, directory: Path) -> dict[str, Any]:
    return spec(task, data={"prompt_data": str(directory / "nowhere.jsonl")})


def _unknown_architecture(task: Path, directory: Path) -> dict[str, Any]:
    source = Path(job_spec(task)["model"]["hf_checkpoint"])
    copy = directory / "model"
    copy.mkdir()
    for file in source.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    config["architectures"] = ["MambaForCausalLM"]
    (copy / "config.json").write_text(json.dumps(config))
    return spec(task, model={"hf_checkpoint": str(copy)})


def _too_large(task: Path, directory: Path) -> dict[str, Any]:
    return spec(task, resources={"rollout_num_gpus": 500, "placement_timeout_s": 3.0})


@pytest.mark.parametrize(
    ("make", "reason", "words"),
    [
        (_malformed, "data_invalid", "line 2"),
        (_missing, "data_invalid", "nowhere.jsonl"),
        (_unknown_architecture, "model_invalid", "MambaForCausalLM"),
        (_too_large, "placement_timeout", "free of"),
    ],
)
async def test_bad_input_fails_the_job_with_a_reason_and_its_text(
    service: Service, task: Path, tmp_path: Path, make: Any, reason: str, words: str
) -> None:
    job_id = await service.submit(make(task, tmp_path))
    job = await service.ended(job_id, 90)
    assert (job["state"], job["end_reason"]) == ("failed", reason), job
    assert words in job["end_detail"]
    assert job["attempt"] == 1
    assert not await service.left_behind()
