"""Running a deployed .tflite, float32 or int8, on raw examples."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_edge.data import refuse_strange_labels
from shoal_edge.trainers.base import EvaluationCounts
from shoal_edge.trainers.errors import (
    ExampleShapeError,
    ExampleTypeError,
    MissingLabelsError,
    NonFiniteLossError,
    UnusableModelError,
)
from shoal_edge.trainers.own_places import Tensors, with_own_tensors
from shoal_edge.trainers.runtime import open_model

# Half a step of an int8 probability: what a model that says 0 may at most have meant.
_LEAST_PROBABILITY = 1 / 512


@dataclass(frozen=True)
class Predictions:
    """What a model answers: probabilities (n, labels) or values (n, ...), float32."""

    answers: npt.NDArray[np.float32]
    seconds: float
    of_values: bool = False

    @property
    def labels(self) -> npt.NDArray[np.intp]:
        """Index of the most probable label (n,)."""
        found: npt.NDArray[np.intp] = self.answers.argmax(axis=1)
        return found


class InferenceModel:
    """A deployed model: raw examples in, probabilities or values out, one example a call.

    ``own`` are this device's tensors by parameter, where the model has places for them. The interpreter
    verifies the file's structure only; check the file's digest first.

    Raises:
        MissingRuntimeError: no interpreter is installed.
        UnusableModelError: unreadable, damaged, or not of one input and one output.
        OwnPlacesError: damaged places for own tensors.
    """

    def __init__(self, model: bytes | Path, own: Tensors | None = None) -> None:
        data = _read(model) if isinstance(model, Path) else model
        self._interpreter = open_model(with_own_tensors(data, own or {}))
        try:
            self._interpreter.allocate_tensors()
            entries = self._interpreter.get_input_details()
            exits = self._interpreter.get_output_details()
            signatures = self._interpreter.get_signature_list()
        except (ValueError, RuntimeError) as error:
            raise UnusableModelError(
                f"the interpreter cannot run the model ({error}): fetch it again"
            ) from error
        if len(entries) != 1 or len(exits) != 1:
            raise UnusableModelError(
                f"{len(entries)} inputs and {len(exits)} outputs, a deployable model has one of each"
            )
        self._entry, self._exit = entries[0], exits[0]
        if len(self._entry["shape"]) < 2 or self._entry["shape"][0] != 1:
            raise UnusableModelError(f"input shape {self._entry['shape']}: expected one example a call")
        self.gives_values = any("values" in one["outputs"] for one in signatures.values())
        shape = self._exit["shape"]
        if len(shape) < 1 or shape[0] != 1 or (len(shape) != 2 and not self.gives_values):
            raise UnusableModelError(f"output shape {shape}: expected (1, labels), or (1, ...) values")

    @property
    def labels(self) -> int:
        """How many labels the model tells apart; 0 where it gives values."""
        return 0 if self.gives_values else int(self._exit["shape"][1])

    def predict(self, x: npt.NDArray[Any]) -> Predictions:
        """Return what the model answers to raw examples ``x`` (n, ...).

        Raises:
            ExampleShapeError: examples of another shape than the model's input.
            ExampleTypeError: numbers for a model of tokens.
            NonFiniteLossError: the model answers NaN or infinity.
            UnusableModelError: the interpreter fails on it.
        """
        inputs = self._inputs(x)
        outputs = np.empty((len(x), *self._exit["shape"][1:]), self._exit["dtype"])
        entry, leave = self._entry["index"], self._exit["index"]
        started = time.perf_counter()
        try:
            for row in range(len(x)):
                self._interpreter.set_tensor(entry, inputs[row : row + 1])
                self._interpreter.invoke()
                outputs[row] = self._interpreter.get_tensor(leave)[0]
        except (ValueError, RuntimeError) as error:
            raise UnusableModelError(
                f"the model fails when it runs ({error}): go back to the earlier one"
            ) from error
        seconds = time.perf_counter() - started
        answers = _dequantised(outputs, self._exit)
        if not np.isfinite(answers).all():
            raise NonFiniteLossError("the model answers NaN or infinity: go back to the earlier one")
        return Predictions(answers, seconds, self.gives_values)

    def _inputs(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return raw examples as the interpreter takes them."""
        wanted = tuple(map(int, self._entry["shape"][1:]))
        if x.shape[1:] != wanted or x.ndim != len(wanted) + 1:
            raise ExampleShapeError(
                f"examples of shape {x.shape}, the model takes (n, {', '.join(map(str, wanted))}): "
                "give examples of the task this model was made for"
            )
        if self._entry["dtype"] != np.int32:
            return _quantised(x.astype(np.float32), self._entry)
        if x.dtype.kind not in "iu":
            raise ExampleTypeError(f"examples are {x.dtype}, the model takes tokens: give int32 indices")
        return x.astype(np.int32)

    def evaluate(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> EvaluationCounts:
        """Count over raw examples ``x`` (n, ...) with labels (n,) or values (n, ...) ``y``, seconds included.

        Raises:
            ExampleShapeError, MissingLabelsError, LabelRangeError: data of another task.
            NonFiniteLossError: the model answers NaN or infinity.
        """
        self.check_targets(x, y)
        predictions = self.predict(x)
        if self.gives_values:
            correct, losses = 0, squared_errors(predictions.answers, y)
        else:
            correct = int(np.count_nonzero(predictions.labels == y))
            chosen = predictions.answers[np.arange(len(y)), y]
            losses = -np.log(np.maximum(chosen, _LEAST_PROBABILITY))
        return EvaluationCounts(
            examples=len(y),
            correct=correct,
            loss_sum=math.fsum(losses.tolist()),
            seconds=predictions.seconds,
        )

    def check_targets(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
        """Raise MissingLabelsError or LabelRangeError unless ``y`` is what this model answers to ``x``."""
        wanted = (len(x), *map(int, self._exit["shape"][1:])) if self.gives_values else (len(x),)
        if y.shape != wanted:
            raise MissingLabelsError(f"targets of shape {y.shape} for {len(x)} examples, expected {wanted}")
        if not self.gives_values:
            refuse_strange_labels(y, self.labels, "these are data of another task")


def squared_errors(answers: npt.NDArray[np.float32], y: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the mean squared error (n,) of each example's values."""
    errors: npt.NDArray[np.float64] = np.square(answers.astype(np.float64) - y).reshape(len(y), -1)
    found: npt.NDArray[np.float64] = errors.mean(axis=1)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableModelError(f"cannot read {path} ({error.strerror}): install a release first") from error


def _quantised(values: npt.NDArray[np.float32], detail: dict[str, Any]) -> npt.NDArray[Any]:
    scale, zero = detail["quantization"]
    dtype: np.dtype[Any] = np.dtype(detail["dtype"])
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    steps = np.rint(values / np.float32(scale or 1.0)) + np.float32(zero)
    fitting: npt.NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(dtype)
    return fitting


def _dequantised(values: npt.NDArray[Any], detail: dict[str, Any]) -> npt.NDArray[np.float32]:
    scale, zero = detail["quantization"]
    floats: npt.NDArray[np.float32] = values.astype(np.float32)
    if values.dtype.kind == "f":
        return floats
    return (floats - np.float32(zero)) * np.float32(scale or 1.0)
