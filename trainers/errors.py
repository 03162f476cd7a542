"""How a run can end badly. Each error knows the reason that the job shows; picklable, its args are its text."""

from trainers.reports import EndReason


class RunError(Exception):
    """Base of errors that end a run, with the reason that is reported."""

    reason = EndReason.INTERNAL_ERROR


class DataInvalid(RunError):
    reason = EndReason.DATA_INVALID


class ModelInvalid(RunError):
    reason = EndReason.MODEL_INVALID


class PluginInvalid(RunError):
    reason = EndReason.PLUGIN_INVALID


class ConfigInvalid(RunError):
    """A setting that only the job's own processes can judge (say, an option of the real parser) is wrong."""

    reason = EndReason.CONFIG_INVALID


class CheckpointInvalid(RunError):
    reason = EndReason.CHECKPOINT_INVALID


class TrainerLost(RunError):
    reason = EndReason.TRAINER_LOST


class TrainingDiverged(RunError):
    """A loss or gradient is not a finite number: another attempt would end the same way."""

    reason = EndReason.TRAINING_DIVERGED


class OutOfMemory(RunError):
    reason = EndReason.OUT_OF_MEMORY


class RolloutFailed(RunError):
    reason = EndReason.ROLLOUT_FAILED


class StorageFailed(RunError):
    """A directory cannot be written or is full."""

    reason = EndReason.STORAGE_FAILED
