"""From slime's flags to a job spec."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.jobs.flags import parse
from controlplane.jobs.flags.manifests import shipped
from controlplane.jobs.flags.report import Outcome
from controlplane.jobs.flags.resolve import Resolution, resolve
from controlplane.jobs.flags.table import TABLE

NEEDED = [
    *("--hf-checkpoint", "/m", "--prompt-data", "/d.jsonl", "--actor-num-gpus-per-node", "1"),
    *("--rollout-num-gpus", "1", "--num-rollout", "10", "--rollout-batch-size", "4", "--n-samples-per-prompt", "8"),
]


def run(*words: str, files: dict[str, str] | None = None) -> Resolution:
    return resolve([*NEEDED, *words], shipped(), files=files)


def spec(*words: str, files: dict[str, str] | None = None) -> dict[str, Any]:
    found = run(*words, files=files)
    assert found.spec is not None, found.errors
    return found.spec.model_dump()


def outcome(found: Resolution, flag: str) -> tuple[Outcome, str]:
    entry = [entry for entry in found.report.entries if entry.flag == flag][-1]
    return entry.outcome, entry.why


def refused(*words: str) -> str:
    found = run(*words)
    assert found.spec is None
    (error,) = found.errors
    return error.message


def test_slimes_defaults_hold_where_a_spec_has_others() -> None:
    found = spec()
    trainer, rollout = found["trainer"], found["rollout"]
    assert (trainer["lr_decay_style"], trainer["weight_decay"], trainer["adam_beta2"]) == ("linear", 0.01, 0.999)
    assert trainer["use_dynamic_batch_size"] is False
    assert rollout["sampling"]["skip_special_tokens"] is False
    assert found["algorithm"]["loss_aggregation"] == "rollout_mean"
    assert (trainer["seed"], found["engine"]["seed"]) == (1234, 1234)
    assert rollout["reward"]["type"] == "from_metadata"
    unset = resolve([word for word in NEEDED if word not in ("--actor-num-gpus-per-node", "1")][:-2], shipped())
    assert unset.translation.spec["resources"]["actor_num_gpus_per_node"] == 8
    assert unset.translation.spec["rollout"]["n_samples_per_prompt"] == 1


def test_a_flag_takes_its_value_after_a_space_or_an_equals_sign_and_negative_numbers_too() -> None:
    assert spec("--lr=3e-5")["trainer"]["lr"] == 3e-5
    assert spec("--rollout-top-k", "-1")["rollout"]["sampling"]["top_k"] == -1
    assert spec("--rollout-stop", "</a>", "b c")["rollout"]["sampling"]["stop"] == ("</a>", "b c")
    assert spec("--apply-chat-template", "--apply-chat-template-kwargs", '{"enable_thinking": false}')["data"][
        "apply_chat_template_kwargs"
    ] == {"enable_thinking": False}


@pytest.mark.parametrize(
    "flag", ["--colocate", "--use-dynamic-batch-size", "--qk-layernorm", "--sglang-disable-radix-cache"]
)
def test_a_switch_takes_no_value_and_is_not_turned_on_by_one(flag: str) -> None:
    assert "takes no value" in refused(f"{flag}=false")


def test_of_a_flag_given_twice_the_last_holds_and_a_notice_says_so() -> None:
    found = run("--lr", "1e-5", "--lr", "2e-5")
    assert found.spec is not None and found.spec.trainer.lr == 2e-5
    assert "--lr 1e-5: ignored: --lr is given again later, and the last one holds" in found.report.notices
    twice = run("--sglang-dp-size", "2", "--sglang-data-parallel-size", "4", "--sglang-enable-dp-attention")
    assert twice.spec is not None and twice.spec.engine.sglang["dp_size"] == 4


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("--rollout-shufle", "--rollout-shuffle"),
        ("--rollout_shuffle", "--rollout-shuffle"),
        ("--rollout-shuf", "--rollout-shuffle"),
        ("--recompute-granularty", "--recompute-granularity"),
        ("--sglang-mem-fraction", "--sglang-mem-fraction-static"),
        ("--router-polcy", "--router-policy"),
        ("--qkv-fromat", "--qkv-format"),
        ("--learning_rate", "--lr"),
        ("--xyzzy", None),
    ],
)
def test_an_unknown_misspelt_or_abbreviated_flag_is_refused_with_the_nearest(word: str, suggestion: str | None) -> None:
    (error,) = run(word, "x").errors
    assert (error.path, error.suggestion) == (word, suggestion)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--num-rollout", "many"), "takes a whole number, not 'many'"),
        (("--lr",), "a value is missing"),
        (("--recompute-granularity", "some"), "takes one of full, selective"),
        (("--sglang-tp-size", "2"), "use --rollout-num-gpus-per-engine"),
        (("--sglang-model-path", "/m"), "use --hf-checkpoint"),
        (("--sglang-api-key", "k"), "use (the service's own key"),
        (("--balance-data", "yes"), "stands alone"),
        (("--load", "${SAVE_DIR}"), "${SAVE_DIR} is for a shell to fill in"),
        (("--kl-coef", "0.1"), "no effect under this algorithm"),
        (("--kl-loss-coef", "0.1"), "no effect without --use-kl-loss"),
        (("--group-rm",), "give --custom-rm-path"),
        (("--rm-type", "remote_rm"), "give --rm-url"),
        (("--rm-type", "ifbench"), "there is no rule 'ifbench' here"),
        (("--loss-type", "custom_loss"), "needs --custom-loss-function-path"),
        (("--use-dynamic-batch-size",), "give that too"),
        (("--eval-interval", "5"), "give --eval-prompt-data"),
        (("--eval-interval", "5", "--eval-prompt-data", "a", "b", "c"), "pairs of name and path"),
        (("--eval-interval", "5", "--eval-config", "/e.yaml"), "did not come with the flags"),
        (("--debug-train-only",), "give --load-debug-rollout-data"),
        (("--buffer-filter-path", "slime.rollout.filters.x"), "a part of slime"),
        (("--num-steps-per-rollout", "3", "--global-batch-size", "16"), "--global-batch-size says otherwise"),
        (("--update-weights-interval", "2"), "only 1"),
        (("--fp8-format", "e4m3"), "bfloat16 or float32"),
        (("--mtp-num-layers", "1"), "not supported"),
        (("--hidden-dropout", "0.1"), "only 0.0 is"),
        (("--rollout-num-gpus", "0"), "set by --rollout-num-gpus"),
        (("--rollout-stop", ""), "its value is an empty text: give one, or leave the flag out"),
        (("--rollout-stop", "a", ""), "its value is an empty text"),
        (("--load=",), "its value is an empty text"),
        (("--qkv-format", "bshd"), "sequences are always packed"),
        (("--tis-level", "sequence"), "weights are of tokens"),
        (("--true-on-policy-mode",), "compute with different kernels"),
        (("--use-dynamic-global-batch-size",), "not supported: a step has --global-batch-size samples"),
        (("--router-max-concurrent-requests", "8"), "use --sglang-server-concurrency"),
        (("--router-prefill", "http://h:1", "9000"), "engines of one kind"),
        (("--router-service-discovery",), "starts the engines that it generates with"),
        (("--worker-urls", "http://h:1"), "starts the engines that it generates with"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(words: tuple[str, ...], says: str) -> None:
    assert says in refused(*words)


def test_what_is_missing_is_named_by_its_flag() -> None:
    found = resolve(["--lr", "1e-6"], shipped())
    assert {error.message for error in found.errors} == {
        f"{flag} is required"
        for flag in ("--hf-checkpoint", "--prompt-data", "--rollout-batch-size", "--num-rollout", "--rollout-num-gpus")
    }


def test_colocate_makes_as_many_gpus_generate_as_train_and_says_that_they_are_further_ones() -> None:
    found = run("--colocate", "--actor-num-gpus-per-node", "4", "--rollout-num-gpus", "2")
    assert found.spec is not None and found.spec.resources.rollout_num_gpus == 4
    assert outcome(found, "--rollout-num-gpus")[0] is Outcome.IGNORED
    assert any("4 GPUs train and 4 further ones generate" in notice for notice in found.report.notices)


def test_model_facts_and_other_flags_of_megatrons_go_by_what_they_set() -> None:
    found = spec("--num-layers", "36", "--norm-epsilon", "1e-6", "--disable-bias-linear", "--no-rope-fusion")
    assert found["trainer"]["megatron"] == {
        "num_layers": 36,
        "layernorm_epsilon": 1e-6,
        "add_bias_linear": False,
        "apply_rope_fusion": False,
    }


def test_sglangs_flags_keep_their_types_and_dropped_ones_are_translated() -> None:
    found = spec(
        *("--rollout-num-gpus", "4", "--rollout-num-gpus-per-engine", "4", "--sglang-enable-ep-moe"),
        *("--sglang-enable-deepep-moe", "--sglang-cuda-graph-bs", "1", "2", "--sglang-context-length", "4096"),
        *("--rollout-max-context-len", "2048", "--sglang-dtype", "half", "--sglang-server-concurrency", "64"),
    )
    assert found["engine"]["sglang"] == {
        "ep_size": 4,
        "moe_a2a_backend": "deepep",
        "cuda_graph_bs": [1, 2],
        "context_length": 2048,
    }
    assert (found["engine"]["dtype"], found["engine"]["max_concurrency"]) == ("float16", 64)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), None),
        (("--use-kl-loss",), {"loss_coef": 0.0, "estimator": "k1"}),
        (("--use-kl-loss", "--kl-loss-coef", "0.1", "--kl-loss-type", "k3"), {"loss_coef": 0.1, "estimator": "k3"}),
        (
            ("--advantage-estimator", "reinforce_plus_plus", "--kl-coef", "0.2", "--ref-update-interval", "3"),
            {"reward_coef": 0.2, "estimator": "k1", "ref_update_interval": 3},
        ),
        (("--advantage-estimator", "gspo", "--kl-coef", "0.00", "--kl-loss-coef", "0.00"), None),
    ],
)
def test_the_kl_flags_become_one_section_or_none(words: tuple[str, ...], expected: dict[str, Any] | None) -> None:
    section = spec(*words)["algorithm"]["kl"]
    assert section is None if expected is None else {key: section[key] for key in expected} == expected


def test_flags_of_another_algorithm_are_ignored_with_a_reason() -> None:
    found = run("--value-clip", "0.3", "--gamma", "0.9", "--lambd", "0.9", "--num-critic-only-steps", "2")
    assert found.spec is not None
    for flag in ("--value-clip", "--gamma", "--lambd", "--num-critic-only-steps"):
        assert outcome(found, flag) == (Outcome.IGNORED, "algorithm grpo has no such part")
    ppo = spec(
        *("--advantage-estimator", "ppo", "--value-clip", "0.3", "--gamma", "0.9", "--lambd", "0.95"),
        *("--num-critic-only-steps", "2", "--critic-lr", "1e-5"),
    )["algorithm"]
    assert (ppo["value_clip"], ppo["gamma"], ppo["lambd"]) == (0.3, 0.9, 0.95)
    assert ppo["critic"] == {"lr": 1e-5, "num_critic_only_steps": 2}


def test_importance_weights_and_masking_are_sections_only_when_switched_on() -> None:
    off = run("--tis-clip", "3.0", "--opsm-delta", "0.1")
    assert off.spec is not None and outcome(off, "--tis-clip")[0] is Outcome.IGNORED
    on = spec("--use-tis", "--tis-clip", "3.0", "--use-opsm", "--calculate-per-token-loss")["algorithm"]
    assert on["correction"] == {"method": "tis", "clip": 3.0, "clip_low": 0.0}
    assert on["opsm"] == {"delta": 1e-4}
    assert on["loss_aggregation"] == "token_mean"


def test_normalisation_flags_and_groups_of_one_switch_it_off() -> None:
    assert spec("--disable-grpo-std-normalization")["algorithm"]["normalize_std"] is False
    raw = spec("--disable-rewards-normalization")["algorithm"]
    assert (raw["normalize_rewards"], raw["normalize_std"]) == (False, False)
    single = run("--n-samples-per-prompt", "1")
    assert single.spec is not None and single.translation.spec["algorithm"]["normalize_std"] is False
    assert any("alone in its group" in remark for remark in single.report.remarks)


def test_epochs_stand_in_for_a_number_of_rollouts() -> None:
    argv = ["--hf-checkpoint", "/m", "--prompt-data", "/d", "--rollout-batch-size", "4", "--rollout-num-gpus", "1"]
    found = resolve([*argv, "--num-epoch", "3"], shipped())
    assert found.spec is not None, found.errors
    assert (found.spec.rollout.num_epochs, found.spec.rollout.num_rollouts) == (3, None)
    assert found.spec.planned_rollouts == 0
    both = resolve([*argv, "--num-epoch", "3", "--num-rollout", "7"], shipped())
    assert both.spec is not None and both.spec.planned_rollouts == 7
    assert outcome(both, "--num-epoch")[0] is Outcome.IGNORED
    [neither] = resolve(argv, shipped()).errors
    assert neither.path == "--num-rollout"


def test_supervised_fine_tuning_takes_no_engines_and_no_reward() -> None:
    found = resolve(
        [
            *("--hf-checkpoint", "/m", "--prompt-data", "/d.parquet", "--num-rollout", "3", "--loss-type", "sft_loss"),
            *("--rollout-function-path", "slime.rollout.sft_rollout.generate_rollout", "--debug-train-only"),
            *("--rollout-batch-size", "16", "--global-batch-size", "16", "--disable-compute-advantages-and-returns"),
            *("--lr-warmup-fraction", "0.34", "--lr-warmup-iters", "9"),
        ],
        shipped(),
    )
    assert found.spec is not None, found.errors
    assert found.spec.algorithm.name == "sft" and found.spec.debug.mode is None
    assert (found.spec.trainer.lr_warmup_fraction, found.spec.trainer.lr_warmup_steps) == (0.34, 0)
    assert outcome(found, "--lr-warmup-iters")[0] is Outcome.IGNORED
    assert outcome(found, "--rollout-function-path")[0] is Outcome.IGNORED


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--rm-type", "deepscaler"), {"type": "deepscaler"}),
        (("--rm-type", "boxed_math"), {"type": "math"}),
        (("--rm-type", "boxed_f1"), {"type": "f1", "boxed": True}),
        (("--rm-type", "dapo", "--reward-key", "acc"), {"type": "dapo", "reward_key": "acc"}),
        (
            ("--rm-type", "remote_rm", "--rm-url", "http://h:1/x", "--reward-key", "s"),
            {"type": "remote", "url": "http://h:1/x", "reward_key": "s"},
        ),
        (
            ("--custom-rm-path", "a.b", "--rm-type", "math", "--group-rm", "--reward-key", "s"),
            {"type": "custom", "function": "a.b", "group_rm": True, "reward_key": "s"},
        ),
    ],
)
def test_reward_flags_become_a_rule(words: tuple[str, ...], expected: dict[str, Any]) -> None:
    section = spec(*words)["rollout"]["reward"]
    assert {key: section[key] for key in expected} == expected


def test_eval_flags_overlay_the_training_sampling_for_all_sets() -> None:
    found = spec(
        *("--rollout-temperature", "0.8", "--rollout-stop", "x", "--eval-interval", "5", "--eval-prompt-data"),
        *("a", "/a.jsonl", "b", "/b.jsonl", "--eval-input-key", "question", "--eval-top-p", "0.7"),
        *("--n-samples-per-eval-prompt", "4", "--skip-eval-before-train", "--custom-rm-path", "m.f"),
        *("--reward-key", "train", "--eval-reward-key", "test"),
    )["eval"]
    assert [(each["name"], each["prompt_data"], each["input_key"]) for each in found["sets"]] == [
        ("a", "/a.jsonl", "question"),
        ("b", "/b.jsonl", "question"),
    ]
    sampling = found["sampling"]
    assert (sampling["temperature"], sampling["top_p"], sampling["stop"]) == (0.8, 0.7, ("x",))
    assert (found["interval"], found["n_samples_per_prompt"], found["before_train"]) == (5, 4, False)
    assert found["reward"]["reward_key"] == "test"
    greedy = spec("--eval-interval", "5", "--eval-prompt-data", "/a.jsonl", "--eval-temperature", "0")["eval"]
    assert (greedy["sets"][0]["name"], greedy["sampling"]["temperature"], greedy["sampling"]["top_k"]) == ("aime", 1, 1)


def test_without_an_interval_nothing_is_evaluated_and_the_flags_say_so() -> None:
    found = run("--eval-prompt-data", "a", "/a.jsonl", "--eval-top-p", "0.7", "--n-samples-per-eval-prompt", "4")
    assert found.spec is not None and found.spec.eval.sets == ()
    assert outcome(found, "--eval-top-p") == (Outcome.IGNORED, "without --eval-interval nothing is evaluated")


def test_an_eval_config_gives_each_set_its_own_and_unknown_keys_are_refused() -> None:
    text = """
