"""Functions as they are written for slime, with its own imports."""

import asyncio
from typing import Any

from slime.rollout.base_types import RolloutFnEvalOutput, RolloutFnTrainOutput
from slime.rollout.filter_hub.base_types import DynamicFilterOutput
from slime.rollout.rm_hub.math_dapo_utils import compute_score
from slime.rollout.sglang_rollout import GenerateState
from slime.utils.async_utils import run
from slime.utils.http_utils import post
from slime.utils.types import Sample

TOKENIZER = None


async def generate(args: Any, sample: Sample, sampling_params: dict[str, Any]) -> Sample:
    """The usage document's simplified form: text in, text out, the booleans set."""
    global TOKENIZER
    TOKENIZER = TOKENIZER or GenerateState(args).tokenizer
    output = await post(
        f"http://{args.sglang_router_ip}:{args.sglang_router_port}/generate",
        {"text": sample.prompt, "sampling_params": sampling_params},
    )
    prompt_tokens_ids = TOKENIZER(sample.prompt, add_special_tokens=False)["input_ids"]
    response_token_ids = TOKENIZER(output["text"], add_special_tokens=False)["input_ids"]
    sample.tokens = prompt_tokens_ids + response_token_ids
    sample.response_length = len(response_token_ids)
    sample.truncated = output["meta_info"]["finish_reason"]["type"] == "length"
    sample.response = output["text"]
    sample.aborted = output["meta_info"]["finish_reason"]["type"] == "abort"
    return sample


async def with_tools(args: Any, sample: Sample, sampling_params: dict[str, Any], evaluation: bool = False) -> Sample:
    """The later form: ids, log-probabilities and a mask."""
    sample.metadata["evaluation"] = evaluation
    assert not args.partial_rollout
    state = GenerateState(args)
    assert GenerateState(args) is state
    sample.tokens = state.tokenizer(sample.prompt, add_special_tokens=False)["input_ids"]
    output = await post(
        f"http://{args.sglang_router_ip}:{args.sglang_router_port}/generate",
        {"input_ids": sample.tokens, "sampling_params": sampling_params, "return_logprob": True},
    )
    pairs = output["meta_info"]["output_token_logprobs"]
    sample.append_response_tokens(
        args,
        tokens=[each[1] for each in pairs],
        log_probs=[each[0] for each in pairs],
        meta_info=output["meta_info"],
        text=output["text"],
    )
    sample.append_response_tokens(args, tokens=[61, 52], trainable=False)
    sample.status = Sample.Status.COMPLETED
    sample.metadata["tools"] = 1
    return sample


async def fan_out(args: Any, sample: Sample, sampling_params: dict[str, Any]) -> list[Sample]:
    import copy

    made: list[Sample] = []
    for number in range(2):
        each = copy.copy(sample)
        each.tokens = [1, 2, 3 + number]
        each.response_length = 1
        each.loss_mask = [1]
        each.status = Sample.Status.COMPLETED
        each.rollout_id = sample.index
        made.append(each)
    return made


async def bad_mask(args: Any, sample: Sample, sampling_params: dict[str, Any]) -> Sample:
    sample.tokens, sample.response_length, sample.loss_mask = [1, 2, 3], 2, [1]
    return sample


async def gives_up(args: Any, sample: Sample, sampling_params: dict[str, Any]) -> Sample:
    sample.status = Sample.Status.ABORTED
    return sample


async def tells_its_sampling(args: Any, sample: Sample, sampling_params: dict[str, Any]) -> Sample:
    sample.metadata = {"given": sampling_params, "jobs": GenerateState(args).sampling_params}
    return sample


async def graded(args: Any, sample: Sample, sampling_params: dict[str, Any]) -> Sample:
    """Scores what it makes, as a dictionary."""
    sample.tokens, sample.response_length, sample.status = [1, 2, 3], 1, Sample.Status.COMPLETED
    sample.reward = {"score": -1.0, "acc": 0.25}
    return sample


def generate_rollout(args: Any, rollout_id: int, data_buffer: Any, evaluation: bool = False) -> Any:
    groups = data_buffer.get_samples(args.rollout_batch_size)

    async def fill(sample: Sample) -> Sample:
        await asyncio.sleep(0)
        sample.tokens = [*sample.tokens, 50 + sample.index]
        sample.response_length, sample.reward = 1, sample.index * 1.0
        sample.status = Sample.Status.COMPLETED
        return sample

    async def all_of_them() -> list[list[Sample]]:
        return [list(await asyncio.gather(*map(fill, group))) for group in groups]

    found = run(all_of_them())
    if evaluation:
        return {"set": {"rewards": [s.reward for g in found for s in g], "truncated": [False] * 2}}
    return RolloutFnTrainOutput(samples=found, metrics={"own": 2})


