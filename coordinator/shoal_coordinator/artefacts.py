"""Deployable float32 and int8 models from a flat weight vector, without TensorFlow.

The numbers of a template's flatbuffer are overwritten in place: weights and biases, and for int8
every scale and zero point that depends on them (affine quantisation as in the LiteRT 8-bit
specification). Activation scales come from running the float model on public calibration examples;
scales measured with other weights ruin the model and are refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from shoal_codecs.wire.task import InputDescription, dimension, split_weights
from shoal_coordinator.artefact_errors import (
    InvalidTemplateError,
    MissingCalibrationError,
    NonFiniteWeightsError,
    StaleScalesError,
    WeightLengthError,
)
from shoal_coordinator.artefact_templates import Templates

Weights = npt.NDArray[np.float32]
_INT8_STEPS = 255
_INT8_LOW = -128
_WEIGHT_LIMIT = 127
# Scales under this make the kernels' fixed-point multipliers underflow; a silent layer gets it.
_SMALLEST_SCALE = 1e-8


class ActivationRanges(msgspec.Struct, frozen=True):
    """Least and greatest value of every activation, and the digest of the weights they belong to.

    ``ranges`` has one (minimum, maximum) for each entry of the int8 template's ``activations``.
    """

    weights_digest: bytes
    examples: int
    ranges: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Artefacts:
    """Both deployable files of one model.

    ``agreement`` is the share of calibration examples, 0 to 1, on which both give the same label.
    """

    float32: bytes
    int8: bytes
    ranges: ActivationRanges
    agreement: float


def make_artefacts(templates: Templates, weights: Weights, calibration: npt.NDArray[Any]) -> Artefacts:
    """Make both deployable files from ``weights`` (D,) and raw ``calibration`` examples (n, ...).

    Raises:
        WeightLengthError, NonFiniteWeightsError: weights that are no model of this task.
        MissingCalibrationError: no examples, or examples of another shape or range.
        InvalidTemplateError: a template the interpreter cannot load or that lacks a place.
    """
    float_model = float_artefact(templates, weights)
    ranges = measure_ranges(templates, weights, calibration)
    int8_model = int8_artefact(templates, weights, ranges)
    same = label_indices(float_model, calibration) == label_indices(int8_model, calibration)
    return Artefacts(float_model, int8_model, ranges, float(np.mean(same)))


def float_artefact(templates: Templates, weights: Weights) -> bytes:
    """Return the float32 .tflite that holds ``weights`` (D,)."""
    parts = _split(templates, weights)
    patch = _Patch(templates.float32.model)
    for place in templates.float32.places:
        values = parts[place.parameter] * np.float32(place.factor)
        patch.set_values(place.tensor, values.T if place.transpose else values)
    return patch.finish()


def measure_ranges(templates: Templates, weights: Weights, calibration: npt.NDArray[Any]) -> ActivationRanges:
    """Run the float model of ``weights`` on raw ``calibration`` examples and keep the extremes."""
    examples = _checked_calibration(templates.input, calibration)
    interpreter = _interpreter(float_artefact(templates, weights), preserve=True)
    tensors = [place.float_tensor for place in templates.int8.activations]
    low = np.zeros(len(tensors))
    high = np.zeros(len(tensors))
    entry = interpreter.get_input_details()[0]["index"]
    for example in examples:
        interpreter.set_tensor(entry, example[None])
        interpreter.invoke()
        for position, tensor in enumerate(tensors):
            values = interpreter.get_tensor(tensor)
            low[position] = min(low[position], values.min())
            high[position] = max(high[position], values.max())
    return ActivationRanges(
        weights_digest=_digest(weights),
        examples=len(examples),
        ranges=tuple(zip(low.tolist(), high.tolist(), strict=True)),
    )


def int8_artefact(templates: Templates, weights: Weights, ranges: ActivationRanges) -> bytes:
    """Return the int8 .tflite of ``weights`` (D,) with scales from ``ranges``.

    Weights are symmetric, activations asymmetric; biases are int32 at the product of their layer's
    input and weight scales, so that the kernels add them unscaled.

    Raises:
        StaleScalesError: ``ranges`` were measured with other weights.
    """
    parts = _split(templates, weights)
    template = templates.int8
    if ranges.weights_digest != _digest(weights) or len(ranges.ranges) != len(template.activations):
        raise StaleScalesError(
            "the activation ranges are of other weights: measure them again with these weights"
        )
    patch = _Patch(template.model)
    about = templates.input
    patch.set_activation(template.input_tensor, about.minimum, about.maximum)
    for activation, (low, high) in zip(template.activations, ranges.ranges, strict=True):
        patch.set_activation(activation.tensor, low, high)
    for place in template.weights:
        values = parts[place.parameter] * np.float32(place.factor)
        patch.set_weights(place.tensor, values.T if place.transpose else values)
    for bias in template.biases:
        patch.set_bias(bias.tensor, parts[bias.parameter], bias.input_tensor, bias.weight_tensor)
    return patch.finish()


def label_indices(model: bytes, examples: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the most probable label (n,) of each raw example (n, ...) under a deployable model."""
    interpreter = _interpreter(model)
    entry, leave = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = entry["quantization"]
    raw = examples.astype(np.float32)
    if scale:
        raw = np.clip(np.rint(raw / scale) + zero, _INT8_LOW, 127).astype(np.int8)
    labels = np.empty(len(raw), np.intp)
    for row, example in enumerate(raw):
        interpreter.set_tensor(entry["index"], example[None])
        interpreter.invoke()
        labels[row] = np.argmax(interpreter.get_tensor(leave["index"]))
    return labels


