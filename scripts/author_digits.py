#!/usr/bin/env python3
"""Author the digits task: trainable model and data. Workstation only, needs TensorFlow.

    pip install -e '.[authoring]' && scripts/author_digits.py

writes into coordinator/shoal_coordinator/demo/data/ (or the folder named as first argument):

    digits.task              what devices download: MLP 64-128-10 with train, train_private, evaluate,
                             infer, get_weights and set_weights, and reference gradients
    digits.npz               1,697 examples that are split among devices
    digits_calibration.npz   100 examples that never go to a device and stand for public data

Only builtin operators are used, every input has a rank of at least 1 (0-d inputs crash the
interpreter on aarch64), and every layer brings its own gradient, because TensorFlow's gradient
operators do not convert. The same versions write the same bytes each time.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from shoal_codecs.wire.task import (
    InputDescription,
    Parameter,
    PrivateReference,
    ReferenceGradients,
    TaskBundle,
    TypedArray,
    encode_task,
    gradient_levels,
    initial_weights,
    split_weights,
)

FOLDER = Path(__file__).parents[1] / "coordinator/shoal_coordinator/demo/data"
NAME = "digits-mlp-64-128-10"
SOURCE = (
    "scikit-learn load_digits: test set of UCI 'Optical Recognition of Handwritten Digits', "
    "E. Alpaydin and C. Kaynak, https://doi.org/10.24432/C50P49, licence CC BY 4.0"
)
PIXELS, HIDDEN, CLASSES = 64, 128, 10
GREATEST_PIXEL = 16
SEED = 2024
CALIBRATION_PER_LABEL = 10
REFERENCE_EXAMPLES = 8


def glorot(name: str, fan_in: int, fan_out: int) -> Parameter:
    """Describe a weight matrix that starts at Glorot and Bengio's uniform distribution (2010)."""
    return Parameter(name, (fan_in, fan_out), initial_bound=(6 / (fan_in + fan_out)) ** 0.5)


PARAMETERS = (
    glorot("w1", PIXELS, HIDDEN),
    Parameter("b1", (HIDDEN,)),
    glorot("w2", HIDDEN, CLASSES),
    Parameter("b2", (CLASSES,)),
)
INPUT = InputDescription(shape=(PIXELS,), dtype="uint8", minimum=0.0, maximum=float(GREATEST_PIXEL))

EXAMPLES = tf.TensorSpec((None, PIXELS), tf.float32, name="x")
LABELS = tf.TensorSpec((None,), tf.int32, name="y")
RATE = tf.TensorSpec((1,), tf.float32, name="lr")
CLIP = tf.TensorSpec((1,), tf.float32, name="clip")
NOISE = [tf.TensorSpec(one.shape, tf.float32, name=f"noise_{one.name}") for one in PARAMETERS]
# A gradient of nothing has no direction: this keeps its length off zero.
LEAST_SQUARE = 1e-30
WEIGHTS = [tf.TensorSpec(one.shape, tf.float32, name=one.name) for one in PARAMETERS]


@tf.custom_gradient
def dense(x: Any, w: Any, b: Any) -> Any:
    """Affine layer: x (n, i), w (i, o), b (o,) -> (n, o)."""

    def gradient(dy: Any) -> Any:
        return (
            tf.matmul(dy, w, transpose_b=True),
            tf.matmul(x, dy, transpose_a=True),
            tf.reduce_sum(dy, axis=0),
        )

    return tf.matmul(x, w) + b, gradient


@tf.custom_gradient
def relu(x: Any) -> Any:
    """Elementwise, any shape."""
    return tf.nn.relu(x), lambda dy: dy * tf.cast(x > 0, tf.float32)


@tf.custom_gradient
def cross_entropy_sum(logits: Any, wanted: Any) -> Any:
    """Summed softmax cross entropy in nats, shape (1,); ``wanted`` is one-hot (n, classes)."""

    def gradient(dy: Any) -> Any:
        return dy * (tf.nn.softmax(logits) - wanted), None

    per_example = -tf.reduce_sum(wanted * tf.nn.log_softmax(logits), axis=1)
    return tf.reduce_sum(per_example, axis=0, keepdims=True), gradient


def squares(rows: Any) -> Any:
    """Squared length of each row: (n, d) -> (n, 1)."""
    return tf.reduce_sum(rows * rows, axis=1, keepdims=True)