def evaluate_own(args: Any, rollout_id: int, data_buffer: Any, evaluation: bool = False) -> Any:
    """Samples that no buffer handed out: two of one prompt, and one of another, each with its reward."""
    assert evaluation
    samples = [Sample(index=i, group_index=i // 2, prompt=f"p{i // 2}", label="l") for i in range(3)]
    for sample in samples:
        sample.tokens, sample.response, sample.response_length = [97, 98, 120], "x", 1
        sample.status = Sample.Status.TRUNCATED if sample.index == 1 else Sample.Status.COMPLETED
    return {"own": {"rewards": [1.0, 0.0, 0.5], "truncated": [s.truncated for s in samples], "samples": samples}}


def finds_nothing(args: Any, rollout_id: int, data_buffer: Any, evaluation: bool = False) -> Any:
    return next(iter(()))


def nameless(args: Any, rollout_id: int, data_buffer: Any, evaluation: bool = False) -> Any:
    return RolloutFnTrainOutput(samples=[[Sample(prompt="p", tokens=[1])]])


def annotated_rollout(
    args: Any, rollout_id: int, data_source: Any, evaluation: bool = False
) -> RolloutFnTrainOutput | RolloutFnEvalOutput:
    """As slime annotates its own."""
    return evaluate_own(args, rollout_id, data_source, evaluation)


def nameless_for_training(args: Any, rollout_id: int, data_buffer: Any) -> Any:
    """Which nobody could ask to evaluate."""
    return nameless(args, rollout_id, data_buffer)


def split_attempts(args: Any, rollout_id: int, data_buffer: Any, evaluation: bool = False) -> Any:
    """The first attempt of the group is two samples, the second is one."""
    [[first, second]] = data_buffer.get_samples(1)
    for sample in (first, second):
        sample.status = Sample.Status.COMPLETED
    return [[[first, Sample.from_dict(first.to_dict())], second]]


def evaluates_to_a_number(args: Any, rollout_id: int, data_buffer: Any, evaluation: bool = False) -> Any:
    return {"own": 0.5}


RUNNING: list[int] = []


async def waits(args: Any, sample: Sample, sampling_params: dict[str, Any]) -> Sample:
    RUNNING.append(sample.index or 0)
    await asyncio.sleep(0.02)
    assert len(RUNNING) <= args.sglang_server_concurrency
    RUNNING.remove(sample.index or 0)
    sample.status = Sample.Status.COMPLETED
    return sample


async def rm(args: Any, sample: Sample) -> float:
    return args.bonus + len(sample.response)


async def boxed_rm(args: Any, sample: Sample) -> dict[str, Any]:
    """As slime's tool examples score."""
    return compute_score(sample.response, sample.label, strict_box_verify=True)


async def group_rm(args: Any, group: list[Sample]) -> list[float]:
    return [float(sample.response_length) for sample in group]


def advantage(args: Any, rollout_data: dict[str, Any]) -> None:
    rollout_data["advantages"] = rollout_data["returns"] = rollout_data["kl"]


def keep(args: Any, samples: list[Sample], **kwargs: Any) -> DynamicFilterOutput:
    return DynamicFilterOutput(keep=len(samples) > 1, reason="alone")


def keep_as_a_tensor(args: Any, samples: list[Sample]) -> DynamicFilterOutput:
    """As slime's own filter has it: what a comparison of tensors gives is no bool."""
    import numpy as np

    return DynamicFilterOutput(keep=np.std([sample.reward for sample in samples]) > 0.0)  # type: ignore[arg-type]


def remove_odd(args: Any, groups: list[list[Sample]]) -> None:
    for group in groups:
        for sample in group:
            sample.remove_sample = bool(sample.index % 2)


def double(args: Any, samples: list[Sample]) -> tuple[list[float], list[float]]:
    return [s.reward for s in samples], [2 * s.reward for s in samples]


def last_first(args: Any, rollout_id: int, buffer: list[list[Sample]], num_samples: int) -> list[list[Sample]]:
    return [buffer.pop() for _ in range(min(num_samples, len(buffer)))]


def log(rollout_id: int, args: Any, samples: list[Sample], extra: dict[str, Any], seconds: float) -> bool:
    extra["n"] = len(samples)
    return rollout_id == 1


def before_step(args: Any, rollout_id: int, step_id: int, model: Any, optimizer: Any, opt_param_scheduler: Any) -> None:
    args.seen.append((rollout_id, step_id))


class Source:
    """As slime's base class has it."""

    def __init__(self, args: Any) -> None:
        self.args = args
        self.position = 0
        self.saved: dict[Any, int] = {}

    def __len__(self) -> int:
        return 4

    def get_samples(self, num_samples: int) -> list[list[Sample]]:
        groups: list[list[Sample]] = []
        for _ in range(num_samples):
            n = self.args.n_samples_per_prompt
            groups.append(
                [Sample(index=self.position * n + i, group_index=self.position, prompt="ab") for i in range(n)]
            )
            self.position += 1
        return groups

    def save(self, rollout_id: int) -> None:
        self.saved[rollout_id] = self.position

    def load(self, rollout_id: int | None = None) -> None:
        self.position = self.saved[rollout_id]
