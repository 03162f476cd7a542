"""Functions written for slime run as they are, and what they bring is whole."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from engines.config import SamplingConfig
from engines.types import Sample, SampleStatus
from tests.unit.plugins.test_check import SLIME, USERS, config
from trainers.batch import build_train_batch
from trainers.config import RunConfig
from trainers.errors import RolloutFailed
from trainers.plugins.call import call
from trainers.plugins.outputs import groups_of
from trainers.plugins.run import Plugins, load_plugins
from trainers.rollout.evaluation import Evaluator
from trainers.rollout.protocols import RolloutContext
from trainers.slime_compat.args import SlimeArgs
from trainers.slime_compat.sample import SlimeSample, from_slime, to_slime

EVAL = {"sets": [{"name": "s", "prompt_data": "/s.jsonl"}]}


class Bytes:
    """One token a character."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": self.encode(text)}

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(map(chr, ids))


class Data:
    def __init__(self) -> None:
        self.back: list[list[Sample]] = []

    def __len__(self) -> int:
        return 2

    def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
        return [
            [Sample(index=g * n_samples + i, group_index=g, prompt="ab", tokens=[97, 98]) for i in range(n_samples)]
            for g in range(n_prompts)
        ]

    def put_back(self, groups: Sequence[list[Sample]]) -> None:
        self.back += groups

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None: ...


