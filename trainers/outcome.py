"""What an error says about how the run ended."""

import errno
import traceback

from engines.errors import (
    EngineLost,
    EngineOutOfMemory,
    EngineRefused,
    EngineStartError,
    HardwareUnavailable,
    PlacementTimeout,
    WaitTimeout,
    WeightSyncError,
)
from trainers.errors import RunError
from trainers.reports import EndReason

_ENGINE_REASONS: tuple[tuple[type[Exception], EndReason], ...] = (
    (HardwareUnavailable, EndReason.CONFIG_INVALID),
    (PlacementTimeout, EndReason.PLACEMENT_TIMEOUT),
    (EngineStartError, EndReason.ENGINE_START_FAILED),
    (EngineLost, EndReason.ENGINE_LOST),
    (EngineOutOfMemory, EndReason.OUT_OF_MEMORY),
    (WeightSyncError, EndReason.WEIGHT_SYNC_FAILED),
    (EngineRefused, EndReason.ROLLOUT_FAILED),
    (WaitTimeout, EndReason.ENGINE_LOST),
)


def end_of(error: BaseException) -> tuple[EndReason, str]:
    """The reason to report for ``error``, and its text; of a group, the first that says something."""
    if isinstance(error, BaseExceptionGroup):
        ends = [end_of(inner) for inner in error.exceptions]
        return next((end for end in ends if end[0] is not EndReason.INTERNAL_ERROR), ends[0])
    if isinstance(error, RunError):
        return error.reason, str(error)
    for kind, reason in _ENGINE_REASONS:
        if isinstance(error, kind):
            return reason, str(error)
    if isinstance(error, MemoryError):
        return EndReason.OUT_OF_MEMORY, str(error) or "the driver ran out of memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return EndReason.STORAGE_FAILED, str(error)
    return EndReason.INTERNAL_ERROR, "".join(traceback.format_exception(error))[-4000:]
