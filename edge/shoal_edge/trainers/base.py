"""What every trainer can do, whatever runs the model; without numpy, so that an agent may name it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class EvaluationCounts(msgspec.Struct, frozen=True):
    """Sums over examples, so that batches and devices add up.

    ``loss_sum`` is in nats, ``seconds`` the time spent inside the interpreter.
    """

    examples: int = 0
    correct: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: EvaluationCounts) -> EvaluationCounts:
        return EvaluationCounts(
            self.examples + other.examples,
            self.correct + other.correct,
            self.loss_sum + other.loss_sum,
            self.seconds + other.seconds,
        )

    @property
    def accuracy(self) -> float:
        """Share of correct examples, 0 to 1; 0 where there are none."""
        return self.correct / self.examples if self.examples else 0.0

    @property
    def mean_loss(self) -> float:
        """Loss per example in nats; 0 where there are none."""
        return self.loss_sum / self.examples if self.examples else 0.0


class FitReport(msgspec.Struct, frozen=True):
    """What one fit did; ``examples`` counts distinct ones, the losses are means in nats."""

    steps: int
    examples: int
    loss_before: float
    loss_after: float


class ExamplePrivacy(msgspec.Struct, frozen=True):
    """DP-SGD: each example's gradient is shortened to ``clip``, a batch's sum noised by ``noise * clip``."""

    clip: float
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitOptions:
    """How one fit trains: what a round's plan says of it.

    ``mu`` is FedProx's pull towards the weights that were set last (Li et al. 2020, section 3.2), 0 for none;
    ``correction`` float32 (D,) is added to every gradient of the fit (SCAFFOLD, Karimireddy et al. 2020,
    equation 3); with ``privacy`` a step is one of DP-SGD, whose noise comes from the system's generator.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    mu: float = 0.0
    correction: npt.NDArray[np.float32] | None = None
    privacy: ExamplePrivacy | None = None


TrainerKind = Literal["auto", "litert", "torch"]
ShouldStop = Callable[[], bool]
OnProgress = Callable[[int, int], None]


def never() -> bool:
    """Never ask a fit to stop."""
    return False


def unheard(_done: int, _total: int) -> None:
    """Hear of progress and do nothing."""


class RandomSource(Protocol):
    """What a fit draws of chance: ``numpy.random.Generator`` is one."""

    def permutation(self, x: int, /) -> npt.NDArray[np.int64]:
        """Return the numbers below ``x`` in a random order: int64[x]."""
        ...

    def integers(self, low: int, high: int, size: int, dtype: Any) -> npt.NDArray[Any]:
        """Return ``size`` numbers from ``low`` to below ``high``."""
        ...


class Trainer(Protocol):
    """Trains one task's model; weights cross as one flat float32 vector of ``dimension`` entries.

    A trainer belongs to the thread that made it.
    """

    @property
    def dimension(self) -> int:
        """Length D of the flat weight vector."""
        ...

    @property
    def runtime(self) -> str:
        """What computes: the distribution's name and version."""
        ...

    def initial_weights(self) -> npt.NDArray[np.float32]:
        """Return the weights (D,) that the task's reference begins with."""
        ...

    def set_weights(self, vector: npt.NDArray[np.float32]) -> None:
        """Replace every weight by ``vector`` (D,) float32; forget optimiser state and correction.

        What is set here is the anchor of FedProx.
        """
        ...

    def get_weights(self) -> npt.NDArray[np.float32]:
        """Return a copy of the weights (D,) float32."""
        ...

    def fit(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        options: FitOptions,
        rng: RandomSource,
        should_stop: ShouldStop = ...,
        on_progress: OnProgress = ...,
    ) -> FitReport:
        """Train on raw examples ``x`` (n, ...) with targets ``y`` (n, ...), shuffled by ``rng``.

        Dropout's seeds come from ``rng`` too. ``should_stop`` is asked before each step; ``on_progress``
        hears steps done and steps in all.
        """
        ...

    def evaluate(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> EvaluationCounts:
        """Count over raw examples ``x`` (n, ...) with targets ``y`` (n, ...)."""
        ...

    def rest(self) -> None:
        """Give back what training takes of the memory, where that is much; weights may be lost."""
        ...

    def self_test(self) -> None:
        """Raise SelfTestError unless gradients match the task's reference; weights stay."""
        ...
