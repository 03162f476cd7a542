"""What a job may say under trainer.megatron, against Megatron's own parser."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import trainers
from trainers.config import MODEL_OPTIONS, OWNED_MEGATRON_OPTIONS
from trainers.config.megatron_options import IDLE_MEGATRON_OPTIONS, UNSUPPORTED_MEGATRON_OPTIONS
from trainers.errors import ConfigInvalid
from trainers.megatron.options import destination
from trainers.megatron.user_options import user_options

ARCHITECTURE: dict[str, Any] = {
    "num_layers": 3,
    "hidden_size": 64,
    "layernorm_epsilon": 1e-6,
    "rotary_base": 1000000,
    "swiglu": True,
    "add_bias_linear": False,
    "num_experts": 8,
    "moe_layer_freq": "[0]*1+[1]*2",
    "moe_ffn_hidden_size": 32,
}
SYSTEM = ARCHITECTURE | {"lr": 1e-6, "calculate_per_token_loss": True}


def sort(**given: Any):
    return user_options(given, system=SYSTEM, architecture=ARCHITECTURE, provider=None)


def test_options_for_megatron_come_by_the_attribute_that_they_set() -> None:
    found = sort(recompute_granularity="full", no_rope_fusion=True, accumulate_allreduce_grads_in_fp32=True)
    assert found.options == {
        "recompute_granularity": "full",
        "apply_rope_fusion": False,
        "accumulate_allreduce_grads_in_fp32": True,
    }
    assert found.notices == []


@pytest.mark.parametrize(
    "facts",
    [
        {
            "num_layers": 3,
            "hidden_size": "64",
            "norm_epsilon": 0.000001,
            "rotary_base": 1e6,
            "disable_bias_linear": True,
        },
        {"moe_layer_freq": "([0]*1+[1]*2)"},
        {"moe_layer_freq": [0, 1, 1], "num_experts": 8, "q_lora_rank": None},
    ],
)
def test_what_agrees_with_the_model_is_accepted_in_any_spelling(facts: dict[str, Any]) -> None:
    assert sort(**facts).options == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_layers", 4),
        ("moe_layer_freq", 1),
        ("rotary_base", 10000),
        ("q_lora_rank", 1536),
        ("swiglu", False),
        ("multi_latent_attention", True),
    ],
)
def test_what_contradicts_the_model_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigInvalid, match=rf"trainer\.megatron\.{name} = .* contradicts config\.json"):
        sort(**{name: value})


@pytest.mark.parametrize("name", ["seq_length", "attention_backend", "eval_interval", "log_interval", "data_path"])
def test_an_option_without_effect_is_accepted_with_a_notice_that_says_why(name: str) -> None:
    found = sort(**{name: 4096})
    assert found.options == {}
    [notice] = found.notices
    assert notice.startswith(f"trainer.megatron.{name} has no effect: ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": 1e-3}, r"trainer\.megatron\.lr is set by the system: use trainer\.lr"),
        ({"recompute_granularty": "full"}, "no such option; did you mean recompute_granularity"),
        ({"use_torch_fsdp2": True}, "not supported in this release"),
        ({"apply_rope_fusion": True, "no_rope_fusion": True}, "given under another name too"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_way_out(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigInvalid, match=message):
        sort(**given)


def test_a_users_own_option_is_known_once_its_provider_is() -> None:
    def provider(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument("--sparkle", type=int, default=0)
        return parser

    with pytest.raises(ConfigInvalid, match="sparkle"):
        sort(sparkle=3)
    found = user_options({"sparkle": 3}, system=SYSTEM, architecture=ARCHITECTURE, provider=provider)
    assert found.options == {"sparkle": 3}


def test_every_option_named_here_is_one_of_megatrons() -> None:
    own = {"hf_checkpoint", "virtual_pipeline_model_parallel_size"}  # as a slime user or Megatron's code says it
    for name in {*MODEL_OPTIONS, *OWNED_MEGATRON_OPTIONS, *IDLE_MEGATRON_OPTIONS, *UNSUPPORTED_MEGATRON_OPTIONS} - own:
        assert destination(name)


def test_the_options_are_those_of_a_megatron_on_the_python_path(tmp_path: Path) -> None:
    import subprocess

    package = tmp_path / "megatron" / "training"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "arguments.py").write_text(
        "def add_megatron_arguments(parser):\n    parser.add_argument('--sparkle', dest='glitter')\n    return parser\n"
    )
    code = "from trainers.megatron.options import destination; print(destination('sparkle'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": os.pathsep.join((str(tmp_path), str(Path(trainers.__file__).parents[1])))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "glitter"
