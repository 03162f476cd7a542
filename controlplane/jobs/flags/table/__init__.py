"""Every flag of slime's, in the order of its own groups, and what becomes of each."""

from controlplane.jobs.flags.flag import Flag
from controlplane.jobs.flags.table import (
    algorithm,
    checkpoint,
    cluster,
    data,
    engine,
    evaluation,
    extras,
    rollout,
    router,
    trainer,
)

GROUPS: dict[str, tuple[Flag, ...]] = {
    "Resources": cluster.FLAGS,
    "Model and checkpoints": checkpoint.FLAGS,
    "Data": data.FLAGS,
    "Rollout": rollout.FLAGS,
    "Rewards": rollout.REWARDS,
    "Evaluation": evaluation.FLAGS,
    "Algorithm": algorithm.FLAGS,
    "Training": trainer.FLAGS,
    "Optimizer": trainer.OPTIMIZER,
    "Engines and router": engine.FLAGS,
    "Options of the router": router.FLAGS,
    "Weight sync": engine.SYNC,
    "Functions of your own": extras.FUNCTIONS,
    "Tracking": extras.TRACKING,
    "Debugging and tests": extras.DEBUG,
}

TABLE: dict[str, Flag] = {flag.name: flag for flags in GROUPS.values() for flag in flags}
