"""Which layer it is, where a whole model does not convert or computes something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from shoal_codecs.wire.task import initial_weights, split_weights
from shoal_coordinator.authoring.builtin_ops import BuiltinOps
from shoal_coordinator.authoring.convert import convert
from shoal_coordinator.authoring.errors import ConversionError
from shoal_coordinator.authoring.layer import Run
from shoal_coordinator.authoring.model import Placed
from shoal_coordinator.authoring.plain_ops import PlainOps
from shoal_coordinator.authoring.task import Task

_ROWS = 3
_FAULT = 1e-3


def unconvertible_layers(task: Task) -> list[str]:
    """Return the layers that do not convert on their own, with their kinds."""
    return [one.title for one in task.model.placed if _converted(task, one) is None]


def wrong_layers(task: Task) -> list[str]:
    """Return the layers whose output or gradients in LiteRT are not those of float64, with their kinds."""
    return [one.title for one in task.model.placed if _is_wrong(task, one)]


def _gradients(ops: Any, placed: Placed, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the output and all gradients of one layer, for named inputs and an error ``dy``."""
    weights = {name: one for name, one in tensors.items() if name not in {"x", "dy", "seed"}}
    run = Run(ops, training=True, seed=tensors["seed"], layer=placed.name)
    watched = {name: one for name, one in weights.items() if name not in placed.layer.MOVES}
    if not placed.layer.TAKES_TOKENS:
        watched["x"] = tensors["x"]
    with tf.GradientTape() as tape:
        tape.watch(list(watched.values()))
        y = placed.layer.forward(run, weights, tensors["x"])
    found = tape.gradient(y, watched, output_gradients=tensors["dy"])
    return {"y": y, **{f"d_{name}": one for name, one in found.items() if one is not None}}


def _converted(task: Task, placed: Placed) -> bytes | None:
    specs = {
        "x": tf.TensorSpec(
            (None, *placed.entry), tf.int32 if placed.layer.TAKES_TOKENS else tf.float32, name="x"
        ),
        "dy": tf.TensorSpec((None, *placed.exit), tf.float32, name="dy"),
        "seed": tf.TensorSpec((1,), tf.int32, name="seed"),
    }
    own = placed.own({one.name: one.shape for one in task.model.parameters})
    specs.update({name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in own.items()})

    def called(*inputs: Any) -> dict[str, Any]:
        return _gradients(BuiltinOps(products=True), placed, dict(zip(specs, inputs, strict=True)))

    module = tf.Module()
    module.called = tf.function(called, input_signature=list(specs.values()))
    try:
        return convert(module, {"called": module.called.get_concrete_function()})
    except ConversionError:
        return None


def _is_wrong(task: Task, placed: Placed) -> bool:
    model = _converted(task, placed)
    if model is None:
        return True
    rng = np.random.default_rng(task.seed)
    arrays = split_weights(initial_weights(task.model.parameters, task.seed), task.model.parameters)
    inputs: dict[str, Any] = {
        "x": rng.normal(size=(_ROWS, *placed.entry)).astype(np.float32),
        "dy": rng.normal(size=(_ROWS, *placed.exit)).astype(np.float32),
        "seed": np.array([1], np.int32),
        **placed.own(arrays),
    }
    if placed.layer.TAKES_TOKENS:
        inputs["x"] = np.ones((_ROWS, *placed.entry), np.int32)
    runner = Interpreter(model_content=model, num_threads=1).get_signature_runner("called")
    found = runner(**{name: inputs[name] for name in runner.get_input_details()})
    exact = {
        name: tf.constant(one, tf.float64) if one.dtype.kind == "f" else tf.constant(one)
        for name, one in inputs.items()
    }
    wanted = _gradients(PlainOps(), placed, exact)
    return any(
        np.abs(found[name] - one.numpy()).max() > _FAULT * (np.abs(one.numpy()).max() or 1.0)
        for name, one in wanted.items()
    )
