"""Running a deployed .tflite, float32 or int8, on raw examples."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_edge.trainers.base import EvaluationCounts
from shoal_edge.trainers.errors import (
    ExampleShapeError,
    LabelRangeError,
    MissingLabelsError,
    NonFiniteLossError,
    UnusableModelError,
)
from shoal_edge.trainers.runtime import open_model

# Half a step of an int8 probability: what a model that says 0 may at most have meant.
_LEAST_PROBABILITY = 1 / 512


@dataclass(frozen=True)
class Predictions:
    """Most probable label index (n,) and probabilities (n, labels) float32."""

    labels: npt.NDArray[np.intp]
    probabilities: npt.NDArray[np.float32]
    seconds: float


class InferenceModel:
    """A deployed model: raw examples in, probabilities out, one example a call.

    The interpreter verifies the file's structure only; check the file's digest first.

    Raises:
        MissingRuntimeError: no interpreter is installed.
        UnusableModelError: unreadable, damaged, or no classifier of one input and one output.
    """

    def __init__(self, model: bytes | Path) -> None:
        self._interpreter = open_model(_read(model) if isinstance(model, Path) else model)
        try:
            self._interpreter.allocate_tensors()
            entries = self._interpreter.get_input_details()
            exits = self._interpreter.get_output_details()
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
        if len(self._exit["shape"]) != 2 or self._exit["shape"][0] != 1:
            raise UnusableModelError(f"output shape {self._exit['shape']}: expected (1, labels)")

    @property
    def labels(self) -> int:
        """How many labels the model tells apart."""
        return int(self._exit["shape"][1])

    def predict(self, x: npt.NDArray[Any]) -> Predictions:
        """Return labels and probabilities of raw examples ``x`` (n, ...).

        Raises:
            ExampleShapeError: examples of another shape than the model's input.
            NonFiniteLossError: the model answers NaN or infinity.
            UnusableModelError: the interpreter fails on it.
        """
        wanted = tuple(map(int, self._entry["shape"][1:]))
        if x.shape[1:] != wanted or x.ndim != len(wanted) + 1:
            raise ExampleShapeError(
                f"examples of shape {x.shape}, the model takes (n, {', '.join(map(str, wanted))}): "
                "give examples of the task this model was made for"
            )
        inputs = _quantised(x.astype(np.float32), self._entry)
        outputs = np.empty((len(x), self.labels), self._exit["dtype"])
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
        probabilities = _dequantised(outputs, self._exit)
        if not np.isfinite(probabilities).all():
            raise NonFiniteLossError("the model answers NaN or infinity: go back to the earlier one")
        return Predictions(probabilities.argmax(axis=1), probabilities, seconds)

    def evaluate(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> EvaluationCounts:
        """Count over raw examples ``x`` (n, ...) with labels ``y`` (n,), seconds included.

        Raises:
            ExampleShapeError, MissingLabelsError, LabelRangeError: data of another task.
            NonFiniteLossError: the model answers NaN or infinity.
        """
        if y.shape != (len(x),):
            raise MissingLabelsError(f"labels of shape {y.shape} for {len(x)} examples")
        if len(y) and not 0 <= y.min() <= y.max() < self.labels:
            raise LabelRangeError(f"labels outside 0 to {self.labels - 1}: data of another task")
        predictions = self.predict(x)
        chosen = predictions.probabilities[np.arange(len(y)), y]
        losses = -np.log(np.maximum(chosen, _LEAST_PROBABILITY))
        return EvaluationCounts(
            examples=len(y),
            correct=int(np.count_nonzero(predictions.labels == y)),
            loss_sum=math.fsum(losses.tolist()),
            seconds=predictions.seconds,
        )


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
