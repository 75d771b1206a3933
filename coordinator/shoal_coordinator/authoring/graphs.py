"""The trainable graph of a task: weights, state and signatures as ``TaskBundle`` describes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from shoal_codecs.wire.task import REFERENCE_RATE
from shoal_coordinator.authoring.builtin_ops import BuiltinOps
from shoal_coordinator.authoring.layer import Run, Tensor, Tensors
from shoal_coordinator.authoring.rows import cells_of
from shoal_coordinator.authoring.task import Task
from shoal_coordinator.authoring.training import gradients_of, private_gradients, stepped

NOISE = "noise_"


class TrainableGraph(tf.Module):  # type: ignore[misc] # TensorFlow has no types
    """The signatures of a trainable file; any number of examples a call.

    Nothing has a first value in the file (``rewriting``): devices always set the weights, which sets all.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task, self._model = task, task.model
        self._ops, self._inference_ops = BuiltinOps(products=True), BuiltinOps()
        self._shapes = {one.name: one.shape for one in self._model.parameters}
        self._cells = {
            one.name: cells_of(one, by_rows=one.name in self._model.by_rows) for one in self._model.parameters
        }
        self._weights = self._zeros("")
        self._slots = {slot: self._zeros(f"{slot}_") for slot in task.optimiser.SLOTS}
        self._counters = {name: tf.Variable(tf.zeros((1,)), name=name) for name in task.optimiser.COUNTERS}
        self._anchor = self._zeros("anchor_") if task.prox else {}
        self._correction = self._zeros("correction_") if task.correction else {}
        self._signatures: dict[str, Any] = {}
        self._build()

    @property
    def signatures(self) -> dict[str, Any]:
        """Concrete functions by the names of their signatures."""
        return {name: one.get_concrete_function() for name, one in self._signatures.items()}

    def _zeros(self, prefix: str) -> dict[str, Any]:
        return {
            cell.name: tf.Variable(tf.zeros(cell.shape), name=prefix + cell.name.replace(":", "_rows"))
            for cells in self._cells.values()
            for cell in cells
        }

    def _cut(self, values: Tensors) -> dict[str, Tensor]:
        """Return ``values`` by parameter as values by cell."""
        return {cell.name: cell.of(one) for name, one in values.items() for cell in self._cells[name]}

    def _whole(self, values: Tensors) -> dict[str, Tensor]:
        """Return ``values`` by cell as values by parameter."""
        blocks = {name: [values[cell.name] for cell in cells] for name, cells in self._cells.items()}
        return {name: tf.concat(each, 0) if len(each) > 1 else each[0] for name, each in blocks.items()}

    def _build(self) -> None:
        task = self._task
        x = tf.TensorSpec((None, *task.input.shape), tf.int32 if task.input.tokens else tf.float32, name="x")
        labelled = task.target.kind == "label"
        y = tf.TensorSpec((None, *task.target.shape), tf.int32 if labelled else tf.float32, name="y")
        lr, mu, clip = (tf.TensorSpec((1,), tf.float32, name=name) for name in ("lr", "mu", "clip"))
        seed = [tf.TensorSpec((1,), tf.int32, name="seed")] if self._model.seeded else []
        weights = [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in self._shapes.items()]
        noise = [tf.TensorSpec(one.shape, tf.float32, name=NOISE + one.name) for one in weights]
        self._sign("train", self._train, [x, y, lr, *seed])
        if task.prox or task.correction:
            self._sign("train_pulled", self._train_pulled, [x, y, lr, *([mu] if task.prox else []), *seed])
        self._sign("evaluate", self._evaluate, [x, y])
        self._sign("infer", self._infer, [x])
        self._sign("get_weights", self._get_weights, [])
        self._sign("set_weights", self._set_weights, weights)
        if task.correction:
            self._sign("set_correction", self._set_correction, weights)
        if task.private:
            self._sign("train_private", self._train_private, [x, y, lr, clip, *seed, *noise])
        if not task.optimiser.ALONG_GRADIENT:
            self._sign("gradients", self._gradients, [x, y, *seed])

    def _sign(self, name: str, function: Callable[[Tensors], Tensors], specs: list[Any]) -> None:
        """Add a signature whose inputs ``function`` gets by name."""
        names = [one.name for one in specs]

        def called(*inputs: Tensor) -> Tensors:
            return function(dict(zip(names, inputs, strict=True)))

        self._signatures[name] = tf.function(called, input_signature=specs)

    def _read(self) -> dict[str, Tensor]:
        return {name: variable.read_value() for name, variable in self._weights.items()}

    def _train(self, given: Tensors) -> Tensors:
        if not self._task.optimiser.PLAIN:
            return self._trained(given, lambda gradient, _name, _weight: gradient)
        # The errors times the rate, and not every parameter's gradient: they are far fewer.
        weights = self._read()
        run = Run(self._ops, training=True, seed=given.get("seed"))
        losses, steps = gradients_of(self._task, run, weights, given["x"], given["y"], given["lr"])
        after = {name: weights[name] - one for name, one in steps.items()}
        for name, value in {**after, **run.moved}.items():
            self._weights[name].assign(value)
        return {"loss_sum": _total(losses)}

    def _train_pulled(self, given: Tensors) -> Tensors:
        """Train with a pull on every gradient; apart, for it takes a large model's time and memory."""

        def pulled(gradient: Tensor, name: str, weight: Tensor) -> Tensor:
            if "mu" in given:
                gradient += given["mu"] * (weight - self._anchor[name])
            return gradient + self._correction[name] if self._correction else gradient

        return self._trained(given, pulled)

    def _trained(self, given: Tensors, pulled: Callable[[Tensor, str, Tensor], Tensor]) -> Tensors:
        weights = self._read()
        run = Run(self._ops, training=True, seed=given.get("seed"))
        losses, gradients = gradients_of(self._task, run, weights, given["x"], given["y"])
        gradients = {name: pulled(one, name, weights[name]) for name, one in gradients.items()}
        self._step(weights, gradients, given["lr"], run.moved)
        return {"loss_sum": _total(losses)}

    def _train_private(self, given: Tensors) -> Tensors:
        weights = self._read()
        run = Run(self._ops, training=True, seed=given.get("seed"))
        losses, sums = private_gradients(self._task, run, weights, given["x"], given["y"], given["clip"])
        share = 1.0 / tf.cast(tf.shape(given["y"])[:1], tf.float32)
        noise = self._cut({name: given[NOISE + name] for name in self._shapes})
        gradients = {name: (one + noise[name]) * share for name, one in sums.items()}
        self._step(weights, gradients, given["lr"], run.moved)
        return {"loss_sum": _total(losses)}

    def _gradients(self, given: Tensors) -> Tensors:
        run = Run(self._ops, training=True, seed=given.get("seed"))
        weights = self._read()
        _, gradients = gradients_of(self._task, run, weights, given["x"], given["y"])
        ways = {name: (weights[name] - one) * (1 / REFERENCE_RATE) for name, one in run.moved.items()}
        return self._whole({**gradients, **ways})

    def _step(self, weights: Tensors, gradients: Tensors, lr: Tensor, moved: Tensors) -> None:
        slots = {
            slot: {name: one.read_value() for name, one in held.items()} for slot, held in self._slots.items()
        }
        counters = {name: one.read_value() for name, one in self._counters.items()}
        after = stepped(self._task.optimiser, self._ops, weights, gradients, lr, slots, counters)
        for name, value in {**after.weights, **moved}.items():
            self._weights[name].assign(value)
        for slot, values in after.slots.items():
            for name, value in values.items():
                self._slots[slot][name].assign(value)
        for name, value in after.counters.items():
            self._counters[name].assign(value)

    def _evaluate(self, given: Tensors) -> Tensors:
        task, y = self._task, given["y"]
        output = task.outputs(Run(self._ops), self._read(), given["x"])
        loss_sum = _total(task.loss.per_example(self._ops, output, y))
        if task.target.kind != "label":
            return {"correct": tf.cast(loss_sum * 0.0, tf.int32), "loss_sum": loss_sum}
        hits = tf.cast(tf.equal(tf.argmax(output, axis=1, output_type=tf.int32), y), tf.int32)
        return {"correct": tf.reduce_sum(hits, axis=0, keepdims=True), "loss_sum": loss_sum}

    def _infer(self, given: Tensors) -> Tensors:
        output = self._task.outputs(Run(self._inference_ops), self._whole(self._read()), given["x"])
        if self._task.target.kind == "label":
            return {"probabilities": tf.nn.softmax(output)}
        return {"values": output + 0.0}

    def _get_weights(self, given: Tensors) -> Tensors:
        """Copies: without the addition the interpreter returns the variable's own buffer."""
        del given
        return {
            name: value if len(self._cells[name]) > 1 else value + 0.0
            for name, value in self._whole(self._read()).items()
        }

    def _set_weights(self, given: Tensors) -> Tensors:
        for name, value in self._cut(given).items():
            self._weights[name].assign(value)
            cleared = value * 0.0
            for held in self._slots.values():
                held[name].assign(cleared)
            if self._anchor:
                self._anchor[name].assign(value)
            if self._correction:
                self._correction[name].assign(cleared)
        for counter in self._counters.values():
            counter.assign(tf.zeros((1,)))
        return {"tensors": tf.constant([len(given)], tf.int32)}

    def _set_correction(self, given: Tensors) -> Tensors:
        for name, value in self._cut(given).items():
            self._correction[name].assign(value)
        return {"tensors": tf.constant([len(given)], tf.int32)}


def _total(losses: Tensor) -> Tensor:
    """Sum losses (n, 1) to (1,)."""
    return tf.reduce_sum(losses, axis=0)
