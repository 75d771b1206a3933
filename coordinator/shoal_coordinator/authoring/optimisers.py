"""Optimisers that run inside the graph; their state is beside the weights, and ``set_weights`` clears it.

Each is pure: state and gradient in, new state and new weights out, in tensors of either precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

Tensor = Any
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Sgd:
    """w - lr g."""

    SLOTS: ClassVar[tuple[str, ...]] = ()
    """Tensors of state of each weight's shape."""
    COUNTS: ClassVar[bool] = False
    """Whether it counts its steps."""
    ALONG_GRADIENT: ClassVar[bool] = True
    """Whether its first step is lr times the gradient."""

    def step(self, weight: Tensor, gradient: Tensor, lr: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weight after a step, and the state after it."""
        return weight - lr * gradient, state


@dataclass(frozen=True)
class Momentum:
    """v = decay v + g; w - lr v (Polyak 1964, as PyTorch and TensorFlow have it)."""

    SLOTS: ClassVar[tuple[str, ...]] = ("velocity",)
    COUNTS: ClassVar[bool] = False
    ALONG_GRADIENT: ClassVar[bool] = True
    decay: float = 0.9

    def step(self, weight: Tensor, gradient: Tensor, lr: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weight after a step, and the state after it."""
        velocity = state["velocity"] * self.decay + gradient
        return weight - lr * velocity, {"velocity": velocity}


@dataclass(frozen=True)
class Adam:
    """Kingma and Ba 2015, algorithm 1; ``epsilon`` is added to the root of the corrected second moment."""

    SLOTS: ClassVar[tuple[str, ...]] = ("first", "second")
    COUNTS: ClassVar[bool] = True
    ALONG_GRADIENT: ClassVar[bool] = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def step(self, weight: Tensor, gradient: Tensor, lr: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weight after a step, and the state after it.

        ``state`` also has ``left1`` and ``left2`` (1,): 1 - beta^t of this step.
        """
        first = state["first"] * self.beta1 + gradient * (1 - self.beta1)
        second = state["second"] * self.beta2 + gradient * gradient * (1 - self.beta2)
        root = (second / state["left2"]) ** 0.5
        moved = weight - (lr / state["left1"]) * first / (root + self.epsilon)
        return moved, {"first": first, "second": second}


Optimiser = Sgd | Momentum | Adam