@pytest.fixture(scope="module")
async def router() -> AsyncIterator[str]:
    """Answers /generate with "xy", as an engine does."""

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        assert body["sampling_params"]["max_new_tokens"] == 9
        pairs = [[-0.25, 120, None], [-0.5, 121, None]]
        meta = {"finish_reason": {"type": "length"}, "output_token_logprobs": pairs, "weight_version": "v5"}
        return web.json_response({"text": "xy", "output_ids": [120, 121], "meta_info": meta})

    app = web.Application()
    app.router.add_post("/generate", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


def context(run: RunConfig, base_url: str = "http://10.0.0.1:30000") -> RolloutContext:
    async def reward(sample: Sample) -> float:
        return 1.0

    return RolloutContext(
        config=run,
        data=Data(),
        client=None,  # type: ignore[arg-type]
        reward=reward,
        tokenizer=Bytes(),
        base_url=base_url,
        weight_version=5,
        progress=lambda text: None,
    )


def sampled(index: int = 3) -> Sample:
    return Sample(index=index, group_index=1, prompt="ab", tokens=[97, 98])


def using(name: str, path: str, **sections: Any) -> tuple[Plugins, RunConfig]:
    sections["rollout"] = {"sampling": {"max_new_tokens": 9}} | sections.get("rollout", {})
    sections["eval"] = EVAL | sections.get("eval", {})
    run = config({name: path}, **sections)
    return load_plugins(run), run


async def test_the_documents_own_generate_function_runs_as_it_is(router: str) -> None:
    plugins, run = using("custom_generate_function", f"{SLIME}.generate")
    assert plugins.doors.generate is not None
    made = await plugins.doors.generate(context(run, router), sampled(), run.rollout.sampling)
    [sample] = made if isinstance(made, list) else [made]
    assert (sample.tokens, sample.response, sample.response_length) == ([97, 98, 120, 121], "xy", 2)
    assert sample.loss_mask == [1, 1]
    assert sample.weight_versions == [5, 5]
    assert sample.rollout_log_probs == [0.0, 0.0]
    assert (sample.status, sample.index, sample.group_index) == (SampleStatus.TRUNCATED, 3, 1)


async def test_log_probabilities_that_the_job_needs_must_be_kept(router: str) -> None:
    needs = {"use_rollout_log_probs": True}
    plugins, run = using("custom_generate_function", f"{SLIME}.generate", algorithm=needs)
    assert plugins.doors.generate is not None
    with pytest.raises(RolloutFailed, match=r"rollout_log_probs is not set.*keep meta_info"):
        await plugins.doors.generate(context(run, router), sampled(), run.rollout.sampling)


async def test_a_later_generate_function_keeps_ids_log_probs_and_mask(router: str) -> None:
    plugins, run = using("custom_generate_function", f"{SLIME}:with_tools")
    assert plugins.doors.generate is not None
    [sample] = await plugins.doors.generate(context(run, router), sampled(), run.rollout.sampling)  # type: ignore[misc]
    assert sample.tokens == [97, 98, 120, 121, 61, 52]
    assert sample.rollout_log_probs == [-0.25, -0.5, 0.0, 0.0]
    assert sample.loss_mask == [1, 1, 0, 0]
    assert (sample.metadata["tools"], sample.metadata["evaluation"]) == (1, False)
    asked = replace(context(run, router), evaluating=True)
    [sample] = await plugins.doors.generate(asked, sampled(), run.rollout.sampling)  # type: ignore[misc]
    assert sample.metadata["evaluation"] is True


async def test_of_a_reward_of_several_numbers_the_jobs_own_counts() -> None:
    reward = {"reward": {"type": "dapo", "reward_key": "acc"}}
    plugins, run = using("custom_generate_function", f"{SLIME}:graded", rollout=reward)
    assert plugins.doors.generate is not None
    [sample] = await plugins.doors.generate(context(run), sampled(), run.rollout.sampling)  # type: ignore[misc]
    assert sample.reward == 0.25
    plugins, run = using("custom_generate_function", f"{SLIME}:graded")
    assert plugins.doors.generate is not None
    with pytest.raises(RolloutFailed, match=r"the reward \{'score': .*rollout\.reward\.reward_key"):
        await plugins.doors.generate(context(run), sampled(), run.rollout.sampling)


async def test_siblings_share_their_trajectory() -> None:
    for path in (f"{SLIME}:fan_out", f"{USERS}:two"):
        plugins, run = using("custom_generate_function", path)
        assert plugins.doors.generate is not None
        made = await plugins.doors.generate(context(run), sampled(), run.rollout.sampling)
        assert isinstance(made, list)
        assert [each.trajectory_index for each in made] == [3, 3]
        assert {each.group_index for each in made} == {1}


@pytest.mark.parametrize("path", [f"{SLIME}:split_attempts", f"{USERS}:split_attempts"])
async def test_siblings_within_a_group_of_a_whole_rollout_share_their_trajectory(path: str) -> None:
    plugins, run = using("rollout_function", path)
    assert plugins.rollout_function is not None
    [group] = (await plugins.rollout_function(context(run), 0)).groups
    assert [(each.index, each.trajectory_index) for each in group] == [(0, 0), (0, 0), (1, None)]


def test_siblings_that_have_a_trajectory_keep_it() -> None:
    first, second = sampled(4), sampled(5)
    first.trajectory_index = second.trajectory_index = 9
    [group] = groups_of([[[first, second], [sampled(6)]]], "f")
    assert [each.trajectory_index for each in group] == [9, 9, None]


async def test_slimes_functions_are_told_the_sampling_of_the_sample_alone() -> None:
    training = {"max_new_tokens": 9, "stop": ["</tool>"], "stop_token_ids": [5], "min_p": 0.1, "ignore_eos": True}
    plugins, run = using("custom_generate_function", f"{SLIME}:tells_its_sampling", rollout={"sampling": training})
    assert plugins.doors.generate is not None
    own = SamplingConfig(max_new_tokens=8, min_new_tokens=7, skip_special_tokens=False)
    [sample] = await plugins.doors.generate(context(run), sampled(), own)  # type: ignore[misc]
    assert sample.metadata["given"] == {
        **{"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "max_new_tokens": 8, "min_new_tokens": 7},
        **{"ignore_eos": False, "skip_special_tokens": False},
        **{"no_stop_trim": True, "spaces_between_special_tokens": False},
    }
    jobs = sample.metadata["jobs"]
    assert (jobs["stop"], jobs["stop_token_ids"], jobs["min_p"], jobs["ignore_eos"]) == (["</tool>"], [5], 0.1, True)


async def test_a_generate_function_has_the_time_of_the_evaluation_that_it_is_part_of() -> None:
    limits: dict[str, Any] = {"rollout": {"timeout_s": 0.05}, "eval": {"timeout_s": 0.1}}
    plugins, run = using("custom_generate_function", f"{USERS}:never", **limits)
    assert plugins.doors.generate is not None
    for evaluating, limit in ((False, r"rollout\.timeout_s = 0\.05 s"), (True, r"eval\.timeout_s = 0\.1 s")):
        asked = replace(context(run), evaluating=evaluating)
        with pytest.raises(RolloutFailed, match=rf"users:never did not return within {limit}"):
            await plugins.doors.generate(asked, sampled(), run.rollout.sampling)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            f"{USERS}:evaluates_to_nothing",
            "evaluates_to_nothing returned NoneType None: expected groups .* by eval set",
        ),
        (
            f"{USERS}:evaluates_without_names",
            "evaluates_without_names returned list .*: expected groups .* by eval set",
        ),
        (
            f"{SLIME}:evaluates_to_a_number",
            "evaluates_to_a_number returned float for an eval set: expected its rewards",
        ),
    ],
)
async def test_an_eval_function_that_returns_the_wrong_thing_is_named(path: str, message: str) -> None:
    plugins, run = using("eval_function", path)
    assert plugins.eval_function is not None
    with pytest.raises(RolloutFailed, match=message):
        await plugins.eval_function(context(run), 0)


