"""Room on the cluster for one job: reserved whole, or not at all."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import state as ray_state  # the only source of what is free on each node
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from engines.config import ResourcesConfig
from engines.errors import PlacementTimeout
from engines.hardware.base import Hardware

NAMESPACE = "rollway"


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one actor: a trainer rank, or an engine with all its accelerators."""

    group: PlacementGroup
    bundle_index: int
    node_id: str
    resources: Mapping[str, float]

    @property
    def actor_options(self) -> dict[str, Any]:
        """For ``ActorClass.options``: takes exactly this slot, with the actor's children inside the group."""
        rest = {name: amount for name, amount in self.resources.items() if name not in ("CPU", "GPU")}
        return {
            "num_cpus": self.resources.get("CPU", 0),
            "num_gpus": self.resources.get("GPU", 0),
            **({"resources": rest} if rest else {}),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=self.bundle_index
            ),
        }


@dataclass(frozen=True, slots=True)
class Placement:
    """What one job reserved. The group ends with :meth:`release` or with the process that reserved it."""

    group: PlacementGroup
    trainer_slots: tuple[Slot, ...]
    """By rank: the ranks of one node follow one another."""
    engine_slots: tuple[Slot, ...]

    async def release(self) -> None:
        """Give everything back; actors that still run in it are killed. Safe to call again."""
        await asyncio.to_thread(remove_placement_group, self.group)


async def reserve(
    resources: ResourcesConfig, hardware: Hardware, *, name: str, training: bool = True, generation: bool = True
) -> Placement:
    """Reserve room for all trainer ranks and engines, or for one kind of them, within
    ``resources.placement_timeout_s``.

    ``name`` is the placement group's, in the namespace of the connected Ray client. Raises PlacementTimeout, which
    says what was asked for and what each node has free; nothing stays reserved then.
    """
    trainers, engines = _bundles(resources, hardware)
    trainers, engines = trainers if training else [], engines if generation else []
    bundles = [*trainers, *engines]
    timeout_s = resources.placement_timeout_s
    group = await asyncio.to_thread(placement_group, bundles, strategy="PACK", name=name)
    created = False
    try:
        deadline = time.monotonic() + timeout_s
        while not created and time.monotonic() < deadline:
            created = await asyncio.to_thread(group.wait, max(0.1, min(2.0, deadline - time.monotonic())))
        if not created:
            raise PlacementTimeout(await asyncio.to_thread(_shortage, bundles, timeout_s))
        table: dict[str, Any] = await asyncio.to_thread(placement_group_table, group)
    except BaseException:
        await asyncio.to_thread(remove_placement_group, group)
        raise
    nodes: dict[int, str] = {int(index): node for index, node in table["bundles_to_node_id"].items()}

    def slot(index: int, count: int) -> Slot:
        return Slot(group, index, nodes[index], hardware.slots(count))

    per_node = resources.actor_num_gpus_per_node
    return Placement(
        group=group,
        trainer_slots=tuple(slot(rank // per_node, 1) for rank in range(len(trainers) * per_node)),
        engine_slots=tuple(
            slot(len(trainers) + index, resources.rollout_num_gpus_per_engine) for index in range(len(engines))
        ),
    )


def _bundles(resources: ResourcesConfig, hardware: Hardware) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """One per training node, and one per engine: a bundle never spans nodes, so neither do these."""
    training = [hardware.slots(resources.actor_num_gpus_per_node)] * resources.actor_num_nodes
    engines = [hardware.slots(resources.rollout_num_gpus_per_engine)] * resources.num_engines
    return training, engines


def _shortage(bundles: Sequence[Mapping[str, float]], timeout_s: float) -> str:
    free: dict[str, dict[str, float]] = ray_state.available_resources_per_node()
    lines = [f"the cluster had no room within resources.placement_timeout_s = {timeout_s:.0f} s"]
    counts: dict[str, int] = {}
    for bundle in bundles:
        counts[_spell(bundle)] = counts.get(_spell(bundle), 0) + 1
    lines.append("asked for (each on one node): " + ", ".join(f"{count} × [{what}]" for what, count in counts.items()))
    for node in ray.nodes():
        if node["Alive"]:
            has = _spell(free.get(node["NodeID"], {}), only=bundles[0])
            of = _spell(node["Resources"], only=bundles[0])
            lines.append(f"node {node['NodeManagerAddress']}: {has} free of {of}")
    return "; ".join(lines)


def _spell(resources: Mapping[str, float], only: Mapping[str, float] | None = None) -> str:
    names = resources if only is None else only
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in names) or "nothing"
