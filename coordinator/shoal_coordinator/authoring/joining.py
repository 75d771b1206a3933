"""Concatenation in steps that an interpreter's fast kernels have: of more parts it would part the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

Tensor = Any

_AT_ONCE = 4


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Return ``parts`` one after another along ``axis``."""
    if len(parts) == 1:
        return parts[0]
    if len(parts) <= _AT_ONCE:
        return tf.concat(parts, axis)
    few = [parts[start : start + _AT_ONCE] for start in range(0, len(parts), _AT_ONCE)]
    return joined([joined(each, axis) for each in few], axis)