class _Patch:
    """A private copy of a flatbuffer whose vectors are overwritten in place."""

    def __init__(self, model: bytes) -> None:
        self._data = bytearray(model)
        self._model = schema.Model.GetRootAs(self._data, 0)
        self._graph = self._model.Subgraphs(0)

    def set_values(self, tensor: int, values: npt.NDArray[Any]) -> None:
        """Write ``values``, already of the tensor's dtype, into the tensor's buffer."""
        target = self._tensor(tensor)
        raw = self._model.Buffers(target.Buffer()).DataAsNumpy()
        fresh = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        if isinstance(raw, int) or raw.shape != fresh.shape:
            raise InvalidTemplateError(
                f"tensor {tensor} of the template has no room for its weights: author it again"
            )
        raw[:] = fresh

    def set_activation(self, tensor: int, low: float, high: float) -> None:
        """Set scale and zero point so that int8 covers low to high, zero included exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / _INT8_STEPS, _SMALLEST_SCALE)
        zero = int(np.clip(np.rint(_INT8_LOW - low / scale), _INT8_LOW, 127))
        self._scales(tensor)[:] = scale
        self._tensor(tensor).Quantization().ZeroPointAsNumpy()[:] = zero

    def set_weights(self, tensor: int, values: Weights) -> None:
        """Quantise ``values`` symmetrically, per tensor or per channel as the template has it."""
        scales = self._scales(tensor)
        axis = self._tensor(tensor).Quantization().QuantizedDimension()
        across: tuple[int, ...] | None = None
        if len(scales) > 1:
            across = tuple(one for one in range(values.ndim) if one != axis)
        greatest = np.abs(values).max(axis=across, keepdims=True)
        step = np.maximum(greatest / _WEIGHT_LIMIT, _SMALLEST_SCALE).astype(np.float32)
        scales[:] = step.reshape(-1)
        quantised = np.clip(np.rint(values / step), -_WEIGHT_LIMIT, _WEIGHT_LIMIT)
        self.set_values(tensor, quantised.astype(np.int8))

    def set_bias(self, tensor: int, values: Weights, input_tensor: int, weight_tensor: int) -> None:
        """Quantise a bias to int32 at the scales its layer now has."""
        step = self._scales(input_tensor) * self._scales(weight_tensor)
        self._scales(tensor)[:] = step
        limits = np.iinfo(np.int32)
        quantised = np.clip(np.rint(values / step.astype(np.float64)), limits.min, limits.max)
        self.set_values(tensor, quantised.astype(np.int32))

    def finish(self) -> bytes:
        return bytes(self._data)

    def _tensor(self, index: int) -> Any:
        if not 0 <= index < self._graph.TensorsLength():
            raise InvalidTemplateError(f"the template has no tensor {index}: author it again")
        return self._graph.Tensors(index)

    def _scales(self, tensor: int) -> npt.NDArray[np.float32]:
        quantisation = self._tensor(tensor).Quantization()
        scales: Any = None if quantisation is None else quantisation.ScaleAsNumpy()
        if not isinstance(scales, np.ndarray) or quantisation.ZeroPointIsNone():
            raise InvalidTemplateError(f"tensor {tensor} of the template has no scale: author it again")
        return scales


def _interpreter(model: bytes, *, preserve: bool = False) -> Any:
    # A delegate keeps its intermediate tensors to itself, so none where they are to be read.
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if preserve else OpResolverType.AUTO
    try:
        interpreter = Interpreter(
            model_content=model,
            num_threads=1,
            experimental_op_resolver_type=kernels,
            experimental_preserve_all_tensors=preserve,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InvalidTemplateError(f"the interpreter refuses the model: {error}") from error
    return interpreter


def _split(templates: Templates, weights: Weights) -> dict[str, Weights]:
    expected = dimension(templates.parameters)
    if weights.shape != (expected,):
        raise WeightLengthError(
            f"weights of shape {weights.shape}, task {templates.name} has ({expected},): "
            "use the templates of the task the weights were trained for"
        )
    if not np.isfinite(weights).all():
        raise NonFiniteWeightsError("the weights hold NaN or infinity: release an earlier version")
    return split_weights(weights.astype(np.float32, copy=False), templates.parameters)


def _checked_calibration(about: InputDescription, examples: npt.NDArray[Any]) -> Weights:
    if examples.shape[1:] != about.shape or not len(examples):
        raise MissingCalibrationError(
            f"calibration examples of shape {examples.shape}: give at least one example of shape "
            f"{about.shape} from public data"
        )
    if not (examples >= about.minimum).all() or not (examples <= about.maximum).all():
        raise MissingCalibrationError(
            f"calibration examples outside {about.minimum:g} to {about.maximum:g}: give raw examples"
        )
    return examples.astype(np.float32)


def _digest(weights: Weights) -> bytes:
    return hashlib.sha256(weights.astype("<f4").tobytes()).digest()
