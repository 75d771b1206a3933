"""On-device training inside the LiteRT interpreter, on a task's trainable .tflite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.memory import give_back_freed_memory, resident_bytes
from shoal_codecs.updates.base import all_finite
from shoal_codecs.wire.task import (
    REFERENCE_MASK_SEED,
    REFERENCE_RATE,
    TaskBundle,
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
    UnusableModelError,
)
from shoal_edge.trainers.fit_loop import SEEDS, Batches, Step
from shoal_edge.trainers.fitting_trainer import FittingTrainer, Weights
from shoal_edge.trainers.pages import move_out
from shoal_edge.trainers.private import PrivateSteps
from shoal_edge.trainers.runtime import open_model, runtime_name
from shoal_edge.trainers.signatures import (
    CORRECTION,
    GRADIENTS,
    PRIVATE,
    PULLED,
    Signature,
    checked_signatures,
)

# What is less is planned again with every fit for nothing.
_MUCH_BYTES = 16 << 20


class LiteRtTrainer(FittingTrainer):
    """Trains ``bundle``'s model on ``threads`` threads; belongs to the thread that made it.

    Raises:
        MissingRuntimeError: no interpreter is installed.
        UnusableModelError, MissingSignatureError, TaskMismatchError: a model that cannot train.
    """

    def __init__(self, bundle: TaskBundle, threads: int = 1) -> None:
        super().__init__(bundle)
        self._threads = threads
        self._held_bytes = 0
        self._interpreter: Any = None
        self._signatures: dict[str, Signature] = {}
        self._open()

    @property
    def runtime(self) -> str:
        """The interpreter's distribution and version."""
        return runtime_name()

    def rest(self) -> None:
        """Give back what training takes of the memory, if that is much; the weights are lost then."""
        if resident_bytes() - self._held_bytes >= _MUCH_BYTES:
            self._renew()
            self._is_new = self._is_bare = True

    # --- what FittingTrainer asks for ---------------------------------------------------------

    def _begin(self) -> None:
        """Draw the initial weights where the interpreter takes them from: no vector holds them."""
        parameters, seed = self._bundle.parameters, self._bundle.reference.seed
        signature = self._signatures["set_weights"]
        with self._named_faults():
            for one, start, values in draw_weights(parameters, seed):
                signature.shown_input(one.name).reshape(-1)[start : start + values.size] = values
            signature.invoke()
            signature.let_go()

    def _is_finite(self) -> bool:
        signature = self._signatures["get_weights"]
        with self._named_faults():
            signature.invoke()
            found = all(all_finite(signature.shown(one.name)) for one in self._bundle.parameters)
            signature.let_go()
        return found

    def _make_room(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
        name, inputs = self._probe("train", x, y)
        with self._named_faults():
            self._signatures[name].plan(**{key: value.shape for key, value in inputs.items()})

    def _renew(self) -> None:
        """Begin with another interpreter: the memory that was planned stays with the first."""
        planned = [name for name, one in self._signatures.items() if one.was_planned]
        self._open()
        for name in planned:
            self._signatures[name].was_planned = True

    def _open(self) -> None:
        # The earlier one goes first.
        self._interpreter, self._signatures = None, {}
        give_back_freed_memory()
        self._interpreter = open_model(self._bundle.trainable, self._threads)
        self._signatures = checked_signatures(self._interpreter, self._bundle)
        self._held_bytes = resident_bytes()

    def _set_weights(self, vector: Weights) -> None:
        self._run("set_weights", **split_weights(vector, self._bundle.parameters))
        self._signatures["set_weights"].let_go()

    def _get_weights(self) -> Weights:
        signature = self._signatures["get_weights"]
        vector = np.empty(self.dimension, np.float32)
        with self._named_faults():
            signature.invoke()
            for name, part in split_weights(vector, self._bundle.parameters).items():
                # From where they are: a large model's weights are there often enough.
                move_out(signature.shown(name), part)
            signature.let_go()
        return vector

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

    def _run(self, signature: str, /, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        with self._named_faults():
            return self._signatures[signature](**inputs)

    def _flat(self, parts: dict[str, npt.NDArray[Any]]) -> Weights:
        return np.concatenate([parts[one.name].reshape(-1) for one in self._bundle.parameters])

    @contextmanager
    def _named_faults(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> UnusableModelError:
        return UnusableModelError(
            f"the interpreter cannot run task {self._bundle.name} ({error}): update the agent"
        )
