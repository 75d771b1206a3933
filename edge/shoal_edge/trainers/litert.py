"""On-device training inside the LiteRT interpreter, on a task's trainable .tflite."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.wire.task import REFERENCE_MASK_SEED, TaskBundle, split_weights
from shoal_edge.trainers.base import EvaluationCounts, FitOptions
from shoal_edge.trainers.errors import (
    NoPrivateTrainingError,
    UnsupportedTrainingError,
    UnusableModelError,
)
from shoal_edge.trainers.fit_loop import SEEDS, Batches, Step
from shoal_edge.trainers.fitting_trainer import FittingTrainer, Weights
from shoal_edge.trainers.private import PrivateSteps
from shoal_edge.trainers.runtime import open_model, runtime_name
from shoal_edge.trainers.signatures import CORRECTION, GRADIENTS, PRIVATE, PULLED, checked_signatures

# A large power of two scales the step exactly and keeps its rounding far under the tolerance.
_SELF_TEST_RATE = 16.0


class LiteRtTrainer(FittingTrainer):
    """Trains ``bundle``'s model on ``threads`` threads; belongs to the thread that made it.

    Raises:
        MissingRuntimeError: no interpreter is installed.
        UnusableModelError, MissingSignatureError, TaskMismatchError: a model that cannot train.
    """

    def __init__(self, bundle: TaskBundle, threads: int = 1) -> None:
        super().__init__(bundle)
        self._interpreter = open_model(bundle.trainable, threads)
        self._signatures = checked_signatures(self._interpreter, bundle)
        self.set_weights(self.initial_weights())

    @property
    def runtime(self) -> str:
        """The interpreter's distribution and version."""
        return runtime_name()

    # --- what FittingTrainer asks for ---------------------------------------------------------

    def _set_weights(self, vector: Weights) -> None:
        self._run("set_weights", **split_weights(vector, self._bundle.parameters))
        self._signatures["set_weights"].let_go()

    def _get_weights(self) -> Weights:
        signature = self._signatures["get_weights"]
        vector = np.empty(self.dimension, np.float32)
        try:
            signature.invoke()
            for name, part in split_weights(vector, self._bundle.parameters).items():
                # From where they are: a large model's weights are there often enough.
                signature.read_into(name, part)
            signature.let_go()
        except (ValueError, RuntimeError) as error:
            raise self._refused(error) from error
        return vector

    def _gradient(
        self,
        start: Weights,
        signature: str,
        /,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        **more: npt.NDArray[Any],
    ) -> Weights:
        """Return what a step on a batch follows, (D,), from ``start`` and without a pull."""
        self._set_weights(start)
        told = signature == "train" and GRADIENTS in self._signatures
        name = GRADIENTS if told else signature
        fixed = {
            "lr": np.array([_SELF_TEST_RATE], np.float32),
            "mu": np.zeros(1, np.float32),
            "seed": np.array([REFERENCE_MASK_SEED], np.int32),
        }
        more |= {key: value for key, value in fixed.items() if key in self._signatures[name].inputs}
        inputs, targets = self._batches(x, y, len(x)).cut(slice(None))
        found = self._run(name, x=inputs, y=targets, **more)
        if told:
            # Where the optimiser takes another way, the model tells its gradient.
            return self._flat(found)
        moved = self.get_weights()
        np.subtract(start, moved, out=moved)
        moved *= np.float32(1 / _SELF_TEST_RATE)
        return moved

    def _private_signature(self) -> str:
        if self._bundle.private is None:
            raise NoPrivateTrainingError(
                f"task {self._bundle.name} has no {PRIVATE} with a reference: author it with both, "
                "or set example_clip and example_noise to 0"
            )
        return PRIVATE

    def _step(self, options: FitOptions, rng: np.random.Generator) -> Step:
        """Return what makes one step, with everything put that stays the same in all of them."""
        # A file without the one pulls in the other.
        pulled = (options.mu or options.correction is not None) and PULLED in self._signatures
        name, noise = PULLED if pulled else "train", None
        if options.privacy is not None:
            name, noise = self._private_signature(), PrivateSteps(options.privacy, self._bundle.parameters)
        self._refuse_unsupported(options)
        signature = self._signatures[name]
        fixed = {"lr": np.array([options.learning_rate], np.float32)}
        if "mu" in signature.inputs:
            fixed["mu"] = np.array([options.mu], np.float32)
        if options.correction is not None:
            self._check_vector(options.correction)
            self._run(CORRECTION, **split_weights(options.correction, self._bundle.parameters))
        seeded = "seed" in signature.inputs

        def step(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
            more: dict[str, npt.NDArray[Any]] = noise.inputs() if noise else {}
            if seeded:
                more["seed"] = rng.integers(0, SEEDS, 1, dtype=np.int32)
            try:
                signature.put(x=x, y=y, **more)
                signature.invoke()
                return float(signature.read("loss_sum")[0])
            except (ValueError, RuntimeError) as error:
                raise self._refused(error) from error

        signature.keep(**fixed)
        return step

    def _refuse_unsupported(self, options: FitOptions) -> None:
        abilities = self._bundle.abilities
        if options.mu and "mu" not in abilities:
            raise UnsupportedTrainingError(self._lacks("mu, which FedProx needs", "with FedProx"))
        if options.correction is not None and "correction" not in abilities:
            raise UnsupportedTrainingError(self._lacks(CORRECTION, "with corrections"))

    def _lacks(self, what: str, remedy: str) -> str:
        return (
            f"task {self._bundle.name} has no {what}: author it {remedy}, or choose an algorithm that does "
            "without"
        )

    def _batches(self, x: npt.NDArray[Any], y: npt.NDArray[Any], size: int) -> Batches:
        details = self._signatures["train"].inputs
        return Batches(x, y, size, x_dtype=details["x"]["dtype"], y_dtype=details["y"]["dtype"])

    def _counts(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> EvaluationCounts:
        sums = self._run("evaluate", x=x, y=y)
        return EvaluationCounts(len(y), int(sums["correct"][0]), float(sums["loss_sum"][0]))

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
