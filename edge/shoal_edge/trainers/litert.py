"""On-device training inside the LiteRT interpreter, on a task's trainable .tflite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.wire.task import TaskBundle, initial_weights, split_weights
from shoal_edge.data import check_examples
from shoal_edge.trainers.base import EvaluationCounts, ExamplePrivacy, FitReport
from shoal_edge.trainers.errors import (
    FitCancelledError,
    InvalidFitSettingsError,
    MissingSignatureError,
    NonFiniteLossError,
    NonFiniteWeightsError,
    NoPrivateTrainingError,
    SelfTestError,
    TaskMismatchError,
    TooFewExamplesError,
    UnusableModelError,
    WeightShapeError,
)
from shoal_edge.trainers.private import NOISE_PREFIX, PrivateSteps
from shoal_edge.trainers.runtime import open_model
from shoal_edge.trainers.self_test import check_gradients

SIGNATURES = ("train", "evaluate", "infer", "get_weights", "set_weights")
PRIVATE_SIGNATURE = "train_private"
GRADIENTS_SIGNATURE = "gradients"
# Bounds the memory of an evaluation whatever the device holds.
_EVALUATION_BATCH = 256
# A large power of two scales the step exactly and keeps its rounding far under the tolerance.
_SELF_TEST_RATE = 16.0

Weights = npt.NDArray[np.float32]


def _never() -> bool:
    return False


def _unheard(_done: int, _total: int) -> None:
    pass


class LiteRtTrainer:
    """Trains ``bundle``'s model; belongs to the thread that made it.

    Raises:
        MissingRuntimeError: no interpreter is installed.
        UnusableModelError, MissingSignatureError, TaskMismatchError: a model that cannot train.
    """

    def __init__(self, bundle: TaskBundle) -> None:
        self._bundle = bundle
        self._interpreter = open_model(bundle.trainable)
        self._runners = self._checked_runners()
        self._initial = initial_weights(bundle.parameters, bundle.reference.seed)
        self.set_weights(self._initial)

    @property
    def dimension(self) -> int:
        """Length D of the flat weight vector."""
        return self._bundle.dimension

    def initial_weights(self) -> Weights:
        """Return the weights (D,) that the task's reference begins with."""
        return self._initial.copy()

    def set_weights(self, vector: Weights) -> None:
        """Replace every weight by ``vector`` (D,) float32.

        Raises:
            WeightShapeError: another length or dtype.
            NonFiniteWeightsError: NaN or infinity.
        """
        if vector.shape != (self.dimension,) or vector.dtype != np.float32:
            raise WeightShapeError(
                f"weights {vector.dtype} of shape {vector.shape}, task {self._bundle.name} has "
                f"float32 of ({self.dimension},): fetch the model of this task"
            )
        self._refuse_non_finite(vector)
        self._run("set_weights", **split_weights(vector, self._bundle.parameters))

    def get_weights(self) -> Weights:
        """Return a copy of the weights (D,) float32.

        Raises:
            NonFiniteWeightsError: training left NaN or infinity.
        """
        parts = self._run("get_weights")
        vector = np.concatenate([parts[one.name].reshape(-1) for one in self._bundle.parameters])
        self._refuse_non_finite(vector)
        return vector

    def fit(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        *,
        epochs: int,
        learning_rate: float,
        batch_size: int,
        rng: np.random.Generator,
        privacy: ExamplePrivacy | None = None,
        should_stop: Callable[[], bool] = _never,
        on_progress: Callable[[int, int], None] = _unheard,
    ) -> FitReport:
        """Train with SGD on raw examples ``x`` (n, ...) and labels ``y`` (n,), shuffled by ``rng``.

        ``should_stop`` is asked before each step; ``on_progress`` hears steps done and steps in all.
        The last batch of an epoch may be smaller; its step follows the mean over what it holds. With
        ``privacy`` each step is one of DP-SGD, with noise of its own from the system's generator.

        Raises:
            NoPrivateTrainingError: ``privacy`` is asked for, and the task cannot give it.
            InvalidFitSettingsError: a setting that is no positive number.
            DataError: examples that do not fit the task, or none.
            FitCancelledError: ``should_stop`` said so.
            NonFiniteLossError, NonFiniteWeightsError: training diverged.
        """
        if epochs < 1 or batch_size < 1 or not 0 < learning_rate < math.inf:
            raise InvalidFitSettingsError(
                f"epochs {epochs}, batch_size {batch_size}, learning_rate {learning_rate}: each must "
                "be above zero; correct the round's plan"
            )
        signature, steps = "train", None
        if privacy is not None:
            signature, steps = self._private_signature(), PrivateSteps(privacy, self._bundle.parameters)
        inputs, labels = self._checked_examples(x, y)
        before = self._evaluate(inputs, labels)
        rate = np.array([learning_rate], np.float32)
        total = epochs * math.ceil(len(inputs) / batch_size)
        step = 0
        for _ in range(epochs):
            order = rng.permutation(len(inputs))
            for start in range(0, len(order), batch_size):
                if should_stop():
                    raise FitCancelledError(f"stopped after {step} of {total} steps: nothing to send")
                batch = order[start : start + batch_size]
                more = steps.inputs() if steps else {}
                result = self._run(signature, x=inputs[batch], y=labels[batch], lr=rate, **more)
                self._refuse_non_finite_loss(float(result["loss_sum"][0]), step)
                step += 1
                on_progress(step, total)
        after = self._evaluate(inputs, labels)
        self._refuse_non_finite_loss(after.loss_sum, step)
        self.get_weights()
        return FitReport(step, len(inputs), before.mean_loss, after.mean_loss)

    def evaluate(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> EvaluationCounts:
        """Count over raw examples ``x`` (n, ...) with labels ``y`` (n,).

        Raises:
            DataError: examples that do not fit the task, or none.
            NonFiniteLossError: the model answers NaN or infinity.
        """
        counts = self._evaluate(*self._checked_examples(x, y))
        self._refuse_non_finite_loss(counts.loss_sum, 0)
        return counts

    def self_test(self) -> None:
        """Compare loss and gradients of the stored batch with the reference; weights stay.

        Raises:
            SelfTestError: this interpreter computes something else.
        """
        reference = self._bundle.reference
        kept = self.get_weights()
        try:
            self.set_weights(self._initial)
            counts = self._evaluate(reference.x.numpy().astype(np.float32), reference.y.numpy())
            check_gradients(self._bundle, counts, self._gradient)
        except (UnusableModelError, NonFiniteWeightsError) as error:
            raise SelfTestError(f"the self-test failed: {error}. Update the agent") from error
        finally:
            self.set_weights(kept)

    def _gradient(self, signature: str, /, **batch: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return what a step on ``batch`` follows, (D,), from the initial weights."""
        self.set_weights(self._initial)
        if signature == "train" and GRADIENTS_SIGNATURE in self._runners:
            # Where the optimiser takes another way, the model tells its gradient.
            parts = self._run(GRADIENTS_SIGNATURE, **batch)
            flat = [parts[one.name].reshape(-1) for one in self._bundle.parameters]
            return np.concatenate(flat).astype(np.float64)
        self._run(signature, lr=np.array([_SELF_TEST_RATE], np.float32), **batch)
        return (self._initial - self.get_weights()).astype(np.float64) / _SELF_TEST_RATE

    def _private_signature(self) -> str:
        if self._bundle.private is None:
            raise NoPrivateTrainingError(
                f"task {self._bundle.name} has no {PRIVATE_SIGNATURE} with a reference: author it with both, "
                "or set example_clip and example_noise to 0"
            )
        return PRIVATE_SIGNATURE

    def _evaluate(self, inputs: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> EvaluationCounts:
        counts = EvaluationCounts()
        for start in range(0, len(inputs), _EVALUATION_BATCH):
            part = slice(start, start + _EVALUATION_BATCH)
            sums = self._run("evaluate", x=inputs[part], y=labels[part])
            counts += EvaluationCounts(len(labels[part]), int(sums["correct"][0]), float(sums["loss_sum"][0]))
        return counts

    def _checked_examples(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        check_examples(x, y, self._bundle.input, len(self._bundle.labels))
        if not len(x):
            raise TooFewExamplesError("no examples: let the device collect some first")
        return x.astype(np.float32), y.astype(np.int32)

    def _checked_runners(self) -> dict[str, Any]:
        try:
            runners = {
                name: self._interpreter.get_signature_runner(name)
                for name in self._interpreter.get_signature_list()
                if name in (*SIGNATURES, PRIVATE_SIGNATURE, GRADIENTS_SIGNATURE)
            }
            needed = SIGNATURES if self._bundle.private is None else (*SIGNATURES, PRIVATE_SIGNATURE)
            missing = [name for name in needed if name not in runners]
            if missing:
                raise MissingSignatureError(
                    f"task {self._bundle.name} lacks the signatures {', '.join(missing)}: author it "
                    f"as a trainable model with {', '.join(needed)}"
                )
            sides = [
                runners["set_weights"].get_input_details(),
                runners["get_weights"].get_output_details(),
            ]
            if self._bundle.private is not None:
                sides.append(_noise_of(runners[PRIVATE_SIGNATURE].get_input_details()))
        except (ValueError, RuntimeError) as error:
            raise self._refused(error) from error
        wanted = {one.name: one.shape for one in self._bundle.parameters}
        for details in sides:
            found = {name: tuple(map(int, one["shape"])) for name, one in details.items()}
            if found != wanted:
                raise TaskMismatchError(
                    f"task {self._bundle.name} describes weights {wanted}, its model has {found}: "
                    "author the task again"
                )
        return runners

    def _run(self, signature: str, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        try:
            outputs: dict[str, npt.NDArray[Any]] = self._runners[signature](**inputs)
        except (ValueError, RuntimeError) as error:
            raise self._refused(error) from error
        return outputs

    def _refused(self, error: Exception) -> UnusableModelError:
        return UnusableModelError(
            f"the interpreter cannot run task {self._bundle.name} ({error}): update the agent"
        )

    def _refuse_non_finite(self, vector: Weights) -> None:
        if not np.isfinite(vector).all():
            raise NonFiniteWeightsError(
                "weights hold NaN or infinity: keep the earlier model; lower the learning rate"
            )

    def _refuse_non_finite_loss(self, loss_sum: float, step: int) -> None:
        if not math.isfinite(loss_sum):
            raise NonFiniteLossError(f"the loss is {loss_sum} after {step} steps: lower the learning rate")


def _noise_of(details: dict[str, Any]) -> dict[str, Any]:
    """Return the noise inputs by the names of their parameters."""
    return {
        name.removeprefix(NOISE_PREFIX): one for name, one in details.items() if name.startswith(NOISE_PREFIX)
    }
