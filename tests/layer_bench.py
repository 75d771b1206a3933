"""One layer of the model kit on its own: its gradients in LiteRT beside float64 automatic differentiation."""

from __future__ import annotations

import os
import tempfile
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from shoal_codecs.wire.task import initial_weights, split_weights
from shoal_coordinator.authoring import Layer, Run
from shoal_coordinator.authoring.builtin_ops import BuiltinOps
from shoal_coordinator.authoring.plain_ops import PlainOps

Array = npt.NDArray[Any]


class LayerBench:
    """A layer with parameters off their initial values, for inputs of ``shape`` without the batch axis."""

    def __init__(self, layer: Layer, shape: tuple[int, ...], *, training: bool = True) -> None:
        self.layer = layer.named(layer.title)
        self.built = self.layer.build(shape)
        self._shape, self._training = shape, training
        self._tokens = layer.TAKES_TOKENS
        drawn = np.random.default_rng(7)
        parameters = self.built.parameters
        flat = initial_weights(parameters, 3) if parameters else np.zeros(0, np.float32)
        flat = flat + drawn.normal(0, 0.1, flat.shape).astype(np.float32)
        self.weights = split_weights(flat, parameters)
        self._runner: Any = None

    def wanted(self, x: Array, dy: Array, seed: int = 1) -> dict[str, Array]:
        """Return output ``y`` and gradients by parameter (and ``x``) in float64."""
        weights = {name: tf.constant(value, tf.float64) for name, value in self.weights.items()}
        given = tf.constant(x) if self._tokens else tf.constant(x, tf.float64)
        outputs = self._run(PlainOps(), given, tf.constant(dy, tf.float64), weights, tf.constant([seed]))
        return {name: np.asarray(tf.convert_to_tensor(one)) for name, one in outputs.items()}

    def found(self, x: Array, dy: Array, seed: int = 1) -> dict[str, Array]:
        """Return the same from the converted layer in LiteRT, float32."""
        if self._runner is None:
            self._interpreter = Interpreter(model_content=self._converted(), num_threads=1)
            self._runner = self._interpreter.get_signature_runner("run")
        inputs = {"x_in": x, "dy_in": dy.astype(np.float32), "seed_in": np.array([seed], np.int32)}
        for name, value in self.weights.items():
            inputs[f"{name}_in"] = value
        taken = self._runner.get_input_details()
        outputs: dict[str, Array] = self._runner(**{name: inputs[name] for name in taken})
        return outputs

    def largest_fault(self, x: Array, dy: Array, seed: int = 1) -> float:
        """Return by how much LiteRT is off, of each tensor's largest entry."""
        wanted, found = self.wanted(x, dy, seed), self.found(x, dy, seed)
        assert wanted.keys() == found.keys()
        return max(
            float(np.abs(found[name] - wanted[name]).max() / (np.abs(wanted[name]).max() or 1.0))
            for name in wanted
        )

    def _run(self, ops: Any, x: Any, dy: Any, weights: dict[str, Any], seed: Any) -> dict[str, Any]:
        run = Run(ops, training=self._training, seed=seed, layer=self.layer.name)
        watched = {name: one for name, one in weights.items() if name not in self.layer.MOVES}
        if not self._tokens:
            watched["x"] = x
        with tf.GradientTape() as tape:
            tape.watch(list(watched.values()))
            y = self.layer.forward(run, weights, x)
        gradients = tape.gradient(y, watched, output_gradients=dy)
        return {"y": y, **{f"d_{name}": one for name, one in gradients.items()}}

    def _converted(self) -> bytes:
        specs = [
            tf.TensorSpec((None, *self._shape), tf.int32 if self._tokens else tf.float32, name="x_in"),
            tf.TensorSpec((None, *self.built.shape), tf.float32, name="dy_in"),
            tf.TensorSpec((1,), tf.int32, name="seed_in"),
            *(tf.TensorSpec(one.shape, name=f"{name}_in") for name, one in self.weights.items()),
        ]

        def run(x: Any, dy: Any, seed: Any, *weights: Any) -> dict[str, Any]:
            return self._run(
                BuiltinOps(products=self._training),
                x,
                dy,
                dict(zip(self.weights, weights, strict=True)),
                seed,
            )

        module = tf.Module()
        module.run = tf.function(run, input_signature=specs)
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(module, folder, signatures={"run": module.run.get_concrete_function()})
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            return bytes(converter.convert())
