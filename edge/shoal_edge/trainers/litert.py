"""On-device training inside the LiteRT interpreter, on a task's trainable .tflite."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.wire.task import (
    REFERENCE_MASK_SEED,
    REFERENCE_RATE,
    draw_weights,
    fold_into,
    fold_parts,
    folded_sizes,
    split_weights,
)
from shoal_edge.trainers.base import EvaluationCounts, FitOptions, RandomSource
from shoal_edge.trainers.errors import (
    NoPrivateTrainingError,
    UnsupportedTrainingError,
)
from shoal_edge.trainers.fit_loop import SEEDS, Batches, Step
from shoal_edge.trainers.fitting_trainer import Weights
from shoal_edge.trainers.litert_weights import LiteRtWeights
from shoal_edge.trainers.private import PrivateSteps
from shoal_edge.trainers.signatures import (
    CORRECTION,
    GRADIENTS,
    PRIVATE,
    PULLED,
)


class LiteRtTrainer(LiteRtWeights):
    """Trains ``bundle``'s model on ``threads`` threads; belongs to the thread that made it.

    Raises:
        MissingRuntimeError: no interpreter is installed.
        UnusableModelError, MissingSignatureError, TaskMismatchError: a model that cannot train.
    """

    # --- what FittingTrainer asks for ---------------------------------------------------------

    def _make_room(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
        name, inputs = self._probe("train", x, y)
        with self._named_faults():
            self._signatures[name].plan(**{key: value.shape for key, value in inputs.items()})

    def _folded_gradient(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return what a step follows from the initial weights, folded piece by piece: no vector holds it."""
        parameters = self._bundle.parameters
        name, inputs = self._probe("train", x, y)
        with self._named_faults():
            signature = self._signatures[name]
            signature.put(**inputs)
            signature.invoke()
            if name == GRADIENTS:
                found = fold_parts(signature.shown(one.name) for one in parameters)
                signature.let_go()
                return found
            moved = self._signatures["get_weights"]
            moved.invoke()
            sums = [np.zeros(size) for size in folded_sizes(parameters)]
            by_name = {one.name: part for one, part in zip(parameters, sums, strict=True)}
            for one, start, drawn in draw_weights(parameters, self._bundle.reference.seed):
                way = drawn - moved.shown(one.name).reshape(-1)[start : start + drawn.size]
                fold_into(by_name[one.name], way * np.float32(1 / REFERENCE_RATE))
            moved.let_go()
        return np.concatenate(sums)

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
        name, inputs = self._probe(signature, x, y)
        found = self._run(name, **inputs, **more)
        if name == GRADIENTS:
            return self._flat(found)
        moved = self.get_weights()
        np.subtract(start, moved, out=moved)
        moved *= np.float32(1 / REFERENCE_RATE)
        return moved

    def _probe(
        self, signature: str, x: npt.NDArray[Any], y: npt.NDArray[Any]
    ) -> tuple[str, dict[str, npt.NDArray[Any]]]:
        """Return which signature tells what a step of ``signature`` follows, and what it is given."""
        # Where the optimiser takes another way, the model tells its gradient.
        name = GRADIENTS if signature == "train" and GRADIENTS in self._signatures else signature
        fixed = {
            "lr": np.array([REFERENCE_RATE], np.float32),
            "mu": np.zeros(1, np.float32),
            "seed": np.array([REFERENCE_MASK_SEED], np.int32),
        }
        given = {key: value for key, value in fixed.items() if key in self._signatures[name].inputs}
        inputs, targets = self._batches(x, y, len(x)).cut(slice(None))
        return name, {"x": inputs, "y": targets, **given}

    def _private_signature(self) -> str:
        if self._bundle.private is None:
            raise NoPrivateTrainingError(
                f"task {self._bundle.name} has no {PRIVATE} with a reference: author it with both, "
                "or set example_clip and example_noise to 0"
            )
        return PRIVATE

    def _step(self, options: FitOptions, rng: RandomSource, batches: Batches) -> Step:
        """Return what makes one step, planned for the largest of ``batches``, with all put that stays."""
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
                more["seed"] = rng.integers(0, SEEDS, 1, np.int32)
            try:
                signature.put(x=x, y=y, **more)
                signature.invoke()
                return float(signature.read("loss_sum")[0])
            except (ValueError, RuntimeError) as error:
                raise self._refused(error) from error

        signature.keep(**fixed)
        with self._named_faults():
            # First of all: what all signatures share grows once, and not while an evaluation's is in use.
            signature.plan(**batches.shapes)
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

    def _flat(self, parts: dict[str, npt.NDArray[Any]]) -> Weights:
        return np.concatenate([parts[one.name].reshape(-1) for one in self._bundle.parameters])