async def test_a_rollout_function_of_slimes_is_told_when_it_evaluates() -> None:
    plugins, run = using("rollout_function", f"{SLIME}:annotated_rollout")
    assert plugins.eval_function is not None
    assert list(await plugins.eval_function(context(run), 0)) == ["own"]


async def test_a_wrong_return_of_any_other_door_is_named() -> None:
    plugins, run = using("rollout_function", f"{USERS}:loses_a_sample")
    assert plugins.rollout_function is not None
    with pytest.raises(RolloutFailed, match=r"users:loses_a_sample: group 0 holds NoneType None: expected samples"):
        await plugins.rollout_function(context(run), 0)
    taken = using("buffer_filter", f"{USERS}:takes_nothing")[0].buffer_filter
    assert taken is not None
    with pytest.raises(RolloutFailed, match=r"users:takes_nothing returned NoneType None: expected a list of groups"):
        taken([[sampled()]], 1)
    made = using("data_source", f"{USERS}:Empty")[0].data_source
    assert made is not None
    with pytest.raises(RolloutFailed, match=r"users:Empty\.next_groups returned NoneType None: expected a list of gro"):
        made(Bytes()).next_groups(1, 1)
    with pytest.raises(RolloutFailed, match=r"users:Empty\.__len__ raised AttributeError"):
        len(made(Bytes()))
    keep = load_plugins(config(rollout={"dynamic_sampling_filter": f"{USERS}:keep_several"})).doors
    assert keep.dynamic_sampling_filter is not None
    with pytest.raises(RolloutFailed, match=r"users:keep_several raised ValueError"):
        keep.dynamic_sampling_filter([sampled()])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{SLIME}:bad_mask", "loss_mask has 1 entries for response_length 2"),
        (f"{USERS}:wrong", "users:wrong returned str '' for sample 3: expected a Sample or a list"),
        (f"{USERS}:fails", r"users:fails raised KeyError\('lost'\)"),
        (f"{USERS}:loses_a_task", r"users:loses_a_task raised CancelledError\(\)"),
        (f"{USERS}:exits", r"users:exits raised SystemExit\(3\)"),
    ],
)
async def test_what_comes_back_wrong_names_function_and_sample(path: str, message: str) -> None:
    plugins, run = using("custom_generate_function", path)
    assert plugins.doors.generate is not None
    with pytest.raises(RolloutFailed, match=message):
        await plugins.doors.generate(context(run), sampled(), run.rollout.sampling)


async def test_a_plain_function_that_finds_nothing_is_not_waited_for_until_its_deadline() -> None:
    plugins, _ = using("rollout_data_postprocess", f"{USERS}:finds_nothing")
    with pytest.raises(RolloutFailed, match=r"users:finds_nothing raised RuntimeError\('StopIteration\(\)'\)"):
        await asyncio.wait_for(plugins.postprocess([[sampled()]]), 9)
    plugins, run = using("rollout_function", f"{SLIME}:finds_nothing")
    assert plugins.rollout_function is not None
    with pytest.raises(RolloutFailed, match="for_slime:finds_nothing raised RuntimeError"):
        await asyncio.wait_for(plugins.rollout_function(context(run), 0), 9)


async def test_a_whole_rollout_of_slimes_kind_reads_and_fills_the_data() -> None:
    plugins, run = using("rollout_function", f"{SLIME}.generate_rollout")
    assert plugins.rollout_function is not None
    output = await plugins.rollout_function(context(run), 0)
    assert [[s.index for s in group] for group in output.groups] == [[0, 1], [2, 3]]
    assert [[s.tokens for s in group] for group in output.groups] == [
        [[97, 98, 50], [97, 98, 51]],
        [[97, 98, 52], [97, 98, 53]],
    ]
    assert [s.reward for group in output.groups for s in group] == [0.0, 1.0, 2.0, 3.0]
    assert output.metrics == {"own": 2.0}
    plugins, run = using("eval_function", f"{SLIME}.generate_rollout")
    assert plugins.eval_function is not None
    with pytest.raises(RolloutFailed, match="returned 2 truncated for 4 samples of an eval set"):
        await plugins.eval_function(context(run), 0)


