"""Options of ``engine.sglang`` reach SGLang's parser as the values that the job wrote."""

import argparse
import json
from typing import Any

import pytest
from pydantic import ValidationError

from engines.config import EngineConfig
from engines.hardware import CPU, CUDA
from engines.sglang.args import OptionInvalid, server_options, to_argv


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path", "--model", dest="model_path")
    parser.add_argument("--mem-fraction-static", type=float)
    parser.add_argument("--disable-radix-cache", action="store_true")
    parser.add_argument("--always-on", action="store_true", default=True)
    parser.add_argument("--metrics", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cuda-graph-bs", type=int, nargs="+")
    parser.add_argument("--json-model-override-args", type=str, default="{}")
    parser.add_argument("--buckets", type=json.loads)
    parser.add_argument("--tensor-parallel-size", "--tp-size", dest="tp_size", type=int)
    parser.add_argument("--enable-x", nargs="?", const=True, default=False)
    return parser


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("mem_fraction_static", 0.5, 0.5),
        ("disable_radix_cache", True, True),
        ("disable_radix_cache", False, False),
        ("metrics", False, False),
        ("metrics", True, True),
        ("cuda_graph_bs", [1, 2, 8], [1, 2, 8]),
        ("json_model_override_args", {"rope_theta": 1e6}, '{"rope_theta": 1000000.0}'),
        ("buckets", [0.1, 1.0], [0.1, 1.0]),
        ("mem_fraction_static", -1.0, -1.0),
        ("mem_fraction_static", None, None),
        ("json_model_override_args", "--odd", "--odd"),
        ("enable_x", True, True),
    ],
)
def test_each_kind_of_value_is_read_back_as_written(
    parser: argparse.ArgumentParser, key: str, value: Any, read: Any
) -> None:
    assert getattr(parser.parse_args(to_argv({key: value}, parser)), key) == read


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mem_fraction_statik": 0.5}, "sglang.mem_fraction_statik .* did you mean mem_fraction_static"),
        ({"disable_radix_cache": "yes"}, "sglang.disable_radix_cache is a flag"),
        ({"always_on": False}, "no way to turn it off"),
        ({"metrics": 1}, "sglang.metrics takes true or false"),
        ({"model_path": "/a", "model": "/b"}, "model_path and model are the same"),
        ({"model": "/b"}, "sglang.model is set by the system: use model.hf_checkpoint"),
    ],
)
def test_a_wrong_option_is_named_with_the_fix(
    parser: argparse.ArgumentParser, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(OptionInvalid, match=text):
        to_argv(options, parser)


def test_the_job_overrides_the_hardware_and_the_system_both() -> None:
    config = EngineConfig(dtype="float32", seed=7, sglang={"max_total_tokens": 999, "log_level_http": "error"})
    options = server_options(config, CPU, model_path="/m", host="127.0.0.1", port=3, tp_size=2, index=5)
    assert options["max_total_tokens"] == 999
    assert options["log_level_http"] == "error"
    assert options["attention_backend"] == "torch_native"
    assert (options["model_path"], options["port"], options["tp_size"], options["dtype"]) == ("/m", 3, 2, "float32")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model_path", "use model.hf_checkpoint"),
        ("api_key", "use .the service's own key"),
        ("admin_api_key", "use .the service's own key"),
        ("ssl_certfile", "use .TLS in front of the service"),
        ("enable_ssl_refresh", "use .TLS in front of the service"),
        ("grpc_mode", "use .HTTP: it is how"),
        ("tokenizer_worker_num", "use .one, which refuses"),
    ],
)
def test_what_the_system_sets_is_refused_with_what_decides_it(name: str, text: str) -> None:
    with pytest.raises(ValidationError, match=f"sglang.{name} is set by the system: {text}"):
        EngineConfig(sglang={name: "x"})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"data_parallel_size": 2}, r"sglang\.data_parallel_size \(2\) needs sglang\.enable_dp_attention"),
        ({"pp_size": 2}, r"sglang\.pp_size \(2\): .* resources\.rollout_num_gpus_per_engine by tensor"),
        ({"pipeline_parallel_size": 4}, r"sglang\.pipeline_parallel_size \(4\)"),
    ],
)
def test_sizes_that_an_engine_has_no_processes_for_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        EngineConfig(sglang=options)
    EngineConfig(sglang=dict.fromkeys(options, 1))


def test_engines_sample_with_different_seeds() -> None:
    seeds = {
        server_options(EngineConfig(), CUDA, model_path="/m", host="h", port=1, tp_size=1, index=i)["random_seed"]
        for i in range(4)
    }
    assert len(seeds) == 4
