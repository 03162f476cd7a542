"""How one sample is sampled, where its row says so."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from engines.config import SamplingConfig
from engines.types import Sample
from trainers.errors import DataInvalid
from trainers.rollout.data.reader import LabelCheck

SAMPLING = "sampling_params"
"""The key of a sample's metadata that changes how it alone is sampled."""


def sampling_of(sample: Sample, sampling: SamplingConfig, *, evaluating: bool = False) -> SamplingConfig:
    """``sampling`` with what the sample's metadata says. Raises DataInvalid as :func:`own_sampling` raises
    ValueError."""
    try:
        return own_sampling(sample.metadata, sampling, evaluating=evaluating)
    except ValueError as error:
        raise DataInvalid(f"sample {sample.index}: {error}") from None


def own_sampling(metadata: Mapping[str, Any], sampling: SamplingConfig, *, evaluating: bool = False) -> SamplingConfig:
    """``sampling`` with what ``metadata`` says under ``sampling_params``; None there says nothing, as tables fill what
    other rows have. Raises ValueError for what is no sampling parameter, and for a temperature of what is trained on:
    the trainer computes log-probabilities with one for all."""
    own: Any = metadata.get(SAMPLING)
    if own is None:
        return sampling
    where = f"metadata[{SAMPLING!r}]"
    if not isinstance(own, dict):
        raise ValueError(f"{where} is {type(own).__name__}, expected an object of sampling parameters")
    said: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    if "temperature" in said and not evaluating:
        raise ValueError(f"{where} sets a temperature, which all samples share: set rollout.sampling.temperature")
    told: dict[str, Any] = sampling.model_dump() | said
    try:
        return SamplingConfig.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {name}: {first['msg']}") from None


def row_check(check_label: LabelCheck, sampling: SamplingConfig, *, evaluating: bool = False) -> LabelCheck:
    """``check_label``, and whether a row can be sampled as it says."""

    def check(label: Any, metadata: Mapping[str, Any]) -> None:
        check_label(label, metadata)
        own_sampling(metadata, sampling, evaluating=evaluating)

    return check
