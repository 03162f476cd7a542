"""What a driver tells the API: the wire format of everything that flows up. Light: the API reads this module."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EndReason(StrEnum):
    """Why a run ended. The control plane decides what each means for the job."""

    FINISHED = "finished"
    CANCELLED_BY_USER = "cancelled_by_user"
    DATA_INVALID = "data_invalid"
    MODEL_INVALID = "model_invalid"
    PLUGIN_INVALID = "plugin_invalid"
    CONFIG_INVALID = "config_invalid"
    CHECKPOINT_INVALID = "checkpoint_invalid"
    PLACEMENT_TIMEOUT = "placement_timeout"
    ENGINE_START_FAILED = "engine_start_failed"
    ENGINE_LOST = "engine_lost"
    TRAINER_LOST = "trainer_lost"
    WEIGHT_SYNC_FAILED = "weight_sync_failed"
    ROLLOUT_FAILED = "rollout_failed"
    TRAINING_DIVERGED = "training_diverged"
    OUT_OF_MEMORY = "out_of_memory"
    STORAGE_FAILED = "storage_failed"
    DRIVER_START_FAILED = "driver_start_failed"
    DRIVER_LOST = "driver_lost"
    INTERNAL_ERROR = "internal_error"


class Phase(StrEnum):
    """What a run in flight is doing."""

    LAUNCHING = "launching"
    LOADING_PLUGINS = "loading_plugins"
    LOADING_DATA = "loading_data"
    PLACING = "placing"
    STARTING = "starting"
    SYNCING_WEIGHTS = "syncing_weights"
    GENERATING = "generating"
    EVALUATING = "evaluating"
    TRAINING = "training"
    SAVING = "saving"
    EXPORTING = "exporting"
    CONVERTING = "converting"
    SERVING = "serving"
    RELEASING = "releasing"


class Wanted(StrEnum):
    """What the user wants of a job; the reconciler and the driver bring it about."""

    RUN = "run"
    FINISH = "finish"
    """End well at the next rollout boundary: save, export, succeed."""
    CANCEL = "cancel"


class Origin(BaseModel):
    """Which attempt told a fact first, and where in its reports."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: Annotated[int, Field(ge=1, lt=2**31)]
    seq: Annotated[int, Field(ge=1, lt=2**31)]


class _Report(BaseModel):
    # A diverged run reports NaN; written as JSON's null it would not be read back.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    seq: Annotated[int, Field(ge=1)]
    """Position in this attempt's reports, without gaps; what makes ingest idempotent."""
    at: datetime
    origin: Origin | None = None
    """Of what an earlier attempt left behind and this one delivers: by that name it may have been stored already."""

    @model_validator(mode="before")
    @classmethod
    def _is_utf8(cls, fields: Any) -> Any:
        """Half a surrogate pair, of a user's text or a file's name, can be neither written nor sent: it is spelled."""
        return _spelled(fields)


def _spelled(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_spelled(key): _spelled(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_spelled(inner) for inner in cast("list[Any] | tuple[Any, ...]", value)]
    return value


class EventReport(_Report):
    kind: Literal["event"] = "event"
    level: Literal["info", "warning", "error"] = "info"
    type: str
    message: str
    data: dict[str, Any] = Field(default_factory=dict)


class StepReport(_Report):
    """One finished rollout: its metrics by name, and the version that its training published."""

    kind: Literal["step"] = "step"
    rollout_id: Annotated[int, Field(ge=0)]
    weight_version: Annotated[int, Field(ge=0)]
    metrics: dict[str, float]


class CheckpointReport(_Report):
    kind: Literal["checkpoint"] = "checkpoint"
    rollout_id: Annotated[int, Field(ge=0)]
    format: Literal["megatron", "hf"]
    path: str
    weight_version: Annotated[int, Field(ge=0)]


class CheckpointDeletedReport(_Report):
    """A checkpoint that was reported is no longer there, as ``checkpoint.keep_last`` wants it."""

    kind: Literal["checkpoint_deleted"] = "checkpoint_deleted"
    format: Literal["megatron", "hf"]
    path: str


class EvaluationReport(_Report):
    """What one eval set showed of one weight version."""

    kind: Literal["evaluation"] = "evaluation"
    weight_version: Annotated[int, Field(ge=0)]
    name: str
    metrics: dict[str, float]
    samples_path: str


class PhaseReport(_Report):
    """The run entered a phase. ``waiting_for`` says in plain words what would end it."""

    kind: Literal["phase"] = "phase"
    phase: Phase
    waiting_for: str


class ServingReport(_Report):
    """The router answers and at least one engine holds the current weights."""

    kind: Literal["serving"] = "serving"
    router_url: str
    """Base URL of the OpenAI-compatible endpoint, ending in ``/v1``."""
    model: str


class PlanReport(_Report):
    """How many rollouts there will be, where only the run could count them."""

    kind: Literal["plan"] = "plan"
    num_rollouts: Annotated[int, Field(ge=0, lt=2**31)]


class FinishedReport(_Report):
    """The last report of an attempt. What the run held on the cluster is released already."""

    kind: Literal["finished"] = "finished"
    reason: EndReason
    detail: str


type Report = Annotated[
    EventReport
    | StepReport
    | CheckpointReport
    | CheckpointDeletedReport
    | EvaluationReport
    | PhaseReport
    | PlanReport
    | ServingReport
    | FinishedReport,
    Field(discriminator="kind"),
]


class ReportBatch(BaseModel):
    """``POST /v1/attempts/{job_id}/{attempt}/reports``; an empty batch is a heartbeat."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    reports: list[Report] = Field(max_length=500)


class ReportReply(BaseModel):
    model_config = ConfigDict(frozen=True)

    acked: int
    """Every report up to this ``seq`` is stored."""
    wanted: Wanted
    superseded: bool = False
    """Another attempt runs this job now, or the job has ended: this driver must stop."""


class Launch(BaseModel):
    """Everything a driver needs to begin: handed over once, when its actor is created."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    attempt: int
    spec: dict[str, Any]
    """A :class:`trainers.config.RunConfig`, or a :class:`trainers.config.ConversionConfig`, as JSON."""
    num_cpus: int = 0
    """What the driver itself computes with."""
    run_dir: str
    """A directory that every node of the job can write: checkpoints, exports, logs, unsent reports."""
    report_url: str
    report_token: str
