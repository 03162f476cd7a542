"""The SFT and DPO examples, from their data through Megatron to what the model then says; no engine takes part."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.algorithms.build import build
from examples.algorithms.jobs import spec
from examples.quickstart.build import NUMBERS
from tests.e2e.test_algorithms import single_rank
from trainers.batch import build_train_batch
from trainers.config import RunConfig
from trainers.config.algorithm import rollout_function_of
from trainers.plugins import load_function
from trainers.rollout.data import PromptData
from trainers.rollout.protocols import RolloutContext

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("algorithms")
    build(directory)
    return directory


async def trained(name: str, task: Path, export: Path) -> tuple[list[dict[str, float]], Any, Any]:
    """(metrics of each rollout, the exported model, its tokenizer)."""
    config = RunConfig.model_validate({k: v for k, v in spec(name, task).items() if k != "name"})
    tokenizer = AutoTokenizer.from_pretrained(task / "model")
    path = rollout_function_of(config.algorithm)
    assert path is not None
    function = load_function(path, parameters=("context", "rollout_id"))
    nothing: Any = None
    context = RolloutContext(
        config=config,
        data=PromptData(config.data, tokenizer),
        client=nothing,
        reward=nothing,
        tokenizer=tokenizer,
        base_url="",
        weight_version=0,
        progress=lambda text: None,
    )
    metrics: list[dict[str, float]] = []
    with single_rank(config) as rank:
        for rollout_id in range(config.num_rollouts):
            output = await function(context, rollout_id)
            batch = build_train_batch(
                rollout_id,
                output.groups,
                config.algorithm,
                global_batch_size=config.global_batch_size,
                data_parallel_size=1,
                max_tokens=config.trainer.max_tokens_per_gpu,
            )
            metrics.append(rank.step(batch).metrics)
        rank.export_hf(export)
    return metrics, AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32), tokenizer


def ids_of(tokenizer: Any, question: str, answer: str | None = None) -> torch.Tensor:
    messages = [{"role": "user", "content": question}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=answer is None, return_dict=False)
    return torch.tensor([found])


async def test_after_sft_the_model_knows_its_sums(task: Path, tmp_path: Path) -> None:
    metrics, model, tokenizer = await trained("sft", task, tmp_path / "sft")
    assert metrics[-1]["loss"] < 0.1 < 1.0 < metrics[0]["loss"]
    assert metrics[-1]["log_likelihood"] == pytest.approx(-metrics[-1]["loss"])
    right = 0
    for a in NUMBERS:
        for b in NUMBERS:
            ids = ids_of(tokenizer, f"{a}+{b}=")
            out = model.generate(ids, max_new_tokens=3, do_sample=False)
            right += tokenizer.decode(out[0, ids.shape[1] :]) == f"{a + b}<|end|>"
    assert right == len(NUMBERS) ** 2


async def test_after_dpo_the_model_prefers_every_right_answer_to_the_wrong_one(task: Path, tmp_path: Path) -> None:
    metrics, model, tokenizer = await trained("dpo", task, tmp_path / "dpo")
    assert metrics[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # policy and reference are the same: log 2
    assert metrics[-1]["accuracy"] == 1.0
    assert metrics[-1]["chosen_reward"] > metrics[-1]["rejected_reward"]
    for a in NUMBERS:
        for b in NUMBERS:
            start = ids_of(tokenizer, f"{a}+{b}=").shape[1]
            chances: list[float] = []
            for answer in (a + b, a + b + 1):
                ids = ids_of(tokenizer, f"{a}+{b}=", str(answer))
                with torch.no_grad():
                    log_p = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
                chances.append(float(log_p.gather(1, ids[0, start:, None]).sum()))
            assert chances[0] > chances[1]
