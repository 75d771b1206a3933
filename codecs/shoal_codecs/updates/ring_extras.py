"""What travels in a ring beside an update: whether it was clipped, and how the base does on held-out data.

Each value is one coordinate within +-its levels, noised like the rest and charged as ``privacy.charge``
counts it. A device that cannot say gives 0, which is halfway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import Chance

LOSS_CAP = 4.0
"""Losses in nats count as at most this: a coordinate needs a bound that everybody knows."""


@dataclass(frozen=True, slots=True)
class DeviceMetrics:
    """How the base model does on one device's held-out examples: mean loss in nats, accuracy from 0 to 1."""

    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over devices as noise lets it be seen; ``error`` is the standard error that the noise adds."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class RoundTold:
    """What a round's further coordinates say; None for what does not travel.

    ``clipped`` is the share of devices whose update was longer than the clip norm.
    """

    clipped: Estimate | None = None
    loss: Estimate | None = None
    accuracy: Estimate | None = None

    def by_name(self) -> dict[str, tuple[float, float]]:
        """Return name to (value, error) of what travelled."""
        named = {"accuracy": self.accuracy, "loss": self.loss, "clipped": self.clipped}
        return {name: (found.value, found.error) for name, found in named.items() if found is not None}


NOTHING_TOLD = RoundTold()


def encode_extras(
    *,
    clipped: bool,
    metrics: DeviceMetrics | None,
    clip_bit: int,
    metric_levels: int,
    rng: Chance,
) -> npt.NDArray[np.int64]:
    """Return one device's further coordinates as integers: the clip bit, then loss and accuracy."""
    values: list[float] = []
    if clip_bit:
        values.append(clip_bit if clipped else -clip_bit)
    if metric_levels and metrics is None:
        values += [0.0, 0.0]
    elif metric_levels and metrics is not None:
        loss = min(metrics.loss, LOSS_CAP) / LOSS_CAP if math.isfinite(metrics.loss) else 1.0
        shares = (loss, metrics.accuracy)
        values += [metric_levels * (2 * min(max(share, 0.0), 1.0) - 1) for share in shares]
    exact = np.array(values, np.float64)
    floor = np.floor(exact)
    return (floor + (rng.random(exact.size) < exact - floor)).astype(np.int64)


def decode_extras(
    sums: npt.NDArray[np.int64], *, clip_bit: int, metric_levels: int, reports: int, variance: float
) -> RoundTold:
    """Return what the summed coordinates of ``reports`` devices say.

    ``variance`` is that of each device's noise. Values stay within what they can be.
    """
    left = [int(one) for one in sums]
    spread = math.sqrt(reports * variance)

    def share(levels: int, top: float = 1.0) -> Estimate:
        value = (left.pop(0) / (reports * levels) + 1) / 2
        return Estimate(top * min(max(value, 0.0), 1.0), top * spread / (2 * reports * levels))

    return RoundTold(
        clipped=share(clip_bit) if clip_bit else None,
        loss=share(metric_levels, LOSS_CAP) if metric_levels else None,
        accuracy=share(metric_levels) if metric_levels else None,
    )