def logits_of(x: Any, p: dict[str, Any]) -> Any:
    """Raw examples (n, 64) in 0..16 to logits (n, 10)."""
    hidden = relu(dense(x * (1 / GREATEST_PIXEL), p["w1"], p["b1"]))
    return dense(hidden, p["w2"], p["b2"])


class TrainableDigits(tf.Module):
    """The signatures of the trainable file; any number of examples a call."""

    def __init__(self) -> None:
        super().__init__()
        # Zeros: devices always set the weights, and a file of zeros packs well.
        self.weights = {one.name: tf.Variable(tf.zeros(one.shape), name=one.name) for one in PARAMETERS}

    def read(self) -> dict[str, Any]:
        """Read every weight once."""
        return {name: variable.read_value() for name, variable in self.weights.items()}

    @tf.function(input_signature=[EXAMPLES, LABELS, RATE])
    def train(self, x: Any, y: Any, lr: Any) -> dict[str, Any]:
        """One step of SGD on the mean loss; returns the summed loss before the step."""
        weights = self.read()
        with tf.GradientTape() as tape:
            tape.watch(list(weights.values()))
            loss_sum = cross_entropy_sum(logits_of(x, weights), tf.one_hot(y, CLASSES))
        gradients = tape.gradient(loss_sum, weights)
        step = lr / tf.cast(tf.shape(y), tf.float32)
        for name, variable in self.weights.items():
            variable.assign(weights[name] - step * gradients[name])
        return {"loss_sum": loss_sum}

    @tf.function(input_signature=[EXAMPLES, LABELS, RATE, CLIP, *NOISE])
    def train_private(
        self, x: Any, y: Any, lr: Any, clip: Any, noise_w1: Any, noise_b1: Any, noise_w2: Any, noise_b2: Any
    ) -> dict[str, Any]:
        """One step of DP-SGD (Abadi et al. 2016, algorithm 1); returns the summed loss before the step.

        Every example's gradient is shortened to ``clip`` before it is added; the noise comes in ready to be
        added to that sum; the step follows their sum divided by the batch. No example's gradient is ever laid
        out: of a dense layer its length is the product of its input's and its error's (Goodfellow 2015).
        """
        p, wanted = self.read(), tf.one_hot(y, CLASSES)
        scaled = x * (1 / GREATEST_PIXEL)
        before = tf.matmul(scaled, p["w1"]) + p["b1"]
        hidden = tf.nn.relu(before)
        logits = tf.matmul(hidden, p["w2"]) + p["b2"]
        error = tf.nn.softmax(logits) - wanted
        back = tf.matmul(error, p["w2"], transpose_b=True) * tf.cast(before > 0, tf.float32)
        # The bias counts as an input of one.
        square = (squares(scaled) + 1.0) * squares(back) + (squares(hidden) + 1.0) * squares(error)
        kept = tf.minimum(1.0, clip / tf.sqrt(tf.maximum(square, LEAST_SQUARE)))
        back, error_kept = back * kept, error * kept
        sums = {
            "w1": tf.matmul(scaled, back, transpose_a=True) + noise_w1,
            "b1": tf.reduce_sum(back, axis=0) + noise_b1,
            "w2": tf.matmul(hidden, error_kept, transpose_a=True) + noise_w2,
            "b2": tf.reduce_sum(error_kept, axis=0) + noise_b2,
        }
        step = lr / tf.cast(tf.shape(y), tf.float32)
        for name, variable in self.weights.items():
            variable.assign(p[name] - step * sums[name])
        return {"loss_sum": cross_entropy_sum(logits, wanted)}

    @tf.function(input_signature=[EXAMPLES, LABELS])
    def evaluate(self, x: Any, y: Any) -> dict[str, Any]:
        """Sums, so that batches and devices can be added up."""
        logits = logits_of(x, self.read())
        hits = tf.cast(tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), y), tf.int32)
        return {
            "correct": tf.reduce_sum(hits, axis=0, keepdims=True),
            "loss_sum": cross_entropy_sum(logits, tf.one_hot(y, CLASSES)),
        }

    @tf.function(input_signature=[EXAMPLES])
    def infer(self, x: Any) -> dict[str, Any]:
        """Probabilities (n, 10)."""
        return {"probabilities": tf.nn.softmax(logits_of(x, self.read()))}

    @tf.function(input_signature=[])
    def get_weights(self) -> dict[str, Any]:
        """Copies: without the addition the interpreter returns the variable's own buffer."""
        return {name: value + 0.0 for name, value in self.read().items()}

    @tf.function(input_signature=WEIGHTS)
    def set_weights(self, w1: Any, b1: Any, w2: Any, b2: Any) -> dict[str, Any]:
        """Replace every weight; returns how many tensors were set."""
        for name, value in {"w1": w1, "b1": b1, "w2": w2, "b2": b2}.items():
            self.weights[name].assign(value)
        return {"tensors": tf.constant([len(PARAMETERS)], tf.int32)}