async def test_slimes_functions_may_make_samples_of_their_own_as_long_as_they_number_them() -> None:
    plugins, run = using("eval_function", f"{SLIME}.evaluate_own")
    assert plugins.eval_function is not None
    found = await plugins.eval_function(context(run), 0)
    [[first, second], [third]] = found["own"]
    assert [s.prompt for s in (first, second, third)] == ["p0", "p0", "p1"]
    assert [s.reward for s in (first, second, third)] == [1.0, 0.0, 0.5]
    assert (first.tokens, first.label, first.weight_versions) == ([97, 98, 120], "l", [5])
    assert (first.status, second.status) == (SampleStatus.COMPLETED, SampleStatus.TRUNCATED)
    plugins, run = using("rollout_function", f"{SLIME}.nameless")
    assert plugins.rollout_function is not None
    with pytest.raises(RolloutFailed, match=r"nameless returned a sample with index None: .* number your own"):
        await plugins.rollout_function(context(run), 0)


async def test_generate_functions_of_slimes_are_bounded_as_requests_are() -> None:
    import asyncio

    plugins, run = using("custom_generate_function", f"{SLIME}.waits", engine={"max_concurrency": 3})
    doors = plugins.doors
    assert doors.generate is not None and doors.generate_sends_by_itself
    made = await asyncio.gather(*(doors.generate(context(run), sampled(i), run.rollout.sampling) for i in range(10)))
    assert [found[0].index for found in made if isinstance(found, list)] == list(range(10))


