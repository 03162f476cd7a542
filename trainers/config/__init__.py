"""What a job may say about the policy, its data and its training. Light: the API and the CLI read this package."""

from trainers.config.algorithm import AlgorithmConfig, GRPOConfig
from trainers.config.checkpoint import CheckpointConfig
from trainers.config.data import DataConfig
from trainers.config.megatron_options import OWNED_MEGATRON_OPTIONS
from trainers.config.model import ModelConfig
from trainers.config.reward import RewardConfig
from trainers.config.rollout import RolloutConfig
from trainers.config.run import RunConfig
from trainers.config.runtime import RuntimeConfig
from trainers.config.sync import SyncConfig
from trainers.config.trainer import TrainerConfig

__all__ = [
    "OWNED_MEGATRON_OPTIONS",
    "AlgorithmConfig",
    "CheckpointConfig",
    "DataConfig",
    "GRPOConfig",
    "ModelConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "RuntimeConfig",
    "SyncConfig",
    "TrainerConfig",
]