def convert(module: Any, signatures: tuple[str, ...]) -> bytes:
    """Convert ``module`` with builtin operators only."""
    with tempfile.TemporaryDirectory() as folder:
        concrete = {name: getattr(module, name).get_concrete_function() for name in signatures}
        tf.saved_model.save(module, folder, signatures=concrete)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        return bytes(converter.convert())


def reference_of(start: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> ReferenceGradients:
    """Gradients by TensorFlow's own automatic differentiation, none of the layers above."""
    p = {name: tf.constant(value, tf.float64) for name, value in start.items()}
    with tf.GradientTape() as tape:
        tape.watch(list(p.values()))
        scaled = tf.constant(x, tf.float64) / GREATEST_PIXEL
        logits = tf.nn.relu(scaled @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y.astype(np.int32), logits)
        mean = tf.reduce_mean(losses)
    gradients = tape.gradient(mean, p)
    flat = np.concatenate([gradients[one.name].numpy().ravel() for one in PARAMETERS])
    levels, scales = gradient_levels(flat, PARAMETERS)
    return ReferenceGradients(
        seed=SEED,
        x=TypedArray.of(x),
        y=TypedArray.of(y.astype(np.int32)),
        gradient=TypedArray.of(levels),
        scales=scales,
        loss_sum=float(tf.reduce_sum(losses)),
        correct=int(np.sum(np.argmax(logits.numpy(), axis=1) == y)),
    )


def private_reference_of(start: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> PrivateReference:
    """Lengths of each example's gradient by TensorFlow's own differentiation; half of them are clipped."""
    p = {name: tf.constant(value, tf.float64) for name, value in start.items()}
    norms = []
    for row, label in zip(x, y, strict=True):
        with tf.GradientTape() as tape:
            tape.watch(list(p.values()))
            scaled = tf.constant(row[None], tf.float64) / GREATEST_PIXEL
            logits = tf.nn.relu(scaled @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits([int(label)], logits)
        gradients = tape.gradient(loss, p)
        norms.append(sum(float(tf.reduce_sum(one**2)) for one in gradients.values()) ** 0.5)
    return PrivateReference(clip=float(np.float32(np.median(norms))), norms=tuple(norms))


def main(folder: Path) -> None:
    """Write the three files and print their sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    x, y = digits.data.astype(np.uint8), digits.target.astype(np.uint8)
    order = np.random.default_rng(SEED).permutation(len(x))
    public = np.concatenate([order[y[order] == label][:CALIBRATION_PER_LABEL] for label in range(CLASSES)])
    private = np.setdiff1d(order, public)
    for name, chosen in (("digits.npz", private), ("digits_calibration.npz", public)):
        np.savez_compressed(folder / name, x=x[chosen], y=y[chosen], source=np.array(SOURCE))

    start = split_weights(initial_weights(PARAMETERS, SEED), PARAMETERS)
    signatures = ("train", "train_private", "evaluate", "infer", "get_weights", "set_weights")
    reference_rows = public[:: len(public) // REFERENCE_EXAMPLES][:REFERENCE_EXAMPLES]
    bundle = TaskBundle(
        name=NAME,
        trainable=convert(TrainableDigits(), signatures),
        parameters=PARAMETERS,
        input=INPUT,
        labels=tuple(str(label) for label in range(CLASSES)),
        reference=reference_of(start, x[reference_rows], y[reference_rows]),
        private=private_reference_of(start, x[reference_rows], y[reference_rows]),
    )
    (folder / "digits.task").write_bytes(encode_task(bundle))
    for path in sorted(folder.glob("digits*")):
        print(f"{path.stat().st_size:8,} {path.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
