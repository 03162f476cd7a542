"""The doors that a user's functions come in by, and the check that each fits its own."""

from trainers.plugins.load import load_function

__all__ = ["load_function"]