async def test_the_router_is_reached_whatever_proxy_the_environment_names(
    router: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    plugins, run = using("custom_generate_function", f"{SLIME}.generate")
    assert plugins.doors.generate is not None
    [made] = await plugins.doors.generate(context(run, router), sampled(), run.rollout.sampling)  # type: ignore[misc]
    assert made.response == "xy"


async def test_an_evaluation_of_the_users_own_is_recorded_like_ours(tmp_path: Path) -> None:
    plugins = {"eval_function": f"{USERS}:evaluation", "custom_eval_rollout_log_function": f"{USERS}:eval_log"}
    run = config(plugins, eval=EVAL)
    [found] = await Evaluator([], run.eval, tmp_path, load_plugins(run))(context(run))
    assert (found.name, found.metrics) == ("mine", {"only": 2.0})
    assert len(found.samples_path.read_text().splitlines()) == 1


async def test_a_native_rollout_function_is_called_with_the_context() -> None:
    plugins, run = using("rollout_function", f"{USERS}:rollout")
    assert plugins.rollout_function is not None
    output = await plugins.rollout_function(context(run), 4)
    assert (len(output.groups), output.metrics) == (1, {"seen": 4.0})


async def test_rewards_and_filters_see_slimes_samples() -> None:
    run = config({"arguments": {"bonus": 0.5}, "rollout_sample_filter": f"{SLIME}:remove_odd"})
    plugins = load_plugins(run)
    sample = sampled()
    sample.response, sample.response_length, sample.loss_mask = "abc", 3, [1, 1, 1]
    assert await plugins.reward_function(f"{SLIME}:rm", by_group=False, field="f")(sample) == 3.5
    boxed = replace(sample, response="so \\boxed{7}", label="7")
    scored = await plugins.reward_function(f"{SLIME}:boxed_rm", by_group=False, field="f")(boxed)
    assert scored == {"score": 1.0, "acc": 1.0, "pred": "7"}
    assert await plugins.reward_function(f"{SLIME}:group_rm", by_group=True, field="f")([sample]) == [3.0]
    assert plugins.reward_function(f"{USERS}:reward", by_group=False, field="f")(sample) == 3.0
    groups = [[sampled(0), sample]]
    assert plugins.doors.sample_filter is not None
    await plugins.doors.sample_filter(groups)
    assert sample.loss_mask == [0, 0, 0]


async def test_hooks_of_the_rollout_do_the_same_in_both_forms() -> None:
    groups = [[sampled(0), sampled(1)], [sampled(2)]]
    for sample, reward in zip((s for g in groups for s in g), (1.0, 0.0, 3.0), strict=True):
        sample.reward, sample.status = reward, SampleStatus.COMPLETED
    slime, _ = using("custom_reward_post_process", f"{SLIME}:double")
    assert await slime.outcomes(groups) == [[2.0, 0.0], [6.0]]
    native, _ = using("custom_reward_post_process", f"{USERS}:outcomes")
    assert await native.outcomes(groups) == [[1.0, -1.0], [1.0]]
    wrong, _ = using("custom_reward_post_process", f"{USERS}:too_few")
    with pytest.raises(RolloutFailed, match=r"returned \[1\] numbers by group, for groups of \[2, 1\]"):
        await wrong.outcomes(groups)

    logs, _ = using("custom_rollout_log_function", f"{SLIME}:log")
    assert await logs.rollout_metrics(0, groups, {"a": 1.0}) == {"a": 1.0, "n": 3.0}
    assert await logs.rollout_metrics(1, groups, {"a": 1.0}) == {}
    ours, _ = using("custom_rollout_log_function", f"{USERS}:log")
    assert await ours.rollout_metrics(0, groups, {"a": 1.0}) == {"a": 1.0, "groups": 2.0}
    none = load_plugins(config())
    assert await none.rollout_metrics(0, groups, {"a": 1.0}) == {"a": 1.0}
    assert await none.outcomes(groups) is None


def test_a_buffer_filter_takes_groups_out_of_our_buffer() -> None:
    plugins, _ = using("buffer_filter", f"{SLIME}:last_first")
    buffer = [[sampled(i)] for i in range(3)]
    [first, second, third] = buffer
    assert plugins.buffer_filter is not None
    assert plugins.buffer_filter(buffer, 2) == [third, second]
    assert buffer == [first]
    assert buffer[0] is first


def test_a_dynamic_filter_of_slimes_kind_says_keep_or_drop() -> None:
    run = config()
    from trainers.plugins.check import check
    from trainers.plugins.doors import DOORS
    from trainers.slime_compat.adapters import Adapter

    adapter = Adapter(SlimeArgs(run), needs_log_probs=False, rendered=False, reward_key=None)
    keep = adapter.dynamic_sampling_filter(check(f"{SLIME}:keep", DOORS["dynamic_sampling_filter"]).target, "keep")
    assert bool(keep([sampled(0), sampled(1)])) is True
    assert bool(keep([sampled(0)])) is False
    uneven = load_plugins(config(rollout={"dynamic_sampling_filter": f"{SLIME}:keep_as_a_tensor"})).doors
    assert uneven.dynamic_sampling_filter is not None
    assert uneven.dynamic_sampling_filter([replace(sampled(0), reward=1.0), replace(sampled(1), reward=0.0)]) is True


def test_a_data_source_of_slimes_kind_resumes_where_it_was_saved() -> None:
    plugins, _ = using("data_source", f"{SLIME}:Source")
    assert plugins.data_source is not None
    source = plugins.data_source(Bytes())
    [first] = source.next_groups(1, 2)
    assert [s.tokens for s in first] == [[97, 98], [97, 98]]
    state = source.state()
    after = [s.index for s in source.next_groups(1, 2)[0]]
    source.load_state(state)
    assert [s.index for s in source.next_groups(1, 2)[0]] == after == [2, 3]


def test_args_are_slimes_names_and_read_only() -> None:
    run = config(
        {"arguments": {"search_url": "http://s"}},
        rollout={"sampling": {"temperature": 0.7}},
        trainer={"seed": 7},
        debug={"mode": "rollout_only"},
    )
    args = SlimeArgs(run, save="/ckpt")
    assert (args.rollout_batch_size, args.n_samples_per_prompt, args.rollout_temperature) == (2, 2, 0.7)
    assert (args.hf_checkpoint, args.save, args.search_url, args.global_batch_size) == ("/m", "/ckpt", "http://s", 4)
    assert (args.seed, args.debug_rollout_only, args.debug_train_only) == (7, True, False)
    assert SlimeArgs(config({"arguments": {"use_wandb": True}})).use_wandb is True
    assert (args.use_wandb, args.colocate, args.context_parallel_size) == (False, False, 1)
    assert SlimeArgs(config(rollout={"reward": {"type": "remote", "url": "http://r"}})).rm_type == "remote_rm"
    assert getattr(args, "nothing", None) is None
    with pytest.raises(AttributeError, match=r"nearest is args\.rollout_temperature.*plugins\.arguments"):
        _ = args.rollout_temperatur
    with pytest.raises(AttributeError, match="is not known before the engines run"):
        _ = args.sglang_router_ip
    with pytest.raises(AttributeError, match="read-only"):
        args.rollout_batch_size = 3
    args.connect("http://10.1.2.3:3456", Bytes())
    assert (args.sglang_router_ip, args.sglang_router_port) == ("10.1.2.3", 3456)


def test_a_sample_comes_back_as_it_went() -> None:
    sample = sampled()
    sample.tokens += [5, 6]
    sample.response_length, sample.loss_mask, sample.rollout_log_probs = 2, [1, 0], [-1.5, 0.0]
    sample.weight_versions, sample.status, sample.reward = [3, 4], SampleStatus.ABORTED, 0.25
    assert from_slime(to_slime(sample), sample, name="f", weight_version=9, needs_log_probs=True) == sample
    assert SlimeSample.from_dict(to_slime(sample).to_dict()) == to_slime(sample)


async def test_a_sample_that_was_given_up_before_its_first_token_keeps_its_prompt_and_its_place_in_the_batch() -> None:
    plugins, run = using("custom_generate_function", f"{SLIME}:gives_up")
    assert plugins.doors.generate is not None
    [sample] = await plugins.doors.generate(context(run), sampled(), run.rollout.sampling)  # type: ignore[misc]
    assert (sample.status, sample.tokens, sample.response_length) == (SampleStatus.ABORTED, [97, 98], 0)
    learnt = Sample(4, 1, "ab", [97, 98, 5], "x", 1, None, 1.0, [1], SampleStatus.COMPLETED, {}, [-1.0], [5])
    sizes: dict[str, Any] = {"global_batch_size": 2, "data_parallel_size": 1, "micro_batch_size": 2}
    batch = build_train_batch(0, [[sample, learnt]], run.algorithm, **sizes)
    assert [each.loss_mask.tolist() for each in batch.samples] == [[0.0], [1.0]]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tokens": None}, r".*'NoneType' object is not iterable"),
        ({"tokens": ["a", 1]}, r".*'str' object cannot be interpreted"),
        ({"response_length": 1.0}, r".*'float' object cannot be interpreted"),
        ({"response_length": 3}, r"response_length is 3, and there are 2 tokens"),
        ({"status": "done"}, r".*'done' is not a valid"),
        ({"loss_mask": [0.5]}, r"loss_mask holds something other than 0 and 1"),
        ({"rollout_log_probs": [None]}, r"rollout_log_probs: float\(\) argument"),
        ({"rollout_log_probs": []}, r"rollout_log_probs has 0 entries for response_length 1"),
    ],
)
def test_a_sample_that_contradicts_itself_is_told_by_the_function_and_the_attribute(
    changed: dict[str, Any], said: str
) -> None:
    made = SlimeSample(index=3, tokens=[97, 5], response_length=1, status=SlimeSample.Status.COMPLETED)  # type: ignore[attr-defined]
    for name, value in changed.items():
        setattr(made, name, value)
    with pytest.raises(RolloutFailed, match=f"^f, sample 3: {said}"):
        from_slime(made, sampled(), name="f", weight_version=1, needs_log_probs=False)


def test_an_error_of_a_filter_is_told_with_its_name() -> None:
    plugins, _ = using("buffer_filter", f"{USERS}:filter_fails")
    assert plugins.buffer_filter is not None
    with pytest.raises(RolloutFailed, match=r"users:filter_fails raised KeyError\('lost'\)"):
        plugins.buffer_filter([[sampled()]], 1)
    run = config({}, rollout={"dynamic_sampling_filter": f"{USERS}:keep_fails"})
    keep = load_plugins(run).doors.dynamic_sampling_filter
    assert keep is not None
    with pytest.raises(RolloutFailed, match=r"users:keep_fails raised KeyError\('lost'\)"):
        keep([sampled()])


async def test_a_call_that_is_cancelled_from_outside_is_no_error_of_the_function() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    calling = asyncio.create_task(call(forever, name="f", timeout_s=9, field="rollout.timeout_s"))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_a_function_that_never_returns_ends_with_the_rollouts_deadline() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RolloutFailed, match=r"f did not return within rollout\.timeout_s = 0\.05 s"):
        await call(forever, name="f", timeout_s=0.05, field="rollout.timeout_s")
