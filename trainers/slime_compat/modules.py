"""``import slime…`` for functions that were written for it: the few names that such functions use.

Installed slime wins: the finder stands last.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from engines.config import SamplingConfig
from trainers.rollout.rewards.dapo import dapo
from trainers.slime_compat.args import SlimeArgs
from trainers.slime_compat.http import get, post
from trainers.slime_compat.sample import SlimeSample


@dataclass
class RolloutFnTrainOutput:
    samples: list[list[Any]]
    metrics: dict[str, Any] | None = None


@dataclass
class RolloutFnEvalOutput:
    data: dict[str, dict[str, Any]]
    metrics: dict[str, Any] | None = None


@dataclass
class DynamicFilterOutput:
    keep: bool
    reason: str | None = None

    def __bool__(self) -> bool:
        return bool(self.keep)  # a comparison of tensors gives a tensor


class GenerateState:
    """The run's tokenizer and sampling parameters; ``semaphore`` bounds the requests that a function sends by
    itself."""

    def __new__(cls, args: Any) -> GenerateState:
        """One for each run and event loop, as semaphores belong to theirs."""
        if not isinstance(args, SlimeArgs):
            raise TypeError(f"GenerateState takes the args that your function was called with, not {args!r}")
        return args.shared.setdefault((cls, _loop()), object.__new__(cls))

    def __init__(self, args: SlimeArgs) -> None:
        if "semaphore" in self.__dict__:
            return
        self.args = args
        self.processor = None
        self.tokenizer = args.shared.get("tokenizer")
        self.semaphore = asyncio.Semaphore(args.sglang_server_concurrency * args.rollout_num_engines)
        self.sampling_params = sampling_params(args.shared["sampling"])
        self.aborted = False  # always: a function whose rollout has enough is cancelled


def sampling_params(sampling: SamplingConfig) -> dict[str, Any]:
    """As SGLang's request takes them, and with slime's constants. What does not stop a response is left out."""
    told = sampling.model_dump()
    stops = {key: list(told.pop(key)) for key in ("stop", "stop_token_ids")}
    constants = {"no_stop_trim": True, "spaces_between_special_tokens": False}
    return told | {key: value for key, value in stops.items() if value} | constants


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of ``coroutine``: slime's rollout functions are plain, and run in a thread of their own."""
    return asyncio.run(coroutine)


def load_function(path: str) -> Any:
    from trainers.plugins.path import resolve

    return resolve(path)


def get_model_url(args: Any, model_name: str, endpoint: str = "/generate") -> str:
    """The policy's: a run has no other model that generates."""
    if model_name not in ("default", "actor", "policy"):
        raise ValueError(f"there is no model {model_name!r}: a job generates with its policy alone")
    return f"http://{args.sglang_router_ip}:{args.sglang_router_port}{endpoint}"


def compute_score(
    solution_str: str, ground_truth: Any, strict_box_verify: bool = False, pause_tokens_index: Any = None
) -> dict[str, Any]:
    """The shipped rule ``dapo``, which slime's tool examples score with."""
    del pause_tokens_index  # which neither reads
    return dapo(solution_str, ground_truth, strict_box=strict_box_verify)


_PROVIDED: dict[str, dict[str, Any]] = {
    "slime": {},
    "slime.utils": {},
    "slime.utils.types": {"Sample": SlimeSample},
    "slime.utils.http_utils": {"post": post, "get": get},
    "slime.utils.async_utils": {"run": run},
    "slime.utils.misc": {"load_function": load_function},
    "slime.rollout": {},
    "slime.rollout.sglang_rollout": {"GenerateState": GenerateState, "get_model_url": get_model_url},
    "slime.rollout.base_types": {
        "RolloutFnTrainOutput": RolloutFnTrainOutput,
        "RolloutFnEvalOutput": RolloutFnEvalOutput,
    },
    "slime.rollout.rm_hub": {},
    "slime.rollout.rm_hub.math_dapo_utils": {"compute_score": compute_score},
    "slime.rollout.filter_hub": {},
    "slime.rollout.filter_hub.base_types": {"DynamicFilterOutput": DynamicFilterOutput},
}
_ON_RANKS: dict[str, tuple[str, ...]] = {
    "slime.backends": (),
    "slime.backends.megatron_utils": (),
    "slime.backends.megatron_utils.loss": ("get_log_probs_and_entropy",),
    "slime.utils.ppo_utils": ("compute_approx_kl", "compute_policy_loss"),
}
"""These come with torch and Megatron."""
PROVIDED: tuple[str, ...] = tuple(
    f"{module}.{name}" for module, names in {**_PROVIDED, **_ON_RANKS}.items() for name in names
)
"""All that ``import slime…`` finds."""


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] != "slime":
            return None
        if fullname not in _PROVIDED and fullname not in _ON_RANKS:
            raise ModuleNotFoundError(
                f"slime is not installed, and of its modules Rollway provides {', '.join(PROVIDED)}, not {fullname}",
                name=fullname,
            )
        return importlib.util.spec_from_loader(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        names = _PROVIDED.get(module.__name__) or _on_ranks(module.__name__)
        vars(module).update(names)

        def missing(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            raise AttributeError(
                f"slime is not installed, and of {module.__name__} Rollway provides {', '.join(names) or 'nothing'}, "
                f"not {name!r}"
            )

        vars(module)["__getattr__"] = missing


def _on_ranks(module: str) -> dict[str, Any]:
    wanted = _ON_RANKS.get(module, ())
    if not wanted:
        return {}
    from trainers.slime_compat import training

    return {name: getattr(training, name) for name in wanted}


_finder = _Finder()


def offer_slime() -> None:
    """From now on ``import slime`` finds what is provided here, unless slime itself is there."""
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)


def _loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
