"""How the policy is measured."""

from controlplane.jobs.flags.flag import FLOAT, INT, ON, TEXT, TEXTS, differs, maps, refused

_SAMPLING = "for all eval sets; unset, as for training"

FLAGS = (
    differs(
        "--eval-interval",
        INT,
        "eval.interval",
        "without it nothing is evaluated, as in slime; with it, the last rollout is always evaluated",
    ),
    differs(
        "--eval-prompt-data",
        TEXTS,
        "eval.sets",
        "pairs of name and path; a single path is named `aime`, as in slime",
    ),
    differs(
        "--eval-config",
        TEXT,
        "eval.sets",
        "the file is read where `rollway train` runs; a key that has no field is refused",
    ),
    differs("--skip-eval-before-train", ON, "eval.before_train", "sets it to false"),
    maps("--n-samples-per-eval-prompt", INT, "eval.n_samples_per_prompt", 1),
    differs("--eval-input-key", TEXT, "eval.sets", "the input_key of every set"),
    differs("--eval-label-key", TEXT, "eval.sets", "the label_key of every set"),
    differs("--eval-tool-key", TEXT, "eval.sets", "the tool_key of every set"),
    differs("--eval-temperature", FLOAT, "eval.sampling.temperature", f"{_SAMPLING}; 0 is written as 1 with top_k 1"),
    differs("--eval-top-p", FLOAT, "eval.sampling.top_p", _SAMPLING),
    differs("--eval-top-k", INT, "eval.sampling.top_k", _SAMPLING),
    differs("--eval-max-response-len", INT, "eval.sampling.max_new_tokens", _SAMPLING),
    differs("--eval-min-new-tokens", INT, "eval.sampling.min_new_tokens", _SAMPLING),
    refused("--eval-max-prompt-len", INT, "not supported: all prompts of an eval set are evaluated"),
    refused("--eval-max-context-len", INT, "not supported: training and evaluation share the engine's limit"),
)
