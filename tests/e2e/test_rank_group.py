"""The ranks of a trainer as Ray actors."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engines.config import ResourcesConfig
from engines.hardware import CPU
from engines.placement import reserve
from tests.e2e.trainer_cases import make_batch, run_config, single_rank
from trainers.config import RunConfig
from trainers.errors import ModelInvalid, StorageFailed, TrainerLost
from trainers.megatron.group import MegatronTrainer
from trainers.megatron.start import resolve_start

pytestmark = pytest.mark.timeout(400)


class Ranks:
    """A MegatronTrainer in a placement of its own."""

    def __init__(self, config: RunConfig, directory: Path):
        self._config, self._directory = config, directory

    async def __aenter__(self) -> MegatronTrainer:
        resources = ResourcesConfig(
            accelerator=self._config.resources.accelerator,
            actor_num_gpus_per_node=self._config.resources.actor_num_gpus_per_node,
            placement_timeout_s=60,
        )
        self._placement = await reserve(resources, CPU, name=f"trainer-{os.urandom(4).hex()}")
        self.trainer = MegatronTrainer(
            self._config,
            checkpoints=self._directory / "checkpoints",
            run_id="run",
            slots=self._placement.trainer_slots,
            hardware=CPU,
            log_dir=self._directory / "logs",
        )
        return self.trainer

    async def __aexit__(self, *_: object) -> None:
        await self.trainer.close()
        await self._placement.release()


async def test_ranks_in_any_layout_take_the_same_steps_and_resume_each_others_checkpoints(
    ray_cluster: str, models: dict[str, Path], tmp_path: Path
) -> None:
    model = models["qwen3"]
    single = run_config(model, batch=6)
    with single_rank(single) as rank:
        expected = [rank.step(make_batch(single, rollout_id, max_tokens=64)) for rollout_id in range(4)]
        rank.export_hf(tmp_path / "expected")

    tensor = run_config(model, batch=6, ranks=2, trainer={"tensor_model_parallel_size": 2})
    async with Ranks(tensor, tmp_path) as trainer:
        state = await trainer.start()
        assert (state.next_rollout_id, state.extra_state, state.loaded_from) == (0, None, str(model))
        found = [await trainer.step(make_batch(tensor, rollout_id, max_tokens=64)) for rollout_id in (0, 1)]
        await trainer.save(1, tmp_path / "checkpoints", {"data": [1]})

    data = run_config(model, batch=6, ranks=2)
    async with Ranks(data, tmp_path) as trainer:
        state = await trainer.start()
        assert (state.next_rollout_id, state.extra_state) == (2, {"data": [1]})
        found += [await trainer.step(make_batch(data, rollout_id, max_tokens=64)) for rollout_id in (2, 3)]
        exported = await trainer.export_hf(tmp_path / "export")

    for mine, theirs in zip(found, expected, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-4)
        assert mine.grad_norms == pytest.approx(theirs.grad_norms, rel=1e-4)
    reference, weights = (load_file(path / "model.safetensors") for path in (tmp_path / "expected", exported))
    assert weights.keys() == reference.keys()
    for name, tensor_ in reference.items():
        torch.testing.assert_close(weights[name], tensor_, atol=2e-4, rtol=1e-3)


async def test_errors_of_a_rank_arrive_as_themselves_and_a_dead_rank_is_named(
    ray_cluster: str, models: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]}))
    async with Ranks(run_config(broken), tmp_path / "a") as trainer:
        with pytest.raises(ModelInvalid, match="MambaForCausalLM is not known"):
            await trainer.start()

    config = run_config(models["qwen3"], checkpoint={"async_save": True})
    checkpoints = tmp_path / "b" / "checkpoints"
    async with Ranks(config, tmp_path / "b") as trainer:
        await trainer.start()
        await trainer.save(0, checkpoints, {})
        async with asyncio.timeout(60):
            while not await trainer.save_settled():
                await asyncio.sleep(0.01)
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(StorageFailed, match="file/hf"):
            await trainer.export_hf(tmp_path / "file" / "hf")
        [rank] = await trainer.describe()
        await trainer.save(1, checkpoints, {})
        watch = asyncio.create_task(trainer.watch())
        os.kill(rank["pid"], signal.SIGKILL)
        with pytest.raises(TrainerLost, match="rank 0 died"):
            await asyncio.wait_for(watch, 60)
        with pytest.raises(TrainerLost, match=r"(?s)rank 0 died: .*last lines of .*trainer-0\.log"):
            await trainer.step(make_batch(config))
    begin = resolve_start(checkpoints, config.checkpoint, run_id="run")
    assert begin is not None
    assert begin.iteration == 0  # the next was being written
