"""Where prompts come from."""

from controlplane.jobs.flags.flag import INT, JSON, ON, TEXT, differs, maps, refused

FLAGS = (
    maps("--prompt-data", TEXT, "data.prompt_data"),
    maps("--input-key", TEXT, "data.input_key", "input"),
    maps("--label-key", TEXT, "data.label_key"),
    maps("--metadata-key", TEXT, "data.metadata_key", "metadata"),
    differs(
        "--tool-key", TEXT, "data.tool_key", "with `--apply-chat-template`, as tools are for the template", "tools"
    ),
    refused("--multimodal-keys", JSON, "not supported: prompts are text"),
    maps("--apply-chat-template", ON, "data.apply_chat_template"),
    maps("--apply-chat-template-kwargs", JSON, "data.apply_chat_template_kwargs"),
    maps("--rollout-max-prompt-len", INT, "data.max_prompt_len"),
    maps("--rollout-shuffle", ON, "data.shuffle"),
    maps("--rollout-seed", INT, "data.seed", 42),
    maps("--num-rollout", INT, "rollout.num_rollouts"),
    differs(
        "--num-epoch",
        INT,
        "rollout.num_epochs",
        "ignored beside `--num-rollout`, as in slime. Of more than 100,000 prompts, those that are too long are "
        "counted too",
    ),
    maps("--rollout-batch-size", INT, "rollout.rollout_batch_size"),
    maps("--n-samples-per-prompt", INT, "rollout.n_samples_per_prompt", 1),
    differs(
        "--data-source-path",
        TEXT,
        "plugins.data_source",
        "a class in either form of docs/plugins.md; slime's own names mean the shipped one",
    ),
    refused(
        "--disable-rollout-global-dataset",
        ON,
        "not supported: a job has prompts; for some of your own making name a class with --data-source-path",
    ),
)
