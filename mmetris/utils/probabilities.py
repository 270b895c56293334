"""Numbers that stand for probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_probability(value: Any, setting: str) -> float:
    """The value, if it is a number strictly between 0 and 1.

    Args:
        value: What was given.
        setting: What it is called, for the message.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < 1:
        raise ValueError(f'{setting} must be a number between 0 and 1, but is {value!r}')
    return float(value)
