"""The whole response is the label."""

from typing import Any


def exact_match(response: str, label: Any) -> float:
    """1 when response and label are equal but for white space around them."""
    return float(response.strip() == str(label).strip())
