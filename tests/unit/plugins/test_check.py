"""A plug-in that does not fit is told exactly why, and by which field, before anything starts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trainers.config import RunConfig
from trainers.errors import ConfigInvalid, PluginInvalid
from trainers.plugins import load_function
from trainers.plugins.__main__ import main
from trainers.plugins.check import check, fits
from trainers.plugins.doors import DOORS
from trainers.plugins.fields import named
from trainers.plugins.run import load_plugins

USERS = "tests.unit.plugins.users"
SLIME = "tests.unit.plugins.for_slime"
SET = {"name": "s", "prompt_data": "/s.jsonl"}
LOST = {"type": "custom", "function": f"{USERS}:nothing"}
PARTS = [
    {"name": "words", "weight": 1.0, "reward": {"type": "f1"}},
    {"name": "own", "weight": 1.0, "reward": LOST},
]


def config(plugins: dict[str, Any] | None = None, **sections: Any) -> RunConfig:
    spec: dict[str, Any] = {
        "model": {"hf_checkpoint": "/m"},
        "data": {"prompt_data": "/d.jsonl"},
        "rollout": {"num_rollouts": 1, "rollout_batch_size": 2, "n_samples_per_prompt": 2},
        "plugins": plugins or {},
    }
    for name, fields in sections.items():
        spec[name] = spec.get(name, {}) | fields
    return RunConfig.model_validate(spec)


@pytest.mark.parametrize(
    ("name", "door", "form"),
    [
        ("users:rollout", "rollout_function", "native"),
        ("users.generate", "custom_generate_function", "native"),
        ("users:reward", "custom_rm", "native"),
        ("users:keep", "dynamic_sampling_filter", "native"),
        ("users:is_short", "rollout_sample_filter", "native"),
        ("users:outcomes", "custom_reward_post_process", "native"),
        ("users:log", "custom_rollout_log_function", "native"),
        ("users:loss", "custom_loss", "native"),
        ("users:slime_loss", "custom_loss", "slime"),
        ("for_slime:advantage", "custom_advantage", "slime"),
        ("users:Prompts", "data_source", "native"),
        ("for_slime:generate", "custom_generate_function", "slime"),
        ("for_slime.with_tools", "custom_generate_function", "slime"),
        ("for_slime:generate_rollout", "rollout_function", "slime"),
        ("for_slime.generate_rollout", "eval_function", "slime"),
        ("for_slime:rm", "custom_rm", "slime"),
        ("for_slime:group_rm", "group_rm", "slime"),
        ("for_slime:keep", "dynamic_sampling_filter", "slime"),
        ("for_slime:remove_odd", "rollout_sample_filter", "slime"),
        ("for_slime:double", "custom_reward_post_process", "slime"),
        ("for_slime:last_first", "buffer_filter", "slime"),
        ("for_slime:log", "custom_rollout_log_function", "slime"),
        ("for_slime:before_step", "custom_megatron_before_train_step_hook", "native"),
        ("for_slime:Source", "data_source", "slime"),
    ],
)
def test_a_function_that_fits_is_recognised_in_either_form(name: str, door: str, form: str) -> None:
    assert check(f"tests.unit.plugins.{name}", DOORS[door]).form == form


@pytest.mark.parametrize(
    ("name", "door", "message"),
    [
        ("users:plain_rollout", "rollout_function", r"plugins\.rollout_function: .* is not async: write it as `async"),
        ("users:swapped", "custom_generate_function", r"parameter 1 is 'sample', but is given 'context'"),
        ("users:short", "custom_generate_function", r"too many positional arguments\. custom_generate_function takes "),
        ("users:says_text", "custom_generate_function", r"annotated to return .*str.*, and .* takes Sample \| list\["),
        ("users:async_keep", "dynamic_sampling_filter", r"is async, and dynamic_sampling_filter is not waited for"),
        ("for_slime:keep", "custom_loss", r"takes .*, or in slime's form \(args, batch, logits, sum_of_sample_mean\)"),
        ("users:not_a_function", "custom_rm", r"rollout\.reward\.function: .* is a int, not a function"),
        ("users:Prompts", "custom_rm", r"is a class, and custom_rm takes a function"),
        ("users:reward", "data_source", r"is a function, not a class"),
        ("users:Stateless", "data_source", r"Stateless has no method state"),
        ("users:rewad", "custom_rm", r"has no 'rewad': did you mean 'reward'\?"),
        ("for_slime:keep", "custom_generate_function", r"missing|too many|fits|takes"),
    ],
)
def test_what_is_wrong_is_said_with_the_fix(name: str, door: str, message: str) -> None:
    with pytest.raises(PluginInvalid, match=message):
        check(f"tests.unit.plugins.{name}", DOORS[door])


def test_all_plugins_of_a_job_are_checked_and_the_field_is_named() -> None:
    good = config({"rollout_function": f"{USERS}:rollout", "rollout_sample_filter": f"{SLIME}.remove_odd"})
    assert load_plugins(good).paths == [
        f"plugins.rollout_function: {USERS}:rollout (native)",
        f"plugins.rollout_sample_filter: {SLIME}.remove_odd (slime)",
    ]
    with pytest.raises(PluginInvalid, match=r"^plugins\.data_source: .*nowhere.*runtime\.python_path"):
        load_plugins(config({"data_source": "nowhere.at_all:Source"}))
    with pytest.raises(PluginInvalid, match=r"^algorithm\.custom_loss: .*nothing"):
        load_plugins(config(algorithm={"custom_loss": f"{USERS}:nothing"}))
    whole = {
        "algorithm": {"custom_loss": f"{USERS}:slime_loss"},
        "trainer": {"context_parallel_size": 2},
        "resources": {"accelerator": "cpu", "actor_num_gpus_per_node": 2, "rollout_num_gpus": 1},
    }
    with pytest.raises(ConfigInvalid, match=r"slime's form .*slime_loss sees whole samples, and trainer.context_par"):
        load_plugins(config(**whole))
    with pytest.raises(PluginInvalid, match=r"^rollout\.reward\.function: "):
        load_plugins(config(rollout={"reward": {"type": "custom", "function": f"{USERS}:nothing"}}))
    with pytest.raises(ConfigInvalid, match=r"plugins\.arguments: 'rollout_batch_size' is slime's name for a field"):
        load_plugins(config({"arguments": {"rollout_batch_size": 3}}))


def test_every_field_of_the_section_has_a_door_and_every_door_a_field() -> None:
    fields = set(type(config().plugins).model_fields) - {"arguments"}
    assert fields == {door.name for door in DOORS.values() if door.field.startswith("plugins.")}
    everything = dict.fromkeys(fields, "a.b:c")
    sets = {"sets": [{"name": "s", "prompt_data": "/s.jsonl"}]}
    assert {name for name, _, _ in named(config(everything, eval=sets))} == fields


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"eval": {"sets": [SET], "reward": LOST}}, "eval.reward"),
        ({"eval": {"sets": [SET, SET | {"name": "t", "reward": LOST}]}}, "eval.sets[1].reward"),
        ({"rollout": {"reward": {"type": "weighted", "parts": PARTS}}}, "rollout.reward.parts[1].reward"),
        (
            {"eval": {"sets": [SET | {"reward": {"type": "weighted", "parts": PARTS}}]}},
            "eval.sets[0].reward.parts[1].reward",
        ),
    ],
)
def test_a_bad_reward_function_is_told_by_the_field_that_names_it(sections: dict[str, Any], field: str) -> None:
    run = config(**sections)
    with pytest.raises(PluginInvalid, match=rf"^{re.escape(field)}\.function: .*has no 'nothing'"):
        load_plugins(run)
    with pytest.raises(PluginInvalid, match=rf"^{re.escape(field)}\.function: "):
        load_plugins(config()).reward_function(f"{USERS}:nothing", by_group=False, field=f"{field}.function")


def test_a_reward_that_every_eval_set_has_another_for_is_not_looked_for() -> None:
    own = SET | {"reward": {"type": "custom", "function": f"{USERS}:reward"}}
    fields = [field for _, field, _ in named(config(eval={"sets": [own], "reward": LOST}))]
    assert fields == ["eval.sets[0].reward.function"]


@pytest.mark.parametrize(
    ("function", "sets", "paths"),
    [
        (f"{SLIME}.generate_rollout", [SET], ["rollout_function", "eval_function"]),
        (f"{SLIME}:annotated_rollout", [SET], ["rollout_function", "eval_function"]),
        (f"{SLIME}.nameless_for_training", [SET], ["rollout_function"]),
        (f"{SLIME}.generate_rollout", [], ["rollout_function"]),
        (f"{USERS}:rollout", [SET], ["rollout_function"]),
    ],
)
def test_a_rollout_function_evaluates_too_where_slime_could_ask_it_to(
    function: str, sets: list[dict[str, Any]], paths: list[str]
) -> None:
    found = load_plugins(config({"rollout_function": function}, eval={"sets": sets}))
    form = "slime" if SLIME in function else "native"
    assert found.paths == [f"plugins.{name}: {function} ({form})" for name in paths]
    assert (found.eval_function is not None) == ("eval_function" in paths)


def test_an_eval_function_goes_before_the_rollout_function() -> None:
    both = {"rollout_function": f"{SLIME}.generate_rollout", "eval_function": f"{USERS}:evaluation"}
    assert load_plugins(config(both, eval={"sets": [SET]})).paths[1:] == [
        f"plugins.eval_function: {USERS}:evaluation (native)"
    ]


@pytest.mark.parametrize(
    ("name", "sections", "why"),
    [
        ("eval_function", {}, r"add eval\.sets"),
        ("custom_generate_function", {"algorithm": {"name": "sft"}}, "generates nothing"),
        ("data_source", {"debug": {"mode": "train_only", "load_rollouts": "/r"}}, r"rollouts in debug\.load_rollouts"),
        ("custom_megatron_init", {"debug": {"mode": "rollout_only"}}, "trains nothing"),
    ],
)
def test_a_function_that_would_never_be_called_is_refused(name: str, sections: dict[str, Any], why: str) -> None:
    if "algorithm" in sections:
        sections = sections | {"rollout": {"n_samples_per_prompt": 1}}
    with pytest.raises(ValueError, match=rf"plugins\.{name} would never be called: .*{why}"):
        config({name: "a.b:c"}, **sections)


@pytest.mark.parametrize("path", ["f", "a.b:", ":f", "a b:c", "a.b:c:d", ""])
def test_a_path_that_names_no_function_is_refused_with_the_spec(path: str) -> None:
    with pytest.raises(ValueError, match=r"names no function: write package\.module:function"):
        config({"buffer_filter": path})


def test_a_slime_module_that_is_not_provided_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "wants_sglang_utils.py").write_text("from slime.backends.sglang_utils import arguments\n")
    (tmp_path / "wants_a_name.py").write_text("from slime.utils.types import ParamInfo\n")
    with pytest.raises(PluginInvalid, match=r"Rollway provides slime\.utils\.types\.Sample, .*not slime\.backends"):
        check("wants_sglang_utils:f", DOORS["custom_rm"])
    with pytest.raises(PluginInvalid, match=r"cannot import name 'ParamInfo'"):
        check("wants_a_name:f", DOORS["custom_rm"])


def test_both_ways_to_write_a_path_name_the_same() -> None:
    for path in (f"{USERS}:Prompts.state", f"{USERS}.Prompts.state"):
        assert load_function(path, parameters=["self"]) is check(f"{USERS}:Prompts", DOORS["data_source"]).target.state


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plain_generate", r"is not async: write it as `async def`\. custom_generate_function takes"),
        ("generate_yields", r"yields, and custom_generate_function takes what a function returns: use `return`"),
        ("generate_with_tool", r"missing a required keyword-only argument: 'tool'\. custom_generate_function takes"),
        ("not_a_function", r"is of type int, neither a function nor a class"),
        ("Stateless", r"Stateless has no method state"),
    ],
)
def test_what_keeps_a_plugin_from_the_door_that_it_is_written_for_is_said_though_others_would_take_it(
    name: str, message: str
) -> None:
    with pytest.raises(PluginInvalid, match=message):
        fits(f"{USERS}:{name}")


def test_a_door_that_is_not_there_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{USERS}:generate", "--door", "custom_generate"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"] == "there is no door 'custom_generate'; did you mean custom_generate_function?"


def test_the_command_says_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{USERS}:generate"]) == 0
    [fit] = json.loads(capsys.readouterr().out)["fits"]
    assert (fit["door"], fit["form"]) == ("custom_generate_function", "native")
    assert main(["check", f"{USERS}:generate", "--door", "rollout_function"]) == 1
    assert "takes async (context, rollout_id) -> RolloutOutput" in json.loads(capsys.readouterr().out)["error"]
    assert main(["list"]) == 0
    assert {door["name"] for door in json.loads(capsys.readouterr().out)["doors"]} == set(DOORS)
    assert [each.door.name for each in fits(f"{SLIME}:log")] == ["custom_rollout_log_function"]
