"""Which algorithm, and what of the flags applies to it."""

from collections.abc import Mapping
from typing import Any

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.fields import models
from controlplane.jobs.flags.given import Given
from controlplane.jobs.flags.table import GROUPS
from trainers.config import AlgorithmConfig

_MODELS: dict[str, Any] = {model.model_fields["name"].default: model for model in models(AlgorithmConfig)}
_PLAIN = (
    *("--eps-clip", "--eps-clip-high", "--eps-clip-c", "--value-clip", "--entropy-coef", "--gamma", "--lambd"),
    *("--normalize-advantages", "--keep-old-actor", "--custom-advantage-function-path"),
)
_NO_PENALTY = "without --use-kl-loss or --kl-coef there is no KL penalty"


def trains_alone(given: Given) -> bool:
    """Whether slime would start no engines."""
    return "--debug-train-only" in given or "--load-debug-rollout-data" in given


def generates(given: Given) -> bool:
    """Whether there are rollouts to learn from."""
    return given["--loss-type"] != "sft_loss" and not trains_alone(given)


def uses_engines(given: Given) -> bool:
    return generates(given) or ("--eval-interval" in given and not trains_alone(given))


def apply(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    sft = given["--loss-type"] == "sft_loss"
    name = "sft" if sft else given["--advantage-estimator"]
    if not sft or "--loss-type" in given:
        draft.set("algorithm.name", name, "--loss-type" if sft else "--advantage-estimator")
    fields = _MODELS[name].model_fields
    for flag in _PLAIN:
        field = _field(flag)
        if flag in given and field in fields:
            draft.set(f"algorithm.{field}", given[flag], flag)
    aggregation = "token_mean" if "--calculate-per-token-loss" in given else "rollout_mean"
    if "--calculate-per-token-loss" in given:
        draft.set("algorithm.loss_aggregation", aggregation, "--calculate-per-token-loss")
    else:
        draft.default("algorithm.loss_aggregation", aggregation, "--calculate-per-token-loss")
    if "--use-rollout-logprobs" in given and "use_rollout_log_probs" in fields:
        draft.set("algorithm.use_rollout_log_probs", True, "--use-rollout-logprobs")
    _loss(given, draft, sft)
    if "kl" in fields:
        _kl(given, draft, in_reward=_MODELS[name].kl_in_reward)
    if "correction" in fields:
        _part(given, draft, "--use-tis", "correction", {"clip": "--tis-clip", "clip_low": "--tis-clip-low"})
    _level(given, draft)
    if "opsm" in fields:
        _part(given, draft, "--use-opsm", "opsm", {"delta": "--opsm-delta"})
    if "critic" in fields:
        for flag, field in (("--num-critic-only-steps", "num_critic_only_steps"), ("--critic-lr", "lr")):
            if flag in given:
                draft.set(f"algorithm.critic.{field}", given[flag], flag)
    _normalisation(given, draft, fields)
    for flag in GROUPS["Algorithm"]:
        if flag.kind == "differs":
            draft.ignore(flag.name, f"algorithm {name} has no such part")


def _field(flag: str) -> str:
    return "custom_advantage" if flag == "--custom-advantage-function-path" else flag[2:].replace("-", "_")


def _loss(given: Given, draft: Draft, sft: bool) -> None:
    path, kind = "--custom-loss-function-path", given["--loss-type"]
    if kind == "custom_loss" and path in given:
        draft.set("algorithm.custom_loss", given[path], "--loss-type", path)
    elif kind == "custom_loss":
        draft.refuse("--loss-type", "custom_loss needs --custom-loss-function-path")
    elif not sft:
        draft.ignore("--loss-type", "the policy loss follows from the algorithm")
    draft.ignore(path, "only with --loss-type custom_loss")
    flag = "--disable-compute-advantages-and-returns"
    if sft:
        draft.ignore(flag, "algorithm sft has no advantages anyway")
    else:
        draft.refuse(flag, "the policy loss needs advantages: use --custom-advantage-function-path")


def _kl(given: Given, draft: Draft, *, in_reward: bool) -> None:
    reward, loss, in_loss = given["--kl-coef"], given["--kl-loss-coef"], "--use-kl-loss" in given
    if reward and not in_reward:
        why = "it has no effect under this algorithm, in slime neither: use --use-kl-loss with --kl-loss-coef"
        draft.refuse("--kl-coef", why)
        reward = 0.0
    elif reward and loss:
        draft.refuse("--kl-coef", "--kl-loss-coef is given too: take one of the two")
        reward = 0.0
    if reward:
        draft.set("algorithm.kl.reward_coef", reward, "--kl-coef")
        draft.ignore("--use-kl-loss", "its coefficient is 0, and --kl-coef puts the penalty into the reward")
        draft.ignore("--kl-loss-coef", "0 adds nothing to the loss")
    elif in_loss:
        draft.set("algorithm.kl.loss_coef", loss, "--use-kl-loss", "--kl-loss-coef")
        draft.ignore("--kl-coef", "0 adds nothing to the reward")
        if "--use-unbiased-kl" in given:
            draft.set("algorithm.kl.use_unbiased", True, "--use-unbiased-kl")
    else:
        draft.ignore("--kl-coef", "0 adds nothing to the reward")
        if loss:
            draft.refuse("--kl-loss-coef", "it has no effect without --use-kl-loss: add that, or leave this out")
        draft.ignore("--kl-loss-coef", "0 adds nothing to the loss")
        for flag in ("--kl-loss-type", "--use-unbiased-kl", "--ref-update-interval"):
            draft.ignore(flag, _NO_PENALTY)
        return
    if "--kl-loss-type" in given:
        draft.set("algorithm.kl.estimator", given["--kl-loss-type"], "--kl-loss-type")
    if "--ref-update-interval" in given:
        draft.set("algorithm.kl.ref_update_interval", given["--ref-update-interval"], "--ref-update-interval")
    draft.ignore("--use-unbiased-kl", "only with --use-kl-loss")


def _part(given: Given, draft: Draft, switch: str, part: str, fields: Mapping[str, str]) -> None:
    """A part that one flag switches on and others set."""
    for field, flag in fields.items():
        if switch in given:
            draft.set(f"algorithm.{part}.{field}", given[flag], switch, flag)
        else:
            draft.ignore(flag, f"only with {switch}")


def _level(given: Given, draft: Draft) -> None:
    if given["--tis-level"] == "token":
        draft.ignore("--tis-level", "it is always so")
    else:
        draft.refuse("--tis-level", "not supported: weights are of tokens; algorithm gspo has one ratio per sample")


def _normalisation(given: Given, draft: Draft, fields: Mapping[str, Any]) -> None:
    rewards, std, single = (
        "--disable-rewards-normalization",
        "--disable-grpo-std-normalization",
        given["--n-samples-per-prompt"] == 1,
    )
    if rewards in given and "normalize_rewards" in fields:
        draft.set("algorithm.normalize_rewards", False, rewards)
    if "normalize_std" not in fields:
        return
    if rewards in given or std in given:
        draft.set("algorithm.normalize_std", False, rewards, std)
    elif single:
        draft.set("algorithm.normalize_std", False)
    if single and rewards not in given:
        draft.remark(
            "--n-samples-per-prompt 1: a sample that is alone in its group has no advantage under this algorithm"
        )
