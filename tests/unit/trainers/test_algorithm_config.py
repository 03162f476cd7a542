"""The algorithm section: what applies to each, and what is refused with its reason."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from trainers.config import AlgorithmConfig, GRPOConfig, PPOConfig
from trainers.config.algorithm import needs_reference

SECTION: TypeAdapter[Any] = TypeAdapter(AlgorithmConfig)
NAMES = [
    *("grpo", "dr_grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline"),
    *("ppo", "gspo", "cispo", "sft", "dpo"),
]


def minimal(name: str) -> dict[str, Any]:
    return {"name": name} | ({"loss_divisor": 64} if name == "dr_grpo" else {})


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_is_there_and_survives_being_stored(name: str) -> None:
    found = SECTION.validate_python(minimal(name))
    assert found.name == name
    assert SECTION.validate_python(found.model_dump(mode="json")) == found


def test_without_a_name_it_is_grpo_with_its_fields_of_old() -> None:
    fields = {"eps_clip": 0.1, "eps_clip_c": 3.0, "normalize_std": False, "loss_aggregation": "token_mean"}
    found = SECTION.validate_python(fields)
    assert isinstance(found, GRPOConfig)
    assert (found.clip_high, found.use_rollout_log_probs) == (0.1, False)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("grpo", {"kl_coef": 0.1}, "would not change: use kl.loss_coef"),
        ("grpo", {"kl": {"reward_coef": 0.1}}, "would not change: use kl.loss_coef"),
        ("ppo", {"kl_coef": 0.1}, "kl_coef is written kl.reward_coef"),
        ("ppo", {"kl": {"reward_coef": 0.1, "loss_coef": 0.1}}, "exactly one of loss_coef"),
        ("ppo", {"kl": {"reward_coef": 0.1, "use_unbiased": True}}, "needs kl.loss_coef"),
        ("grpo", {"kl": {}}, "exactly one of loss_coef"),
        ("grpo", {"gamma": 0.9}, "Extra inputs"),
        ("grpo", {"value_clip": 0.2}, "Extra inputs"),
        ("cispo", {"eps_clip_c": 3.0}, "Extra inputs"),
        ("sft", {"eps_clip": 0.2}, "Extra inputs"),
        ("dpo", {"loss_aggregation": "token_mean"}, "Extra inputs"),
        ("dr_grpo", {"loss_aggregation": "token_mean"}, "Input should be 'constant'"),
        ("grpo", {"loss_aggregation": "constant"}, "loss_divisor is required"),
        ("grpo", {"loss_divisor": 8}, "only allowed there"),
        ("grpo", {"normalize_rewards": False}, "set it to false too"),
        ("grpo", {"use_rollout_log_probs": True, "correction": {}}, "take one of the two"),
        ("grpo", {"use_rollout_log_probs": True, "keep_old_actor": True}, "both say whose"),
        ("grpo", {"correction": {"clip": 1.0, "clip_low": 2.0}}, "must be below"),
        ("reinforce_plus_plus", {"normalize_advantages": False}, "Input should be True"),
        ("adamw", {}, "name must be one of grpo"),
    ],
)
def test_what_does_not_apply_or_contradicts_is_refused(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SECTION.validate_python(minimal(name) | fields)


def test_a_reference_is_needed_for_a_kl_anywhere_and_for_pairs() -> None:
    assert not needs_reference(GRPOConfig())
    assert needs_reference(SECTION.validate_python({"kl": {"loss_coef": 0.0}}))
    assert needs_reference(PPOConfig.model_validate({"kl": {"reward_coef": 0.1}}))
    assert needs_reference(SECTION.validate_python({"name": "dpo"}))
