"""The examples of docs/plugins.md with the real engine: one for all of them, and a whole job through the driver."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engines.client import GenerateClient
from engines.config import EngineConfig, ResourcesConfig
from engines.fleet import Fleet
from engines.hardware import Hardware
from engines.placement import reserve
from engines.types import Sample, SampleStatus
from examples.custom_generate import calculator
from examples.custom_generate import job as custom_generate
from examples.custom_reward import job as custom_reward
from examples.custom_rollout import job as custom_rollout
from examples.multi_turn import guess
from examples.multi_turn import job as multi_turn
from trainers.batch import build_train_batch
from trainers.config import RunConfig
from trainers.plugins.run import load_plugins
from trainers.rollout.data import PromptData
from trainers.rollout.default import generate_rollout
from trainers.rollout.protocols import RolloutContext
from trainers.rollout.rewards import load_reward

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, slots=True)
class World:
    """The tiny model, its data, and an engine that serves it."""

    directory: Path
    tokenizer: Any
    model: Any
    client: GenerateClient
    base_url: str

    def context(self, job: dict[str, Any], **rollout: Any) -> RolloutContext:
        job["rollout"] |= rollout
        config = RunConfig.model_validate(job)
        return RolloutContext(
            config=config,
            data=PromptData(config.data, self.tokenizer),
            client=self.client,
            reward=load_reward(config.rollout.reward),
            tokenizer=self.tokenizer,
            base_url=self.base_url,
            weight_version=0,
            progress=lambda text: None,
            doors=load_plugins(config).doors,
        )

    def check(self, sample: Sample) -> None:
        """What was sampled has the model's own log-probabilities, in the context in which it stands."""
        logits = self.model(torch.tensor([sample.tokens])).logits[0].log_softmax(-1)
        start = len(sample.tokens) - sample.response_length
        for at, (bit, log_prob) in enumerate(zip(sample.loss_mask, sample.rollout_log_probs, strict=True), start):
            if bit:
                assert logits[at - 1, sample.tokens[at]].item() == pytest.approx(log_prob, abs=1e-4)
        assert sample.weight_versions == [0] * sample.response_length


DIGITS = "123456789"
FOLLOWS = {"<|assistant|>": [*DIGITS], "+": [*DIGITS]} | {digit: ["+", "=", "<|end|>"] for digit in DIGITS}
"""What the tests' policy likes to write: it asks for a sum in one answer of eight, and says a digit in one of five."""


def incline(directory: Path) -> None:
    """Make the model of ``directory`` likely to write what ``FOLLOWS`` says; else it is as random as before."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    embeddings, head = model.model.embed_tokens.weight.data, model.lm_head.weight.data
    embeddings *= 10  # the last token then says most of what the head reads
    for token, following in FOLLOWS.items():
        seen = embeddings[tokenizer.convert_tokens_to_ids(token)]
        # The final norm gives the head vectors of length √n: this adds 4 to a logit.
        head[tokenizer.convert_tokens_to_ids(following)] += 4 * seen / (seen.norm() * len(seen) ** 0.5)
    model.save_pretrained(directory)


@pytest.fixture(scope="module")
async def world(ray_cluster: str, hardware: Hardware, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("examples")
    multi_turn.build(directory)
    incline(directory / "model")
    model_path = str(directory / "model")
    placement = await reserve(ResourcesConfig(placement_timeout_s=60.0), hardware, name="test-examples")
    fleet = Fleet(
        EngineConfig(dtype="float32", start_timeout_s=400.0),
        hardware,
        model_path=model_path,
        slots=placement.engine_slots,
        tp_size=1,
        log_dir=tmp_path_factory.mktemp("engine-logs"),
    )
    try:
        await fleet.start()
        (receiver,) = fleet.receivers()
        await receiver.commit(0)  # it holds what the model's directory holds
        await fleet.admit(0)
        async with GenerateClient(fleet.base_url, max_concurrency=64, request_timeout_s=60.0) as client:
            yield World(
                directory,
                AutoTokenizer.from_pretrained(model_path),
                AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32),
                client,
                fleet.base_url,
            )
    finally:
        await fleet.close()
        await placement.release()


async def made(context: RolloutContext, n_prompts: int, n_samples: int) -> list[Sample]:
    """The samples of the job's own generate function."""
    import asyncio

    generate, sampling = context.doors.generate, context.config.rollout.sampling
    assert generate is not None
    groups = context.data.next_groups(n_prompts, n_samples)
    found = await asyncio.gather(*(generate(context, sample, sampling) for group in groups for sample in group))
    return [sample for each in found for sample in (each if isinstance(each, list) else [each])]


