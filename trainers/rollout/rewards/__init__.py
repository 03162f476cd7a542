"""How samples are scored: shipped rules, one a file, and a user's own function."""

from trainers.rollout.rewards.load import RewardFunction, label_check, load_reward

__all__ = ["RewardFunction", "label_check", "load_reward"]
