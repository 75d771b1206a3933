"""Synthetic windows of a bearing's vibration: made by a physical model, not recorded.

No package ships recordings. The model is McFadden and Smith's (1984) of a rolling bearing with one local
fault: each time a rolling element meets it, an impulse rings a resonance of the housing. The rates of the
impulses are those of a deep-groove ball bearing 6205 (9 balls of 7.94 mm on a circle of 39.04 mm): 3.585
times the shaft's for the outer ring, 5.415 for the inner one, 4.714 for a ball, which strikes both rings.
Elements slip by 1 %. A fault of the inner ring is loaded once a turn, a ball's at the cage's rate (0.398).
To this come imbalance at one and two times the shaft's rate, and coloured noise. Each machine has its own
speed, resonance, damping, mounting and noise: a device has its machine's data.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datasets.base import Dataset

RATE_HZ = 4096
SAMPLES, AXES = 256, 3
LABELS = ("healthy", "outer ring", "inner ring", "ball")
ORDERS = {1: 3.5848, 2: 5.4152, 3: 4.7135}
"""Impulses a turn of the shaft, by label."""
CAGE_ORDER = 0.3983
SLIP = 0.01

Window = npt.NDArray[np.float64]


class Machine:
    """One machine with its own speed, resonance and mounting, drawn by ``rng``."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.shaft_hz = rng.uniform(24.0, 36.0)
        self.resonance_hz = rng.uniform(900.0, 1600.0)
        self.damping = rng.uniform(0.04, 0.09)
        self.directions = rng.dirichlet((4.0, 4.0, 4.0)) * AXES
        self.imbalance = rng.uniform(0.1, 0.4)
        self.noise = rng.uniform(0.15, 0.35)

    def window(self, label: int) -> npt.NDArray[np.float32]:
        """Return one window (256, 3) in units of the fault's typical impulse."""
        rng, time = self._rng, np.arange(SAMPLES) / RATE_HZ
        shaft = self.shaft_hz * rng.uniform(0.98, 1.02)
        turned = 2 * np.pi * (shaft * time + rng.uniform())
        forces = np.stack([np.cos(turned), np.sin(turned), 0.3 * np.cos(turned)], axis=1)
        second = 0.4 * np.cos(2 * turned + rng.uniform(0, 6.28))[:, None]
        steady = self.imbalance * (forces + second)
        struck = self._impacts(label, shaft)[:, None] * self.directions if label else 0.0
        return (steady + struck + self._noise()).astype(np.float32)

    def _impacts(self, label: int, shaft: float) -> Window:
        """Return the housing's answer (256,) to the fault's impulses, those before the window included."""
        rng = self._rng
        period = 1 / (shaft * ORDERS[label])
        before = 6
        count = int(SAMPLES / RATE_HZ / period) + before + 2
        at = (np.arange(count) - before + rng.uniform()) * period
        at += rng.normal(0, SLIP * period, count)
        load = {1: 0.0, 2: shaft, 3: shaft * CAGE_ORDER}[label]
        phase = rng.uniform(0, 2 * np.pi)
        heights = rng.uniform(0.7, 1.3) * (1 + 0.6 * np.cos(2 * np.pi * load * at + phase) * (load > 0))
        heights *= rng.uniform(0.85, 1.15, count)
        since = np.arange(SAMPLES)[:, None] / RATE_HZ - at
        omega = 2 * np.pi * self.resonance_hz
        decay = np.exp(-self.damping * omega * np.maximum(since, 0.0))
        ring = np.where(since >= 0, decay * np.sin(omega * since), 0.0)
        return np.asarray(ring @ heights)

    def _noise(self) -> Window:
        """Return white noise and noise that the machine's body lets through below the resonance."""
        white = self._rng.normal(0, self.noise, (SAMPLES + 8, AXES))
        smooth = np.apply_along_axis(lambda one: np.convolve(one, np.full(9, 1 / 3), "valid"), 0, white)
        return np.asarray(0.6 * white[4:-4] + 0.6 * smooth)


def windows(machines: int = 20, each: int = 120, seed: int = 1) -> Dataset:
    """Return x (machines * each, 256, 3) float32 with labels in equal shares; a machine is a group.

    Everybody gets the same windows for the same ``seed``, whatever the count of machines before.
    """
    x, y = [], []
    for number in range(machines):
        rng = np.random.default_rng((seed, number))
        machine = Machine(rng)
        labels = rng.permutation(np.arange(each) % len(LABELS))
        x.append(np.stack([machine.window(int(label)) for label in labels]))
        y.append(labels)
    groups = np.repeat(np.arange(machines), each)
    return Dataset(np.concatenate(x), np.concatenate(y).astype(np.int32), groups.astype(np.int32))
