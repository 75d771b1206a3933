"""Optimisers that run inside the graph; their state is beside the weights, and ``set_weights`` clears it.

Each is pure: state and gradient in, new state and new weights out, in tensors of either precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from shoal_coordinator.authoring.ops import Ops

Tensor = Any
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Optimiser:
    """What the optimisers have in common; all state begins at zero."""

    KIND: ClassVar[str] = "optimiser"
    SLOTS: ClassVar[tuple[str, ...]] = ()
    """State of each weight's shape."""
    COUNTERS: ClassVar[tuple[str, ...]] = ()
    """State (1,) that all weights share."""
    ALONG_GRADIENT: ClassVar[bool] = True
    """Whether the first step is lr times the gradient."""
    PLAIN: ClassVar[bool] = False
    """Whether every step is, and there is no state."""

    def count(self, counters: State) -> State:
        """Return the counters of this step."""
        return counters

    def step(
        self, ops: Ops, weight: Tensor, gradient: Tensor, lr: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Return a weight after the step, and its slots; ``state`` has its slots and this step's counters."""
        raise NotImplementedError


@dataclass(frozen=True)
class Sgd(Optimiser):
    """w - lr g."""

    KIND: ClassVar[str] = "sgd"
    PLAIN: ClassVar[bool] = True

    def step(
        self, ops: Ops, weight: Tensor, gradient: Tensor, lr: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Return the weight after the step."""
        del ops, state
        return weight - lr * gradient, {}


@dataclass(frozen=True)
class Momentum(Optimiser):
    """v = decay v + g; w - lr v (Polyak 1964, in the form of Sutskever et al. 2013 without lr in v)."""

    KIND: ClassVar[str] = "momentum"
    SLOTS: ClassVar[tuple[str, ...]] = ("velocity",)
    decay: float = 0.9

    def step(
        self, ops: Ops, weight: Tensor, gradient: Tensor, lr: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Return the weight and the velocity after the step."""
        del ops
        velocity = state["velocity"] * self.decay + gradient
        return weight - lr * velocity, {"velocity": velocity}


@dataclass(frozen=True)
class Adam(Optimiser):
    """Kingma and Ba 2015, algorithm 1; ``epsilon`` is added to the root of the corrected second moment."""

    KIND: ClassVar[str] = "adam"
    SLOTS: ClassVar[tuple[str, ...]] = ("first", "second")
    COUNTERS: ClassVar[tuple[str, ...]] = ("left1", "left2")
    ALONG_GRADIENT: ClassVar[bool] = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def count(self, counters: State) -> State:
        """Return 1 - beta^t of step t, by the moments' own recursion: exact where beta^t is rounded to 1."""
        return {
            "left1": counters["left1"] * self.beta1 + (1 - self.beta1),
            "left2": counters["left2"] * self.beta2 + (1 - self.beta2),
        }

    def step(
        self, ops: Ops, weight: Tensor, gradient: Tensor, lr: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Return the weight and both moments after the step."""
        first = state["first"] * self.beta1 + gradient * (1 - self.beta1)
        second = state["second"] * self.beta2 + gradient * gradient * (1 - self.beta2)
        root = ops.root(second / state["left2"]) + self.epsilon
        return weight - (lr / state["left1"]) * first / root, {"first": first, "second": second}
