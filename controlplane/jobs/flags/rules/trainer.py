"""Batches, layout and schedule."""

from collections.abc import Mapping

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.given import Given


def apply(given: Given, draft: Draft, files: Mapping[str, str]) -> None:
    _batch(given, draft)
    _micro_batches(given, draft)
    _dropout(given, draft)
    _layout(given, draft)
    _warmup(given, draft)
    seed = given["--seed"]
    if "--seed" in given:
        draft.set("trainer.seed", seed, "--seed")
        draft.set("engine.seed", seed, "--seed")
    else:
        draft.default("engine.seed", seed, "--seed")
    draft.set("trainer.dtype", "bfloat16", "--bf16")
    if given["--train-backend"] == "megatron":
        draft.ignore("--train-backend", "Megatron is the only one")
    else:
        draft.refuse("--train-backend", "not supported: training goes through Megatron")
    if given["--qkv-format"] == "thd":
        draft.ignore("--qkv-format", "it is always so: sequences are packed")
    else:
        draft.refuse("--qkv-format", "not supported: sequences are always packed, which is thd")
    if "--train-env-vars" in given:
        variables = given["--train-env-vars"]
        if isinstance(variables, dict):
            for name, value in variables.items():  # pyright: ignore[reportUnknownVariableType]
                draft.set(f"runtime.env_vars.{name}", str(value), "--train-env-vars")  # pyright: ignore[reportUnknownArgumentType]
            draft.ignore("--train-env-vars", "it is empty")
        else:
            draft.refuse("--train-env-vars", "takes a JSON object of names and values")


def _batch(given: Given, draft: Draft) -> None:
    """``--global-batch-size`` is the field's own; this is the other way to say it."""
    flag, steps, prompts = "--num-steps-per-rollout", given["--num-steps-per-rollout"], given["--rollout-batch-size"]
    if flag not in given or prompts is None:
        draft.ignore(flag, "it divides --rollout-batch-size, which is missing")
        if flag not in given and "--global-batch-size" not in given:
            draft.remark(
                f"neither --global-batch-size nor {flag} is given: a step has all samples of a rollout. slime's has "
                "--micro-batch-size samples for each data-parallel rank, which is Megatron's default"
            )
        return
    samples = prompts * given["--n-samples-per-prompt"]
    size = samples // steps if steps > 0 else 0
    if size < 1:
        draft.refuse(flag, f"must be between 1 and the {samples} samples of a rollout")
    elif given["--global-batch-size"] not in (None, size):
        why = f"{samples} samples in {steps} steps are {size} a step, and --global-batch-size says otherwise"
        draft.refuse(flag, why)
    else:
        draft.set("trainer.global_batch_size", size, flag)


def _dropout(given: Given, draft: Draft) -> None:
    if missing := [flag for flag in ("--attention-dropout", "--hidden-dropout") if flag not in given]:
        draft.remark(f"{' and '.join(missing)}: 0 here; unset, slime trains with Megatron's default of 0.1")


def _micro_batches(given: Given, draft: Draft) -> None:
    tokens, count = "--max-tokens-per-gpu", "--micro-batch-size"
    if "--use-dynamic-batch-size" in given:
        if tokens in given:
            draft.set("trainer.max_tokens_per_gpu", given[tokens], tokens)
        else:
            draft.refuse("--use-dynamic-batch-size", f"it packs micro-batches up to {tokens}: give that too")
        draft.ignore(count, "--use-dynamic-batch-size packs by tokens")
        return
    draft.ignore(tokens, "only with --use-dynamic-batch-size")
    if count in given:
        draft.set("trainer.micro_batch_size", given[count], count)


def _layout(given: Given, draft: Draft) -> None:
    if "--sequence-parallel" in given:
        if (given["--tensor-model-parallel-size"] or 1) > 1:
            draft.set("trainer.sequence_parallel", True, "--sequence-parallel")
        else:
            draft.ignore("--sequence-parallel", "one tensor-parallel rank has nothing to split")
    flag, stages = "--num-layers-per-virtual-pipeline-stage", "--num-virtual-stages-per-pipeline-rank"
    if flag in given:
        layers, ranks = draft.get("trainer.megatron.num_layers"), given["--pipeline-model-parallel-size"] or 1
        per_rank = given[flag] * ranks
        if stages in given or not isinstance(layers, int) or per_rank < 1 or layers % per_rank:
            draft.refuse(flag, f"use {stages}: the layers of a pipeline rank ÷ this")
        else:
            field = "trainer.num_virtual_stages_per_pipeline_rank"
            draft.set(field, layers // per_rank, flag)
    flag = "--moe-token-dispatcher-type"
    if flag in given:
        if given[flag] == "alltoall":
            draft.set("trainer.megatron.moe_token_dispatcher_type", "alltoall", flag)
        else:
            draft.set(
                "trainer.megatron.moe_token_dispatcher_type",
                "alltoall",
                flag,
                why="alltoall in its place, which computes the same",
            )


def _warmup(given: Given, draft: Draft) -> None:
    if "--lr-warmup-fraction" in given:
        flag = "--lr-warmup-iters"
        draft.drop("trainer.lr_warmup_steps", flag, "--lr-warmup-fraction goes before it")
