"""The quickstart's task and tokenizer say what its reward rewards."""

import hashlib
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from examples.quickstart import build
from examples.quickstart.job import spec
from trainers.config import RunConfig
from trainers.rollout.data import PromptData
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
