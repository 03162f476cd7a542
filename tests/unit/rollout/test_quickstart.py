"""The quickstart's task and tokenizer say what its reward rewards."""

import hashlib
from pathlib import Path
from unittest.mock import patch

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from examples.quickstart import build
from examples.quickstart.job import spec
from trainers.config import DataConfig, RunConfig
from trainers.rollout.data import PromptData, prompts
from trainers.rollout.data.reader import PromptTokens
from trainers.rollout.rewards import label_check
from trainers.rollout.rewards.exact import exact_match


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("quickstart")
    build.write_task(directory / "sums.jsonl")
    build.write_tokenizer(directory / "model")
    return directory


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(directory / "model")


def test_the_job_fits_its_schema_and_its_data(directory: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    config = RunConfig.model_validate(spec(directory))
    data = PromptData(config.data, tokenizer, check_label=label_check(config.rollout.reward))
    groups = data.next_groups(len(data), 1)
    assert len({str(group[0].prompt) for group in groups}) == len(data)
    for (sample,) in groups:
        question = str(sample.prompt).removesuffix("=")
        assert sum(map(int, question.split("+"))) == int(sample.label)
        assert tokenizer.decode(sample.tokens) == f"<|user|>{sample.prompt}<|assistant|>"
        assert len(sample.tokens) == len(str(sample.prompt)) + 2


@pytest.mark.parametrize(
    ("tokens", "reward"),
    [(["7", "<|end|>"], 1), (["7", "<|user|>"], 0), (["7", "7"], 0), (["<|end|>"], 0), (["<|user|>", "7"], 0)],
)
def test_only_the_sum_and_the_end_are_rewarded(
    tokenizer: PreTrainedTokenizerBase, tokens: list[str], reward: float
) -> None:
    ids = [build.VOCABULARY.index(token) for token in tokens]
    assert exact_match(tokenizer.decode(ids, skip_special_tokens=True), "7") == reward


def test_a_question_in_words_and_spaces_is_the_same_question(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.encode("What is 3 + 4 = ?") == tokenizer.encode("3+4=")
    assert tokenizer.decode(tokenizer.encode("12")) == "12"


def test_building_twice_gives_the_same_files(directory: Path, tmp_path: Path) -> None:
    build.write_task(tmp_path / "sums.jsonl")
    build.write_tokenizer(tmp_path / "model")
    assert digests(tmp_path) == digests(directory)


def digests(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("template", [True, False])
def test_prompts_are_measured_many_at_once_as_one_by_one_and_remembered(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: bool
) -> None:
    monkeypatch.setenv("ROLLWAY_CACHE", str(tmp_path))
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(f'{{"input": "{"+".join("1" * (1 + i % 5))}="}}\n' for i in range(40)))
    limit = 6
    config = DataConfig(prompt_data=str(path), max_prompt_len=limit, apply_chat_template=template, shuffle=True)
    everything = PromptData(config.model_copy(update={"max_prompt_len": None, "shuffle": False}), tokenizer)
    lengths = [len(group[0].tokens) for group in everything.next_groups(len(everything), 1)]
    told: list[str] = []
    monkeypatch.setattr(prompts, "_PROGRESS_S", -1.0)
    first = PromptData(config, tokenizer, progress=told.append)
    assert 0 < len(first) == sum(length <= limit for length in lengths) < len(lengths)
    assert told == [f"the prompts of {path} to be measured: 0 of {len(lengths)} are"]
    with patch.object(PromptTokens, "of_many", side_effect=AssertionError("measured again")):
        again = PromptData(config, tokenizer)
        assert (len(again), again.num_too_long) == (len(first), first.num_too_long)
        assert again.next_groups(20, 1) == first.next_groups(20, 1)
        with pytest.raises(AssertionError, match="measured again"):
            PromptData(config.model_copy(update={"max_prompt_len": limit + 1}), tokenizer)
