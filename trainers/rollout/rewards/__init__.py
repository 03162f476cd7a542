"""How samples are scored: shipped rules, one a file, and a user's own function; see docs/rewards.md."""

from trainers.rollout.rewards.labels import LabelCheck, label_check
from trainers.rollout.rewards.load import RewardFunction, load_reward
from trainers.rollout.rewards.reward import Reward

__all__ = ["LabelCheck", "Reward", "RewardFunction", "label_check", "load_reward"]
