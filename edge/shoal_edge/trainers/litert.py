"""On-device training inside the LiteRT interpreter, on a task's trainable .tflite."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.wire.task import REFERENCE_MASK_SEED, TaskBundle, initial_weights, split_weights
from shoal_edge.data import check_examples
from shoal_edge.trainers.base import (
    EvaluationCounts,
    FitOptions,
    FitReport,
    OnProgress,
    ShouldStop,
    never,
    unheard,
)
from shoal_edge.trainers.errors import (
    NonFiniteWeightsError,
    NoPrivateTrainingError,
    SelfTestError,
    TooFewExamplesError,
    UnsupportedTrainingError,
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
from shoal_edge.trainers.private import PrivateSteps
from shoal_edge.trainers.runtime import open_model, runtime_name
from shoal_edge.trainers.self_test import check_gradients
from shoal_edge.trainers.signatures import CORRECTION, GRADIENTS, PRIVATE, checked_signatures

# A large power of two scales the step exactly and keeps its rounding far under the tolerance.
_SELF_TEST_RATE = 16.0
_SEEDS = 1 << 31

Weights = npt.NDArray[np.float32]


class LiteRtTrainer:
    """Trains ``bundle``'s model on ``threads`` threads; belongs to the thread that made it.

    Raises:
        MissingRuntimeError: no interpreter is installed.
        UnusableModelError, MissingSignatureError, TaskMismatchError: a model that cannot train.
    """

    def __init__(self, bundle: TaskBundle, threads: int = 1) -> None:
        self._bundle = bundle
        self._interpreter = open_model(bundle.trainable, threads)
        self._signatures = checked_signatures(self._interpreter, bundle)
        self._initial = initial_weights(bundle.parameters, bundle.reference.seed)
        self.set_weights(self._initial)

    @property
    def runtime(self) -> str:
        """The interpreter's distribution and version."""
        return runtime_name()

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
        self._check_vector(vector)
        self._run("set_weights", **split_weights(vector, self._bundle.parameters))

    def get_weights(self) -> Weights:
        """Return a copy of the weights (D,) float32.

        Raises:
            NonFiniteWeightsError: training left NaN or infinity.
        """
        vector = self._flat(self._run("get_weights"))
        self._check_vector(vector)
        return vector

    def fit(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        options: FitOptions,
        rng: np.random.Generator,
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
        step = self._step(options, rng)
        self._check_examples(x, y)
        before = self._evaluate(x, y)
        batches = self._batches("train", x, y, options.batch_size)
        steps = run_steps(batches, step, options, rng, should_stop, on_progress)
        after = self._evaluate(x, y)
        refuse_non_finite_loss(after.loss_sum, steps)
        self.get_weights()
        return FitReport(steps, len(x), before.mean_loss, after.mean_loss)

    def evaluate(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> EvaluationCounts:
        """Count over raw examples ``x`` (n, ...) with targets ``y`` (n, ...).

        Raises:
            DataError: examples that do not fit the task, or none.
            NonFiniteLossError: the model answers NaN or infinity.
        """
        self._check_examples(x, y)
        counts = self._evaluate(x, y)
        refuse_non_finite_loss(counts.loss_sum, 0)
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
            counts = self._evaluate(reference.x.numpy(), reference.y.numpy())
            check_gradients(self._bundle, counts, self._gradient)
        except (UnusableModelError, NonFiniteWeightsError) as error:
            raise SelfTestError(f"the self-test failed: {error}. Update the agent") from error
        finally:
            self.set_weights(kept)

    def _gradient(
        self, signature: str, /, x: npt.NDArray[Any], y: npt.NDArray[Any], **more: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        """Return what a step on a batch follows, (D,), from the initial weights and without a pull."""
        self.set_weights(self._initial)
        told = signature == "train" and GRADIENTS in self._signatures
        name = GRADIENTS if told else signature
        fixed = {
            "lr": np.array([_SELF_TEST_RATE], np.float32),
            "mu": np.zeros(1, np.float32),
            "seed": np.array([REFERENCE_MASK_SEED], np.int32),
        }
        more |= {key: value for key, value in fixed.items() if key in self._signatures[name].inputs}
        inputs, targets = self._batches(name, x, y, len(x)).cut(slice(None))
        found = self._run(name, x=inputs, y=targets, **more)
        if told:
            # Where the optimiser takes another way, the model tells its gradient.
            return self._flat(found).astype(np.float64)
        return (self._initial - self.get_weights()).astype(np.float64) / _SELF_TEST_RATE

    def _private_signature(self) -> str:
        if self._bundle.private is None:
            raise NoPrivateTrainingError(
                f"task {self._bundle.name} has no {PRIVATE} with a reference: author it with both, "
                "or set example_clip and example_noise to 0"
            )
        return PRIVATE

    def _step(self, options: FitOptions, rng: np.random.Generator) -> Step:
        """Return what makes one step, with everything put that stays the same in all of them."""
        name, noise = "train", None
        if options.privacy is not None:
            name, noise = self._private_signature(), PrivateSteps(options.privacy, self._bundle.parameters)
        signature = self._signatures[name]
        fixed = {"lr": np.array([options.learning_rate], np.float32)}
        if "mu" in signature.inputs:
            fixed["mu"] = np.array([options.mu], np.float32)
        elif options.mu:
            raise UnsupportedTrainingError(self._lacks("mu, which FedProx needs", "with FedProx"))
        if options.correction is not None:
            self._correct(options.correction)
        seeded = "seed" in signature.inputs

        def step(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
            more: dict[str, npt.NDArray[Any]] = noise.inputs() if noise else {}
            if seeded:
                more["seed"] = rng.integers(0, _SEEDS, 1, dtype=np.int32)
            try:
                signature.put(x=x, y=y, **more)
                signature.invoke()
                return float(signature.read("loss_sum")[0])
            except (ValueError, RuntimeError) as error:
                raise self._refused(error) from error

        signature.keep(**fixed)
        return step

    def _correct(self, correction: Weights) -> None:
        if CORRECTION not in self._signatures:
            raise UnsupportedTrainingError(self._lacks(CORRECTION, "with corrections"))
        self._check_vector(correction)
        self._run(CORRECTION, **split_weights(correction, self._bundle.parameters))

    def _lacks(self, what: str, remedy: str) -> str:
        return (
            f"task {self._bundle.name} has no {what}: author it {remedy}, or choose an algorithm that does "
            "without"
        )

    def _batches(self, signature: str, x: npt.NDArray[Any], y: npt.NDArray[Any], size: int) -> Batches:
        details = self._signatures[signature].inputs
        return Batches(x, y, size, x_dtype=details["x"]["dtype"], y_dtype=details["y"]["dtype"])

    def _evaluate(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> EvaluationCounts:
        size, counts = evaluation_size(x), EvaluationCounts()
        batches = self._batches("evaluate", x, y, size)
        for start in range(0, len(x), size):
            inputs, targets = batches.cut(slice(start, start + size))
            sums = self._run("evaluate", x=inputs, y=targets)
            counts += EvaluationCounts(len(targets), int(sums["correct"][0]), float(sums["loss_sum"][0]))
        return counts

    def _check_examples(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
        check_examples(x, y, self._bundle.input, len(self._bundle.labels), self._bundle.target)
        if not len(x):
            raise TooFewExamplesError("no examples: let the device collect some first")

    def _run(self, signature: str, /, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        try:
            return self._signatures[signature](**inputs)
        except (ValueError, RuntimeError) as error:
            raise self._refused(error) from error

    def _flat(self, parts: dict[str, npt.NDArray[Any]]) -> Weights:
        return np.concatenate([parts[one.name].reshape(-1) for one in self._bundle.parameters])

    def _refused(self, error: Exception) -> UnusableModelError:
        return UnusableModelError(
            f"the interpreter cannot run task {self._bundle.name} ({error}): update the agent"
        )

    def _check_vector(self, vector: Weights) -> None:
        if vector.shape != (self.dimension,) or vector.dtype != np.float32:
            raise WeightShapeError(
                f"weights {vector.dtype} of shape {vector.shape}, task {self._bundle.name} has "
                f"float32 of ({self.dimension},): fetch the model of this task"
            )
        if not np.isfinite(vector).all():
            raise NonFiniteWeightsError(
                "weights hold NaN or infinity: keep the earlier model; lower the learning rate"
            )
