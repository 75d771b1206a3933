"""What all trainers do alike, whatever computes: weights checked, examples checked, a fit, a self-test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import all_finite
from shoal_codecs.wire.task import TaskBundle, fold_gradient, initial_weights
from shoal_edge.data import check_examples
from shoal_edge.trainers.base import (
    EvaluationCounts,
    FitOptions,
    FitReport,
    OnProgress,
    RandomSource,
    ShouldStop,
    never,
    unheard,
)
from shoal_edge.trainers.errors import (
    FitCancelledError,
    NonFiniteWeightsError,
    SelfTestError,
    TooFewExamplesError,
    UnusableModelError,
    WeightShapeError,
)
from shoal_edge.trainers.fit_loop import (
    Batches,
    Step,
    check_options,
    evaluation_size,
    refuse_non_finite_loss,
    run_steps,
)
from shoal_edge.trainers.self_test import check_gradients, check_private

Weights = npt.NDArray[np.float32]
_NOT_FINITE = "weights hold NaN or infinity: keep the earlier model; lower the learning rate"


class FittingTrainer(ABC):
    """A trainer of ``bundle``'s model; subclasses say how a step and an evaluation are computed."""

    def __init__(self, bundle: TaskBundle) -> None:
        self._bundle = bundle
        # Nobody has set other weights than the initial ones, and those perhaps not yet: most set their own.
        self._is_new = self._is_bare = True

    @property
    def dimension(self) -> int:
        """Length D of the flat weight vector."""
        return self._bundle.dimension

    def initial_weights(self) -> Weights:
        """Return the weights (D,) that the task's reference begins with."""
        return initial_weights(self._bundle.parameters, self._bundle.reference.seed)

    def set_weights(self, vector: Weights) -> None:
        """Replace every weight by ``vector`` (D,) float32; forget optimiser state and correction.

        Raises:
            WeightShapeError: another length or dtype.
            NonFiniteWeightsError: NaN or infinity.
        """
        self._check_vector(vector)
        self._set_weights(vector)
        self._is_new = self._is_bare = False

    def get_weights(self) -> Weights:
        """Return a copy of the weights (D,) float32.

        Raises:
            NonFiniteWeightsError: training left NaN or infinity.
        """
        self._dress()
        vector = self._get_weights()
        self._check_vector(vector)
        return vector

    def fit(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        options: FitOptions,
        rng: RandomSource,
        should_stop: ShouldStop = never,
        on_progress: OnProgress = unheard,
    ) -> FitReport:
        """Train on raw examples ``x`` (n, ...) with targets ``y`` (n, ...), as the protocol says.

        Raises:
            InvalidFitSettingsError: a setting outside what makes sense.
            UnsupportedTrainingError: the task was authored without what ``options`` ask for.
            NoPrivateTrainingError: DP-SGD for a task without it.
            DataError: examples that do not fit the task, or none.
            FitCancelledError: ``should_stop`` said so.
            NonFiniteLossError, NonFiniteWeightsError: training diverged.
        """
        check_options(options)
        self._check_examples(x, y)
        self._dress()
        self._is_new = False
        batches = self._batches(x, y, options.batch_size)
        step = self._step(options, rng, batches)
        before = self._evaluate(x, y, should_stop)
        steps = run_steps(batches, step, options, rng, should_stop, on_progress)
        after = self._evaluate(x, y, should_stop)
        refuse_non_finite_loss(after.loss_sum, steps)
        if not self._is_finite():
            raise NonFiniteWeightsError(_NOT_FINITE)
        return FitReport(steps, len(x), before.mean_loss, after.mean_loss)

    def evaluate(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> EvaluationCounts:
        """Count over raw examples ``x`` (n, ...) with targets ``y`` (n, ...).

        Raises:
            DataError: examples that do not fit the task, or none.
            NonFiniteLossError: the model answers NaN or infinity.
        """
        self._check_examples(x, y)
        self._dress()
        counts = self._evaluate(x, y)
        refuse_non_finite_loss(counts.loss_sum, 0)
        return counts

    def rest(self) -> None:  # noqa: B027 - most runtimes have nothing to give back
        """Give back what training takes of the memory, where that is much; weights may be lost."""

    def self_test(self) -> None:
        """Compare loss and gradients of the stored batch with the reference; weights stay.

        Raises:
            SelfTestError: this runtime computes something else.
        """
        reference = self._bundle.reference
        x, y = reference.x.numpy(), reference.y.numpy()
        # A trainer that is new has weights that are drawn again where they are wanted.
        kept = None if self._is_new else self.get_weights()
        try:
            self._is_bare = True
            self._dress()
            self._make_room(x, y)
            counts = self._evaluate(x, y)
            check_gradients(self._bundle, counts, self._folded_gradient(x, y))
            if self._bundle.private is not None:
                check_private(
                    self._bundle, self._bundle.private, partial(self._gradient, self.initial_weights())
                )
        except (UnusableModelError, NonFiniteWeightsError) as error:
            raise SelfTestError(f"the self-test failed: {error}. Update the agent") from error
        finally:
            self._renew()
            self._is_bare = True
            if kept is not None:
                self.set_weights(kept)

    # --- what subclasses compute ----------------------------------------------------------------

    @abstractmethod
    def _set_weights(self, vector: Weights) -> None:
        """Replace every weight."""

    @abstractmethod
    def _get_weights(self) -> Weights:
        """Return the weights (D,), whatever they are."""

    @abstractmethod
    def _step(self, options: FitOptions, rng: RandomSource, batches: Batches) -> Step:
        """Return what makes one step on one of ``batches``, with all set that is the same in each."""

    @abstractmethod
    def _gradient(
        self,
        start: Weights,
        signature: str,
        /,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        **more: npt.NDArray[Any],
    ) -> Weights:
        """Return what a step on a batch of raw examples follows, (D,), from the weights ``start``."""

    def _folded_gradient(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return what a step on a batch of raw examples follows from the initial weights, folded.

        The initial weights are set.
        """
        gradient = self._gradient(self.initial_weights(), "train", x=x, y=y)
        return fold_gradient(gradient, self._bundle.parameters)

    def _begin(self) -> None:
        """Set the initial weights."""
        self._set_weights(self.initial_weights())

    def _is_finite(self) -> bool:
        """Return whether every weight is a number."""
        return all_finite(self._get_weights())

    def _make_room(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:  # noqa: B027 - few need to
        """See that there is memory for the gradient of a batch of raw examples before less is planned."""

    def _renew(self) -> None:  # noqa: B027 - most runtimes have nothing to give back
        """Give back what was planned; weights may be lost."""

    @abstractmethod
    def _counts(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> EvaluationCounts:
        """Count one batch."""

    @abstractmethod
    def _batches(self, x: npt.NDArray[Any], y: npt.NDArray[Any], size: int) -> Batches:
        """Return ``x`` and ``y`` in batches of at most ``size``, in the dtypes that this runtime takes."""

    # --- inside ---------------------------------------------------------------------------------

    def _dress(self) -> None:
        """Set the initial weights, where none are set yet."""
        if self._is_bare:
            self._begin()
            self._is_bare = False

    def _evaluate(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any], should_stop: ShouldStop = never
    ) -> EvaluationCounts:
        size, counts = evaluation_size(x), EvaluationCounts()
        batches = self._batches(x, y, size)
        for start in range(0, len(x), size):
            if should_stop():
                raise FitCancelledError("stopped while it was counted how the model does: nothing to send")
            counts += self._counts(*batches.cut(slice(start, start + size)))
        return counts

    def _check_examples(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
        check_examples(x, y, self._bundle.input, len(self._bundle.labels), self._bundle.target)
        if not len(x):
            raise TooFewExamplesError("no examples: let the device collect some first")

    def _check_vector(self, vector: Weights) -> None:
        if vector.shape != (self.dimension,) or vector.dtype != np.float32:
            raise WeightShapeError(
                f"weights {vector.dtype} of shape {vector.shape}, task {self._bundle.name} has "
                f"float32 of ({self.dimension},): fetch the model of this task"
            )
        if not all_finite(vector):
            raise NonFiniteWeightsError(_NOT_FINITE)
