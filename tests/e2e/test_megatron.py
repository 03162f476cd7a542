"""What is asked of Megatron itself: its arguments, its device, its optimizer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.family_models import build_family_model
from tests.e2e.trainer_cases import run_config, single_rank
from trainers.errors import ConfigInvalid
from trainers.megatron.args import megatron_args
from trainers.megatron.device import megatron_device
from trainers.megatron.hf.config import read_hf_config

pytestmark = pytest.mark.timeout(400)


class TestDistributedOptimizer:
    """Megatron's distributed optimizer around torch's Adam, defect by defect."""

    @pytest.fixture
    def optimizer(self, models: dict[str, Path]) -> Iterator[Any]:
        config = run_config(models["qwen3"], trainer={"megatron": {"use_distributed_optimizer": True}})
        with single_rank(config) as rank, megatron_device("cpu"):
            optimizer = rank._state.optimizer
            yield getattr(optimizer, "chained_optimizers", [optimizer])[0]

    def test_a_fresh_one_has_a_state_at_step_zero(self, optimizer: Any) -> None:
        assert {group["step"] for group in optimizer.state_dict()["optimizer"]["param_groups"]} == {0.0}

    def test_after_loading_every_parameter_counts_its_own_steps(self, optimizer: Any) -> None:
        optimizer.load_state_dict(optimizer.state_dict())
        steps = [state["step"] for state in optimizer.optimizer.state.values()]
        assert len({step.data_ptr() for step in steps}) == len(steps) > 1

    def test_a_format_without_step_keeps_the_step_of_the_parameter_groups(self, optimizer: Any) -> None:
        parameter, state, main = _first(optimizer)
        state["step"].fill_(5.0)
        ones = {key: torch.ones_like(main) for key in ("param", "exp_avg", "exp_avg_sq")}
        optimizer._set_main_param_and_optimizer_states(parameter, ones)
        assert state["step"].item() == 5.0
        assert torch.equal(state["exp_avg"], ones["exp_avg"])

    def test_a_format_with_an_unloaded_step_does_not_overwrite_it(self, optimizer: Any) -> None:
        parameter, state, main = _first(optimizer)
        state["step"].fill_(5.0)
        zeros = {key: torch.zeros_like(main) for key in ("param", "exp_avg", "exp_avg_sq")}
        optimizer._set_main_param_and_optimizer_states(parameter, zeros | {"step": torch.tensor(0.0)})
        assert state["step"].item() == 5.0

    def test_in_float32_the_main_parameter_is_written_in_place(self, optimizer: Any) -> None:
        parameter, _, main = _first(optimizer)
        assert main.requires_grad
        twos = {key: torch.full_like(main, 2.0) for key in ("param", "exp_avg", "exp_avg_sq")}
        optimizer._set_main_param_and_optimizer_states(parameter, twos)
        assert torch.equal(parameter.flatten()[: main.numel()], main)
        assert main.unique().tolist() == [2.0]


def _first(optimizer: Any) -> tuple[torch.nn.Parameter, dict[str, Any], torch.Tensor]:
    parameter, (group, order) = next(iter(optimizer.model_param_group_index_map.items()))
    main = optimizer.optimizer.param_groups[group]["params"][order]
    return parameter, optimizer.optimizer.state[main], main


class TestArguments:
    def parsed(self, models: dict[str, Path], *, ranks: int = 1, trainer: dict[str, Any] | None = None, **options: Any):
        config = run_config(models["qwen3"], ranks=ranks, trainer=(trainer or {}) | {"megatron": options})
        model = read_hf_config(models["qwen3"])
        return megatron_args(config, model, rank=0, world_size=ranks, device="cpu")

    def test_the_model_and_the_job_are_what_megatron_gets(self, models: dict[str, Path]) -> None:
        args = self.parsed(models)
        assert (args.num_layers, args.hidden_size, args.kv_channels, args.num_query_groups) == (2, 32, 16, 2)
        assert (args.vocab_size, args.padded_vocab_size) == (120, 128)
        assert args.qk_layernorm
        assert not args.add_bias_linear
        assert (args.train_iters, args.lr) == (8, 1e-3)

    def test_options_go_through_megatrons_parser_with_its_types(self, models: dict[str, Path]) -> None:
        args = self.parsed(
            models,
            recompute_granularity="selective",
            recompute_modules=["core_attn", "mlp"],
            overlap_grad_reduce=True,
            lr_wsd_decay_iters=3,
            weight_decay_incr_style="constant",
            no_bias_swiglu_fusion=True,
            check_for_nan_in_loss_and_grad=False,
        )
        assert args.recompute_modules == ["core_attn", "mlp"]
        assert args.overlap_grad_reduce is True
        assert args.lr_wsd_decay_iters == 3
        assert args.bias_swiglu_fusion is False
        assert args.check_for_nan_in_loss_and_grad is False

    def test_a_default_of_ours_can_be_changed(self, models: dict[str, Path]) -> None:
        assert self.parsed(models, override_opt_param_scheduler=False).override_opt_param_scheduler is False

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"recompute_granularty": "full"}, "no such option; did you mean recompute_granularity"),
            ({"use_torch_fsdp2": True}, "use_torch_fsdp2 = True is not supported in this release"),
            ({"norm_epsilon": 1e-3}, "norm_epsilon = 0.001 contradicts config.json"),
            ({"lr_decay_iters": "soon"}, "invalid int value: 'soon'"),
            ({"recompute_granularity": "some"}, "invalid choice: 'some'"),
            ({"overlap_grad_reduce": 1}, "must be true or false"),
            ({"lr_decay_iters": True}, "takes a value, not true"),
            ({"recompute_granularity": "full"}, "Megatron refuses these options"),
            ({"optimizer": "sgd"}, "optimizer = 'sgd': the distributed optimizer shards Adam's state alone"),
            ({"lr_decay_iters": 0}, "lr_decay_iters is 0: give at least 1 step"),
            ({"data_parallel_random_init": True}, "data_parallel_random_init = True is not supported"),
        ],
    )
    def test_a_wrong_option_is_refused_by_name(
        self, options: dict[str, Any], message: str, models: dict[str, Path]
    ) -> None:
        with pytest.raises(ConfigInvalid, match=message):
            self.parsed(models, **options)

    @pytest.mark.parametrize(
        ("trainer", "options", "message"),
        [
            ({"lr_warmup_steps": 8}, {}, r"trainer\.lr_warmup_steps is 8, and must be below the 8 steps"),
            ({"lr_warmup_steps": 2}, {"lr_decay_iters": 2}, "below the 2 steps that trainer.megatron.lr_decay_iters"),
            ({"lr_decay_style": "WSD"}, {"lr_wsd_decay_iters": 9}, "lr_wsd_decay_iters is 9, and must be 1 to the 8"),
        ],
    )
    def test_a_schedule_that_does_not_fit_the_run_is_refused_by_its_field(
        self, trainer: dict[str, Any], options: dict[str, Any], message: str, models: dict[str, Path]
    ) -> None:
        with pytest.raises(ConfigInvalid, match=message):
            self.parsed(models, trainer=trainer, **options)

    def test_options_of_the_process_groups_reach_them(
        self, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, Any] = {}

        def initialize(*sizes: Any, **options: Any) -> None:
            seen.update(options)
            raise RuntimeError("seen")

        monkeypatch.setattr("trainers.megatron.world.parallel_state.initialize_model_parallel", initialize)
        options = {"high_priority_stream_groups": ["dp"], "nccl_communicator_config_path": "/n.yaml"}
        with (
            pytest.raises(RuntimeError, match="seen"),
            single_rank(run_config(models["llama"], trainer={"megatron": options})),
        ):
            pass
        assert {name: seen[name] for name in options} == options

    @pytest.mark.parametrize(
        ("trainer", "options", "message"),
        [
            ({"expert_model_parallel_size": 2}, {"moe_token_dispatcher_type": "allgather"}, "use 'alltoall'"),
            ({"expert_tensor_parallel_size": 2}, {"moe_token_dispatcher_type": "allgather"}, "use 'alltoall'"),
            ({"expert_tensor_parallel_size": 2, "pipeline_model_parallel_size": 2}, {}, "in a pipeline: set it to 1"),
            ({"expert_tensor_parallel_size": 2}, {}, "split over tensor-parallel ranks alone"),
        ],
    )
    def test_a_dispatcher_that_would_fail_in_a_collective_is_refused(
        self, trainer: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        build_family_model("qwen3-moe", tmp_path)
        config = run_config(tmp_path, ranks=4, trainer=trainer | {"megatron": options})
        with pytest.raises(ConfigInvalid, match=message):
            megatron_args(config, read_hf_config(tmp_path), rank=0, world_size=4, device="cpu")

    def test_a_tensor_parallel_size_that_does_not_fit_the_model_is_refused(self, models: dict[str, Path]) -> None:
        with pytest.raises(ConfigInvalid, match=r"\(4\) must divide the model's num_key_value_heads \(2\)"):
            self.parsed(models, ranks=4, trainer={"tensor_model_parallel_size": 4})


class TestDevice:
    def test_cuda_means_the_cpu_inside_and_nothing_outside(self) -> None:
        before = torch.cuda.current_stream
        with megatron_device("cpu"):
            assert torch.zeros(2, device="cuda").device.type == "cpu"
            assert torch.zeros(2, device=torch.cuda.current_device()).cuda().device.type == "cpu"
            assert torch.zeros(2).to("cuda", torch.float64).dtype == torch.float64
            assert torch.empty(2, pin_memory=True).device.type == "cpu"
            assert torch.nn.Linear(1, 1).cuda().weight.device.type == "cpu"
            assert torch.zeros(2, dtype=torch.bfloat16).type() == "torch.cuda.BFloat16Tensor"
            with torch.cuda.stream(torch.cuda.Stream()):
                torch.cuda.Event().record(torch.cuda.current_stream())
            assert torch.cuda.device_count() == 1
        assert torch.cuda.current_stream is before
        assert torch.zeros(2).type() == "torch.FloatTensor"

    def test_cudas_random_state_is_the_cpus(self) -> None:
        with megatron_device("cpu"):
            torch.cuda.manual_seed(3)
            state = torch.cuda.get_rng_state()
            first = torch.rand(3)
            torch.cuda.set_rng_state(state)
            assert torch.equal(torch.rand(3), first)

    def test_on_a_gpu_it_does_nothing(self) -> None:
        before = dict(vars(torch.cuda))
        with megatron_device("cuda"):
            assert dict(vars(torch.cuda)) == before
