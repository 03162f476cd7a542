"""What becomes of the flags whose value is not simply a field's, a topic a module."""

from collections.abc import Callable, Mapping

from controlplane.jobs.flags.draft import Draft
from controlplane.jobs.flags.given import Given
from controlplane.jobs.flags.rules import (
    algorithm,
    checkpoint,
    data,
    debug,
    engine,
    evaluation,
    functions,
    resources,
    rewards,
    trainer,
)

type Rule = Callable[[Given, Draft, Mapping[str, str]], None]

# In this order: later ones read what earlier ones have set.
RULES: tuple[Rule, ...] = (
    functions.apply,
    resources.apply,
    checkpoint.apply,
    data.apply,
    rewards.apply,
    algorithm.apply,
    trainer.apply,
    engine.apply,
    evaluation.apply,
    debug.apply,
)
"""Each takes the flags, the draft, and the text of the files that flags name, by path."""
