"""How long to wait before the next attempt."""

import random


class Backoff:
    """Exponential back-off with equal jitter: half of each delay is fixed, half is random.

    The random half spreads a fleet that lost its broker at one moment; the fixed half keeps a
    single client from hammering it. ``minimum`` and ``maximum`` bound the undivided delay, seconds.
    """

    def __init__(self, minimum: float, maximum: float, rng: random.Random) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._rng = rng
        self._step = 0

    def next_delay(self) -> float:
        """Return the seconds to wait now, and double the delay for the next call."""
        ceiling = min(self._maximum, self._minimum * 2.0**self._step)
        if ceiling < self._maximum:
            self._step += 1
        return ceiling * (0.5 + 0.5 * self._rng.random())

    def reset(self) -> None:
        """Begin again with the shortest delay."""
        self._step = 0