eval:
  defaults: {temperature: 0.6, n_samples_per_eval_prompt: 2}
  datasets:
    - {name: aime, path: /a.jsonl, rm_type: math}
    - {name: gpqa, path: /g.jsonl, temperature: 0, custom_rm_path: m.f, stop: END}
"""
    words = ("--eval-interval", "5", "--eval-config", "/e.yaml", "--rollout-top-p", "0.9")
    first, second = spec(*words, files={"/e.yaml": text})["eval"]["sets"]
    assert (first["reward"]["type"], first["sampling"]["temperature"], first["sampling"]["top_p"]) == ("math", 0.6, 0.9)
    assert (second["sampling"]["top_k"], second["sampling"]["stop"], second["reward"]["function"]) == (
        1,
        ("END",),
        "m.f",
    )
    assert first["n_samples_per_prompt"] == 2
    wrong = run(*words, files={"/e.yaml": text.replace("stop:", "stopp:")})
    assert "eval.datasets[1]: 'stopp' is not supported" in wrong.errors[0].message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("eval: [1]", "/e.yaml: eval is [1]: expected a mapping"),
        ("eval: {defaults: 3, datasets: []}", "/e.yaml: eval.defaults is 3: expected a mapping"),
        ("eval: {datasets: here}", "/e.yaml: eval.datasets is 'here': expected a list of sets"),
        ("eval: {datasets: [here]}", "/e.yaml: eval.datasets[0] is 'here': expected a mapping"),
        ("eval: {datasets: [{1: 2, name: a, path: b}]}", "/e.yaml: eval.datasets[0] has the key 1: expected names"),
        ("eval: {datasets: {7: /a}}", "/e.yaml: eval.datasets has the key 7: expected names"),
        ("eval: {datasets: {a: 7}}", "/e.yaml: eval.datasets[0] needs a name and a path"),
        ("eval: {datasets: [{name: a, path: b, rm_type: 3}]}", "/e.yaml: eval.datasets[0]: rm_type is 3"),
        ("eval: {datasets: [{name: a, path: b, custom_rm_path: 3}]}", "/e.yaml: eval.datasets[0]: custom_rm_path is 3"),
    ],
)
def test_an_eval_config_of_another_shape_is_refused_by_its_key(text: str, says: str) -> None:
    (error,) = run("--eval-interval", "5", "--eval-config", "/e.yaml", files={"/e.yaml": text}).errors
    assert says in error.message


def test_a_set_that_samples_by_its_own_temperature_is_not_greedy_where_the_others_are() -> None:
    text = "eval: {datasets: [{name: a, path: /a, temperature: 0.7}, {name: b, path: /b}]}"
    words = ("--eval-interval", "5", "--eval-config", "/e.yaml", "--eval-temperature", "0")
    found = spec(*words, files={"/e.yaml": text})["eval"]
    assert (found["sampling"]["temperature"], found["sampling"]["top_k"]) == (1.0, 1)
    first, second = found["sets"]
    assert (first["sampling"]["temperature"], first["sampling"]["top_k"]) == (0.7, -1)
    assert second["sampling"] is None


def test_functions_of_the_users_go_to_their_doors_and_slimes_own_mean_the_shipped_ones() -> None:
    found = spec(
        *("--rollout-function-path", "mine.rollout", "--data-source-path", "mine.Source", "--custom-config-path"),
        *("/c.yaml", "--dynamic-sampling-filter-path", "mine.keep", "--eval-interval", "1", "--eval-prompt-data", "/a"),
        files={"/c.yaml": "depth: 3\n"},
    )
    plugins = found["plugins"]
    assert plugins["rollout_function"] == "mine.rollout"
    assert (plugins["data_source"], plugins["arguments"]) == ("mine.Source", {"depth": 3})
    assert found["rollout"]["dynamic_sampling_filter"] == "mine.keep"
    shipped_ones = spec(
        *("--rollout-function-path", "slime.rollout.sglang_rollout.generate_rollout", "--dynamic-sampling-filter-path"),
        "slime.rollout.filter_hub.dynamic_sampling_filters.check_reward_nonzero_std",
    )
    assert shipped_ones["plugins"]["rollout_function"] is None
    assert shipped_ones["rollout"]["dynamic_sampling_filter"] == "reward_nonzero_std"


def test_a_setting_of_the_job_is_refused_among_values_for_functions() -> None:
    found = run("--custom-config-path", "/c.yaml", files={"/c.yaml": "depth: 3\nrollout_batch_size: 5\n"})
    [error] = found.errors
    assert "rollout_batch_size in it is a setting of the job, which --rollout-batch-size says" in error.message
    assert spec("--custom-config-path", "/c.yaml", files={"/c.yaml": "use_wandb: true"})["plugins"]["arguments"]


def test_a_flag_that_is_one_word_with_its_value_says_so() -> None:
    [error] = run("--lr 1e-6").errors
    assert "pass a flag and each of its values by themselves" in error.message


def test_whether_a_rollout_function_evaluates_too_is_left_to_who_can_load_it() -> None:
    words = ("--rollout-function-path", "mine.rollout", "--eval-interval", "1", "--eval-prompt-data", "/a")
    assert spec(*words)["plugins"]["eval_function"] is None
    assert any("mine.rollout evaluates too if" in text for text in run(*words).report.notices)
    own = (*words, "--eval-function-path", "mine.evaluate")
    assert spec(*own)["plugins"]["eval_function"] == "mine.evaluate"
    assert not any("evaluates too" in text for text in run(*own).report.notices)


def test_sizes_that_follow_from_others_are_worked_out() -> None:
    assert spec("--num-steps-per-rollout", "4")["trainer"]["global_batch_size"] == 8
    staged = spec(
        *("--actor-num-gpus-per-node", "2", "--pipeline-model-parallel-size", "2", "--num-layers", "24"),
        *("--num-layers-per-virtual-pipeline-stage", "3"),
    )["trainer"]
    assert staged["num_virtual_stages_per_pipeline_rank"] == 4


def test_debug_flags_choose_a_half_and_a_directory() -> None:
    replay = spec("--load-debug-rollout-data", "/d/{rollout_id}.pt", "--debug-train-only")["debug"]
    assert (replay["mode"], replay["load_rollouts"]) == ("train_only", "/d")
    generate = spec("--debug-rollout-only", "--save-debug-rollout-data", "/d/data.pt")["debug"]
    assert (generate["mode"], generate["save_rollouts"]) == ("rollout_only", "/d/data")
    assert spec("--dump-details", "/d")["debug"]["save_rollouts"] == "/d/rollout_data"


def test_what_the_other_half_alone_would_read_is_ignored_in_a_half() -> None:
    evaluates = ("--eval-interval", "5", "--eval-prompt-data", "a", "/a")
    functions = ("--rollout-function-path", "slime.x.y", "--data-source-path", "a.b", "--buffer-filter-path", "a.b")
    found = run("--load-debug-rollout-data", "/d", *evaluates, *functions)
    assert found.spec is not None, found.errors
    for flag in ("--eval-interval", "--eval-prompt-data", *functions[::2]):
        assert outcome(found, flag)[0] is Outcome.IGNORED, flag
    found = run("--debug-rollout-only", "--custom-megatron-init-path", "a.b")
    assert found.spec is not None and outcome(found, "--custom-megatron-init-path")[0] is Outcome.IGNORED


def test_engines_that_only_evaluate_are_as_many_as_the_flag_says() -> None:
    sft = ("--loss-type", "sft_loss", "--n-samples-per-prompt", "1", "--rollout-num-gpus", "4")
    evaluates = ("--eval-interval", "5", "--eval-prompt-data", "a", "/a")
    assert spec(*sft, *evaluates)["resources"]["rollout_num_gpus"] == 4
    assert outcome(run(*sft), "--rollout-num-gpus")[0] is Outcome.IGNORED
    halved = run(*sft, *evaluates, "--debug-train-only")
    assert halved.spec is not None and not halved.spec.eval.sets
    assert outcome(halved, "--rollout-num-gpus")[0] is Outcome.IGNORED


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (("--min-lr", "1", "--weight-decay", "0.1"), "--min-lr"),
        (("--tensor-model-parallel-size", "3", "--weight-decay", "0.1"), "--tensor-model-parallel-size"),
        (
            ("--over-sampling-batch-size", "2", "--rollout-top-p", "0.5"),
            "--rollout-batch-size, --over-sampling-batch-size",
        ),
    ],
)
def test_what_is_wrong_between_fields_is_told_with_their_flags_alone(words: tuple[str, ...], flags: str) -> None:
    [error] = run(*words).errors
    assert error.message.endswith(f"(set by {flags})")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--wandb-key", Outcome.IGNORED),
        ("--router-api-key", Outcome.REFUSED),
        ("--router-control-plane-api-keys", Outcome.REFUSED),
        ("--router-oracle-password", Outcome.REFUSED),
        ("--router-redis-url", Outcome.REFUSED),
    ],
)
def test_a_secret_is_shown_nowhere(flag: str, expected: Outcome) -> None:
    found = run(flag, "very-secret")
    assert "very-secret" not in repr(found.report)
    assert outcome(found, flag)[0] is expected


def test_where_megatrons_default_is_not_taken_a_notice_tells() -> None:
    told = " ".join(run().report.remarks)
    assert "--attention-dropout and --hidden-dropout: 0 here" in told and "a step has all samples" in told
    assert shipped().megatron.by_name("hidden_dropout").default == 0.1  # type: ignore[union-attr]
    sized = ("--global-batch-size", "8"), ("--num-steps-per-rollout", "2")
    for size in sized:
        told = run("--attention-dropout", "0.0", "--hidden-dropout", "0.0", *size).report.remarks
        assert not told


def test_tools_are_read_for_the_chat_template_under_slimes_own_key() -> None:
    assert spec("--apply-chat-template")["data"]["tool_key"] == "tools"
    assert spec("--apply-chat-template", "--tool-key", "functions")["data"]["tool_key"] == "functions"
    plain = run("--tool-key", "functions")
    assert plain.spec is not None and plain.spec.data.tool_key is None
    assert outcome(plain, "--tool-key")[0] is Outcome.IGNORED


def test_a_context_leaves_prompts_one_token_less() -> None:
    assert spec("--rollout-max-context-len", "100")["data"]["max_prompt_len"] == 99
    both = spec("--rollout-max-context-len", "100", "--rollout-max-prompt-len", "60")
    assert both["data"]["max_prompt_len"] == 60
    assert "leaves no room" in refused("--rollout-max-context-len", "100", "--rollout-max-prompt-len", "100")
    assert spec()["data"]["max_prompt_len"] is None


def test_an_engine_has_one_replica_unless_attention_is_split_over_its_data() -> None:
    assert "raise resources.rollout_num_gpus" in refused("--sglang-data-parallel-size", "2")
    both = spec("--sglang-dp-size", "2", "--sglang-enable-dp-attention")["engine"]["sglang"]
    assert both == {"dp_size": 2, "enable_dp_attention": True}


def test_flags_that_say_what_is_always_so_are_ignored() -> None:
    found = run("--qkv-format", "thd", "--use-tis", "--tis-level", "token", "--disable-rollout-trim-samples")
    assert found.spec is not None
    for flag in ("--qkv-format", "--tis-level", "--disable-rollout-trim-samples"):
        assert outcome(found, flag)[0] is Outcome.IGNORED


@pytest.mark.parametrize("value", ["", "${WANDB_KEY}"])
def test_a_variable_that_is_not_set_is_of_no_matter_where_the_flag_is_ignored(value: str) -> None:
    found = run("--wandb-key", value, "--wandb-group", value, "--prometheus-port", "${PORT}")
    assert found.spec is not None and outcome(found, "--wandb-key")[0] is Outcome.IGNORED


@pytest.mark.parametrize(
    ("flag", "meant"),
    [("--tp-size", "--sglang-tp-size"), ("--eps-clp", "--eps-clip"), ("--num_layers", "--num-layers"), ("-h", None)],
)
def test_the_dashes_of_a_flag_are_no_likeness(flag: str, meant: str | None) -> None:
    [error] = run(flag).errors
    assert error.suggestion == meant


def test_stop_texts_of_blanks_and_of_a_shells_signs_arrive() -> None:
    words = ("--rollout-stop", "\n\n", " ", "|", "--lr", "1e-6", "2>&1", "|", "tee", "log")
    found = run(*words)
    assert found.spec is not None and found.spec.rollout.sampling.stop == ("\n\n", " ", "|")
    assert "left out, as a shell would not pass it on: 2>&1 | tee log" in found.report.notices


def test_the_routers_options_that_change_no_result_are_ignored_and_its_timeout_is_the_engines() -> None:
    ignored = ("--router-policy", "--router-cb-timeout-duration-secs", "--router-prometheus-port")
    found = run(
        ignored[0], "consistent_hashing", ignored[1], "9", ignored[2], "9", "--router-request-timeout-secs", "60"
    )
    assert found.spec is not None and found.spec.engine.request_timeout_s == 60
    assert {outcome(found, flag)[0] for flag in ignored} == {Outcome.IGNORED}
    both = run("--sglang-router-request-timeout-secs", "70", "--router-request-timeout-secs", "60")
    assert both.spec is not None and both.spec.engine.request_timeout_s == 70
    assert outcome(both, "--router-request-timeout-secs")[0] is Outcome.IGNORED


def test_a_whole_ray_command_gives_the_environment_and_what_a_shell_would_fill_in_is_left_out_aloud() -> None:
    environment = '{"env_vars": {"PYTHONPATH": "/megatron/:/mine", "A": "1", "B": "${B}"}}'
    words = ["ray", "job", "submit", f"--runtime-env-json={environment}", "--", "python3", "slime/train_async.py"]
    found = resolve([*words, "\\", *NEEDED], shipped())
    assert found.spec is not None, found.errors
    assert found.spec.runtime.env_vars == {"A": "1"}
    assert found.spec.runtime.python_path == ("/megatron/", "/mine")
    assert any("B is left out" in remark for remark in found.report.remarks)
    assert any("take turns" in remark for remark in found.report.remarks)


def test_of_very_many_unknown_flags_the_first_have_suggestions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(parse, "_nearest", lambda spelled, manifests: asked.append(spelled) or "--lr")
    errors = run(*(f"--rolout-{number}" for number in range(1000))).errors
    assert len(errors) == 1000 and len(asked) == 50
    assert [error.suggestion for error in errors[49:51]] == ["--lr", None]


def test_a_file_whose_aliases_multiply_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    [error] = run("--custom-config-path", "/c.yaml", files={"/c.yaml": "\n".join(lines)}).errors
    assert "more than 100000 values" in error.message
    shared = "base: &base {depth: 3}\nown: *base\n"
    found = spec("--custom-config-path", "/c.yaml", files={"/c.yaml": shared})
    assert found["plugins"]["arguments"]["own"] == {"depth": 3}


_FLAGS = sorted({*TABLE, *list(shipped().megatron.flags)[::9], "--sglang-dp-size", "--nothing"})
_VALUES = st.sampled_from(
    ["0", "-1", "1.5", "x", "", "{}", "[1]", "$A", "--", "-", "train.py", "slime.a.b", "é\x00", "|", ">", "2>&1"]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(_FLAGS), st.sampled_from(_FLAGS).map(lambda flag: f"{flag}=1"), _VALUES)))
def test_no_command_line_raises_and_none_loses_a_flag(words: list[str]) -> None:
    found = resolve(words, shipped())
    assert (found.spec is None) == bool(found.errors)
    for entry in found.report.entries:
        assert entry.why or entry.outcome is Outcome.SET
