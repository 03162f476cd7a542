"""What a job may say about the policy, its data and its training. Light: the API and the CLI read this package."""

from trainers.config.algorithm import (
    AlgorithmConfig,
    CISPOConfig,
    DPOConfig,
    DrGRPOConfig,
    GRPOConfig,
    GSPOConfig,
    PolicyGradientConfig,
    PPOConfig,
    ReinforcePlusPlusBaselineConfig,
    ReinforcePlusPlusConfig,
    RLOOConfig,
    SFTConfig,
)
from trainers.config.algorithm_parts import CorrectionConfig, CriticConfig, KLConfig, OPSMConfig
from trainers.config.checkpoint import CheckpointConfig
from trainers.config.conversion import ConversionConfig, ToHuggingFace, ToMegatron
from trainers.config.data import DataConfig, DataSetConfig
from trainers.config.debug import DebugConfig
from trainers.config.evaluation import EvalConfig, EvalSetConfig
from trainers.config.megatron_options import MODEL_OPTIONS, OWNED_MEGATRON_OPTIONS
from trainers.config.model import ModelConfig
from trainers.config.plugins import PluginsConfig
from trainers.config.reward import RewardConfig
from trainers.config.rollout import RolloutConfig
from trainers.config.run import RunConfig
from trainers.config.runtime import RuntimeConfig
from trainers.config.sync import SyncConfig
from trainers.config.trainer import TrainerConfig

__all__ = [
    "MODEL_OPTIONS",
    "OWNED_MEGATRON_OPTIONS",
    "AlgorithmConfig",
    "CISPOConfig",
    "CheckpointConfig",
    "ConversionConfig",
    "CorrectionConfig",
    "CriticConfig",
    "DPOConfig",
    "DataConfig",
    "DataSetConfig",
    "DebugConfig",
    "DrGRPOConfig",
    "EvalConfig",
    "EvalSetConfig",
    "GRPOConfig",
    "GSPOConfig",
    "KLConfig",
    "ModelConfig",
    "OPSMConfig",
    "PPOConfig",
    "PluginsConfig",
    "PolicyGradientConfig",
    "RLOOConfig",
    "ReinforcePlusPlusBaselineConfig",
    "ReinforcePlusPlusConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "RuntimeConfig",
    "SFTConfig",
    "SyncConfig",
    "ToHuggingFace",
    "ToMegatron",
    "TrainerConfig",
]
