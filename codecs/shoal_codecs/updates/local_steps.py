"""How far a device's training has come: what FedNova divides an update by, on whichever side does it."""

import contextlib

_FAR = 1e200


def effective_steps(steps: int, learning_rate: float, mu: float = 0.0) -> float:
    """Return the L1 norm of the weights that a device's gradients have in its update.

    ``steps`` for plain SGD. With FedProx the pull back to the base shrinks earlier gradients by
    1 - ``learning_rate`` * ``mu`` each step (Wang et al. 2020, section 3.2, the proximal case).
    """
    kept = 1 - learning_rate * mu
    if kept == 1:
        return float(steps)
    with contextlib.suppress(OverflowError):
        return abs((1 - kept**steps) / (1 - kept))
    # The pull throws the weights further off with every step: of that no number of steps is too large.
    return _FAR
