"""Every place where a job calls a function of the user's: what it is for, and how it is called."""

from dataclasses import dataclass

from trainers.plugins.signature import Form

_SAMPLE = ("Sample", "SlimeSample")
_NUMBERS = ("float", "int", "bool", "float32", "float64", "np", "numpy")
_SLIMES_OUTPUTS = ("RolloutFnTrainOutput", "RolloutFnEvalOutput")
"""Its rollout functions evaluate too, and are annotated with both."""


@dataclass(frozen=True, slots=True)
class Door:
    """One kind of plug-in."""

    name: str
    field: str
    """Of the job spec."""
    flag: str
    """slime's."""
    summary: str
    native: Form
    slime: Form | None = None
    """None: it is the same."""
    default: str | None = None
    """What stands there when the field is unset: it comes in by the same door."""


def _plugin(name: str, summary: str, native: Form, slime: Form | None = None, **more: str) -> Door:
    flag = more.pop("flag", f"--{name.replace('_', '-')}-path")
    return Door(name, more.pop("field", f"plugins.{name}"), flag, summary, native, slime, **more)


_ALL = (
    _plugin(
        "rollout_function",
        "Generates a whole rollout, in place of the shipped one.",
        Form(("context", "rollout_id"), ("RolloutOutput",), "RolloutOutput", is_async=True),
        Form(
            ("args", "rollout_id", "data_buffer"),
            (*_SAMPLE, *_SLIMES_OUTPUTS),
            "list[list[Sample]] | RolloutFnTrainOutput",
            keywords=("evaluation",),
        ),
    ),
    _plugin(
        "eval_function",
        "Evaluates the policy, in place of the shipped evaluation.",
        Form(("context", "rollout_id"), (*_SAMPLE, "str"), "dict[str, list[list[Sample]]]", is_async=True),
        Form(
            ("args", "rollout_id", "data_buffer"),
            ("str", "Any", *_SLIMES_OUTPUTS),
            "dict[str, dict[str, list]] | RolloutFnEvalOutput",
            keywords=("evaluation",),
        ),
    ),
    _plugin(
        "custom_generate_function",
        "Generates for one sample, in place of one request: tools, several turns, agents.",
        Form(("context", "sample", "sampling"), _SAMPLE, "Sample | list[Sample]", is_async=True),
        Form(
            ("args", "sample", "sampling_params"),
            _SAMPLE,
            "Sample | list[Sample]",
            keywords=("evaluation",),
            is_async=True,
        ),
    ),
    _plugin(
        "custom_rm",
        "Scores one sample.",
        Form(("sample",), (*_NUMBERS, "dict", "str"), "float"),
        Form(("args", "sample"), (*_NUMBERS, "dict", "str"), "float"),
        field="rollout.reward.function",
    ),
    _plugin(
        "group_rm",
        "Scores all samples of a group at once.",
        Form(("samples",), (*_NUMBERS, "dict", "str"), "list[float]"),
        Form(("args", "samples"), (*_NUMBERS, "dict", "str"), "list[float]"),
        field="rollout.reward.function",
        flag="--custom-rm-path with --group-rm",
    ),
    _plugin(
        "dynamic_sampling_filter",
        "Keeps or drops a finished group; dropped ones are generated anew from other prompts.",
        Form(("group",), ("bool",), "bool", is_async=False),
        Form(("args", "samples"), ("bool", "DynamicFilterOutput"), "bool | DynamicFilterOutput", is_async=False),
        field="rollout.dynamic_sampling_filter",
    ),
    _plugin(
        "buffer_filter",
        "Chooses which of the buffered groups go on first, and takes them out of the buffer.",
        Form(("buffer", "n_groups"), _SAMPLE, "list[list[Sample]]", is_async=False),
        Form(("args", "rollout_id", "buffer", "num_samples"), _SAMPLE, "list[list[Sample]]", is_async=False),
    ),
    _plugin(
        "data_source",
        "Hands out prompts: a class, in place of the shipped one.",
        Form(
            ("config", "tokenizer"),
            methods=(
                ("__len__", ()),
                ("next_groups", ("n_prompts", "n_samples")),
                ("state", ()),
                ("load_state", ("state",)),
            ),
        ),
        Form(
            ("args",),
            methods=(
                ("__len__", ()),
                ("get_samples", ("num_samples",)),
                ("save", ("rollout_id",)),
                ("load", ("rollout_id",)),
            ),
        ),
    ),
    _plugin(
        "rollout_sample_filter",
        "Says which finished samples take part in the loss; the others are masked.",
        Form(("sample", "group"), ("bool",), "bool", is_async=False),
        Form(("args", "groups")),
    ),
    _plugin(
        "rollout_all_samples_process",
        "Sees all samples of a rollout, those too that a filter dropped.",
        Form(("groups", "data")),
        Form(("args", "samples", "data_source")),
    ),
    _plugin(
        "rollout_data_postprocess",
        "Has the last word on the groups before they become a batch; changes them in place.",
        Form(("groups",)),
        Form(("args", "samples")),
    ),
    _plugin(
        "custom_reward_post_process",
        "Turns the rewards of a rollout into what advantages are made of, in place of the algorithm's normalisation.",
        Form(("groups",), _NUMBERS, "list[list[float]]"),
        Form(("args", "samples"), (*_NUMBERS, "dict", "str"), "tuple[list[float], list[float]]"),
    ),
    _plugin(
        "custom_rollout_log_function",
        "Sees a rollout that is about to be reported, and may change its metrics.",
        Form(("rollout_id", "groups", "metrics"), ("str", "float", "None"), "dict[str, float] | None"),
        Form(
            ("rollout_id", "args", "samples", "rollout_extra_metrics", "rollout_time"), ("bool", "None"), "bool | None"
        ),
    ),
    _plugin(
        "custom_eval_rollout_log_function",
        "Sees an evaluation that is about to be reported, and may change its metrics.",
        Form(("rollout_id", "sets", "metrics"), ("str", "float", "None"), "dict[str, float] | None"),
        Form(("rollout_id", "args", "data", "extra_metrics"), ("bool", "None"), "bool | None"),
    ),
    _plugin(
        "custom_loss",
        "The loss of every token, in place of the policy loss; in slime's form, the whole loss.",
        Form(("inputs", "algorithm"), ("Tensor", "torch"), "Tensor", is_async=False),
        Form(
            ("args", "batch", "logits", "sum_of_sample_mean"),
            ("Tensor", "torch", "str", "float"),
            "tuple[Tensor, dict[str, Tensor]]",
            is_async=False,
        ),
        field="algorithm.custom_loss",
        flag="--custom-loss-function-path",
    ),
    _plugin(
        "custom_advantage",
        "The advantage of every token, in place of the algorithm's.",
        Form(("inputs", "algorithm"), ("Tensor", "torch"), "Tensor", is_async=False),
        Form(("args", "rollout_data"), is_async=False),
        field="algorithm.custom_advantage",
        flag="--custom-advantage-function-path",
    ),
    _plugin(
        "custom_model_provider",
        "Builds a Megatron model, in place of the one for the Hugging Face checkpoint.",
        Form(("pre_process", "post_process"), ("GPTModel", "MegatronModule", "Module", "nn", "torch"), "GPTModel"),
    ),
    _plugin("custom_megatron_init", "Called once on every rank when Megatron is ready.", Form(("args",))),
    _plugin(
        "custom_megatron_before_log_prob_hook",
        "Called on every rank before each pass that computes log-probabilities alone.",
        Form(("args", "model", "store_prefix")),
    ),
    _plugin(
        "custom_megatron_before_train_step_hook",
        "Called on every rank before each optimizer step, when the gradients are zero.",
        Form(("args", "rollout_id", "step_id", "model", "optimizer", "opt_param_scheduler")),
    ),
)

DOORS: dict[str, Door] = {door.name: door for door in _ALL}
"""By name: slime's flag without ``-path``, in most cases."""
