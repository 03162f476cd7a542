"""The last number of the response is the label's."""

import re
from decimal import Decimal
from typing import Any

# A minus belongs to the number unless something to subtract from stands before it: 3-4 ends in 4, "is -4" in −4.
_NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z_)\]])[-+−])?"
    r"(?:[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?|\.[0-9]+)"
)


def last_number(text: str) -> Decimal | None:
    """The last decimal number in a text, exactly; commas may group thousands. None when there is none."""
    found = None
    for match in _NUMBER.finditer(text):
        found = match
    if found is None:
        return None
    return Decimal(found.group().replace(",", "").replace("−", "-"))


def last_number_match(response: str, label: Any) -> float:
    """1 when the response's last number equals the label's last number: 7, 7.0 and "#### 7" are the same."""
    expected = last_number(str(label))
    return float(expected is not None and last_number(response) == expected)