async def test_the_policy_with_a_calculator_reads_what_it_writes_and_learns_its_own_words(world: World) -> None:
    context = world.context(custom_generate.spec(world.directory))
    samples = await made(context, 16, 16)
    used = [sample for sample in samples if sample.metadata["tool_calls"]]
    assert 0 < len(used) < len(samples)
    for sample in samples:
        world.check(sample)
        response = sample.tokens[-sample.response_length :]
        masked = world.tokenizer.decode([t for t, bit in zip(response, sample.loss_mask, strict=True) if not bit])
        assert bool(masked) == bool(sample.metadata["tool_calls"])
        if sample.metadata["tool_calls"]:
            asked = world.tokenizer.decode(response[: sample.loss_mask.index(0)])
            assert masked.startswith(str(calculator.calculate(asked)))
        sample.reward = await context.reward(sample)
    assert {sample.reward for sample in used} <= {0.1, 1.0}


async def test_a_game_of_several_turns_is_one_sample_that_the_template_would_render(world: World) -> None:
    context = world.context(multi_turn.spec(world.directory))
    samples = await made(context, 9, 16)
    groups: list[list[Sample]] = [samples[i : i + 16] for i in range(0, len(samples), 16)]
    assert any(sample.reward for sample in samples)
    for sample in samples:
        world.check(sample)
        guesses = sample.metadata["guesses"]
        right = guess.answer(guesses[-1], int(sample.label)) is None
        assert sample.reward == (1 / len(guesses) if right else 0.0)
        if sample.status is SampleStatus.COMPLETED and not right:
            assert len(guesses) == guess.MAX_GUESSES
        # The whole game, as the chat template renders it from its messages.
        messages = [{"role": "user", "content": sample.prompt}]
        for number, said in enumerate(guesses):
            messages.append({"role": "assistant", "content": said})
            hint = guess.answer(said, int(sample.label))
            if number + 1 < len(guesses):
                messages.append({"role": "user", "content": str(hint)})
        text = world.tokenizer.apply_chat_template(messages, tokenize=False)
        held = world.tokenizer.decode(sample.tokens)
        assert text.removesuffix("<|end|>") == held.removesuffix("<|end|>")
    batch = build_train_batch(
        0,
        groups,
        context.config.algorithm,
        global_batch_size=len(samples),
        data_parallel_size=1,
        max_tokens=4096,
    )
    assert len(batch.samples) == len(samples)


async def test_a_rollout_of_ones_own_keeps_groups_that_hold_something_to_learn(world: World) -> None:
    job = custom_rollout.spec(world.directory)
    context = world.context(job, rollout_batch_size=4, n_samples_per_prompt=32)
    rollout = load_plugins(context.config).rollout_function
    assert rollout is not None
    output = await rollout(context, 0)
    assert len(output.groups) == 4
    contrasting = int(output.metrics["contrasting_groups"])
    for number, group in enumerate(output.groups):
        for sample in group:
            world.check(sample)
        assert (len({sample.reward for sample in group}) > 1) == (number < contrasting)


async def test_partial_credit_pays_for_what_is_near(world: World) -> None:
    context = world.context(custom_reward.spec(world.directory), rollout_batch_size=4, n_samples_per_prompt=8)
    output = await generate_rollout(context, 0)
    generated = [sample for group in output.groups for sample in group]
    assert len(generated) == 32
    for sample in generated:
        world.check(sample)
        assert sample.reward == await context.reward(sample)
    [[sample]] = context.data.next_groups(1, 1)
    right = int(sample.label)
    paid = {}
    for text in (str(right), str(right + 1), str(right + 3), "+", "", "９"):
        sample.response = text
        paid[text] = await context.reward(sample)
    assert list(paid.values()) == [1.0, 0.25, 0.125, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("example", [custom_generate, custom_reward, custom_rollout, multi_turn])
def test_each_example_is_a_job_that_the_api_accepts(example: Any, tmp_path: Path) -> None:
    from controlplane.jobs.spec import JobSpec

    spec = JobSpec.model_validate(json.loads(json.dumps(example.spec(tmp_path))))
    load_plugins(RunConfig.model_validate({name: getattr(spec, name) for name in RunConfig.model_fields}))
