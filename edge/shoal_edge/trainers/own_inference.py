"""Asking a task's trainable model, for weights that no release holds: a device's own."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.wire.task import InputDescription, TaskBundle, split_weights
from shoal_edge.trainers.errors import ExampleShapeError, NonFiniteLossError, UnusableModelError
from shoal_edge.trainers.inference import Predictions
from shoal_edge.trainers.runtime import open_model
from shoal_edge.trainers.signatures import Signature


def infer(bundle: TaskBundle, weights: npt.NDArray[np.float32], x: npt.NDArray[Any]) -> Predictions:
    """Return what the task's model with ``weights`` (D,) says of raw examples ``x`` (n, ...).

    Raises:
        MissingRuntimeError: no interpreter is installed.
        UnusableModelError: it cannot run the task.
        ExampleShapeError: examples of another task.
        NonFiniteLossError: the model answers NaN or infinity.
    """
    _check_shape(bundle.input, x)
    try:
        interpreter = open_model(bundle.trainable)
        Signature(interpreter.get_signature_runner("set_weights"))(
            **split_weights(weights, bundle.parameters)
        )
        runner = Signature(interpreter.get_signature_runner("infer"))
        inputs = np.ascontiguousarray(x, dtype=runner.inputs["x"]["dtype"])
        began = time.perf_counter()
        answers = runner(x=inputs)["probabilities" if bundle.target.kind == "label" else "values"]
        seconds = time.perf_counter() - began
    except (ValueError, RuntimeError, KeyError) as error:
        raise UnusableModelError(
            f"the interpreter cannot run task {bundle.name} ({error}): update the agent"
        ) from error
    if not np.isfinite(answers).all():
        raise NonFiniteLossError("the model answers NaN or infinity: go back to the fleet's")
    return Predictions(answers, seconds, bundle.target.kind == "values")


def _check_shape(about: InputDescription, x: npt.NDArray[Any]) -> None:
    if x.shape[1:] != about.shape:
        raise ExampleShapeError(
            f"examples of shape {x.shape}, the task takes (n, {', '.join(map(str, about.shape))}): "
            "give examples of this task"
        )
