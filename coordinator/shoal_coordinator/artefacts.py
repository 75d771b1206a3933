"""Deployable float32 and int8 models from a flat weight vector, without TensorFlow.

The templates come from the task file alone (``deployable``); filling them overwrites numbers in place.
Activation scales come from running the float model on public calibration examples; scales measured with
other weights ruin the model and are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from shoal_codecs.ota.own_places import OwnPlace, OwnPlaces, split_own_places, with_own_places
from shoal_codecs.wire.task import InputDescription, decode_task, split_weights
from shoal_coordinator.artefact_errors import (
    InvalidTemplateError,
    MissingCalibrationError,
    NonFiniteWeightsError,
    StaleScalesError,
    WeightLengthError,
)
from shoal_coordinator.deployable.patch import INT8_HIGH, INT8_LOW, Patch
from shoal_coordinator.deployable.templates import Place, Preparation, Templates, make_templates

Weights = npt.NDArray[np.float32]


class ActivationRanges(msgspec.Struct, frozen=True):
    """Least and greatest value of every group of activations, and the digest of the weights they belong to.

    ``ranges`` has one (minimum, maximum) for each entry of the int8 template's ``groups``.
    """

    weights_digest: bytes
    examples: int
    ranges: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Artefacts:
    """Both deployable files of one model.

    ``agreement``, 0 to 1, of the two on the calibration examples: the share that gets the same label; for
    a task of values 1 less the mean distance between them, in standard deviations of what float answers.
    """

    float32: bytes
    int8: bytes
    ranges: ActivationRanges
    agreement: float


def templates_of_file(path: Path, local: tuple[str, ...] = ()) -> Templates:
    """Return the templates of the task file at ``path``, whose parameters ``local`` stay on devices.

    Those of the last file are kept.

    Raises:
        LocalParameterError: the task does not have the parameters ``local``.
        InvalidTaskError, InvalidTemplateError, UnsupportedGraphError: none can be made of it.
    """
    try:
        return _templates(path.read_bytes(), local)
    except OSError as error:
        raise InvalidTemplateError(
            f"cannot read the task {path} ({error.strerror}): mend the setting task"
        ) from error


@lru_cache(maxsize=1)
def _templates(task: bytes, local: tuple[str, ...]) -> Templates:
    return make_templates(decode_task(task), local)


def make_artefacts(templates: Templates, weights: Weights, calibration: npt.NDArray[Any]) -> Artefacts:
    """Make both deployable files from ``weights`` (D,) and raw ``calibration`` examples (n, ...).

    Raises:
        WeightLengthError, NonFiniteWeightsError: weights that are no model of this task.
        MissingCalibrationError: no examples, or examples of another shape or range.
        InvalidTemplateError: a template the interpreter cannot load or that lacks a place.
    """
    examples = _checked_calibration(templates.input, calibration)
    float_model = float_artefact(templates, weights)
    ranges = measure_ranges(templates, weights, examples)
    int8_model = int8_artefact(templates, weights, ranges)
    agreement = _agreement(
        answers(float_model, examples), answers(int8_model, examples), labels=templates.labels
    )
    return Artefacts(float_model, int8_model, ranges, agreement)


def float_artefact(templates: Templates, weights: Weights) -> bytes:
    """Return the float32 .tflite that holds ``weights`` (D,)."""
    values = _values(templates, weights)
    patch = Patch(templates.float32.model)
    for place in templates.float32.places:
        patch.set_values(place.tensor, values[place.source])
    return _finished(templates, patch, templates.float32.places)


def measure_ranges(templates: Templates, weights: Weights, calibration: npt.NDArray[Any]) -> ActivationRanges:
    """Run the float model of ``weights`` on raw ``calibration`` examples and keep the extremes."""
    examples = _checked_calibration(templates.input, calibration)
    interpreter = _interpreter(float_artefact(templates, weights), preserve=True)
    groups = templates.int8.groups
    extremes = np.zeros((len(groups), 2))
    entry = interpreter.get_input_details()[0]["index"]
    for example in examples:
        interpreter.set_tensor(entry, example[None])
        interpreter.invoke()
        for row, tensors in enumerate(groups):
            for tensor in tensors:
                values = interpreter.get_tensor(tensor)
                extremes[row, 0] = min(extremes[row, 0], values.min())
                extremes[row, 1] = max(extremes[row, 1], values.max())
    about, own = templates.input, templates.int8.example_group
    if own >= 0 and about.dtype == "uint8":
        # Of whole numbers every one of the declared range may come; of floats those that did.
        extremes[own] = min(extremes[own, 0], about.minimum), max(extremes[own, 1], about.maximum)
    return ActivationRanges(
        weights_digest=_digest(weights),
        examples=len(examples),
        ranges=tuple((low, high) for low, high in extremes.tolist()),
    )


def int8_artefact(templates: Templates, weights: Weights, ranges: ActivationRanges) -> bytes:
    """Return the int8 .tflite of ``weights`` (D,) with scales from ``ranges``.

    Weights are symmetric, activations asymmetric; biases are int32 at the product of their layer's
    input and weight scales, so that the kernels add them unscaled.

    Raises:
        StaleScalesError: ``ranges`` were measured with other weights.
    """
    values = _values(templates, weights)
    template = templates.int8
    if ranges.weights_digest != _digest(weights) or len(ranges.ranges) != len(template.groups):
        raise StaleScalesError(
            "the activation ranges are of other weights: measure them again with these weights"
        )
    patch = Patch(template.model)
    for tensor, group in template.activations:
        patch.set_activation(tensor, *ranges.ranges[group])
    for place in template.symmetric:
        patch.set_symmetric(place.tensor, values[place.source])
    for place in template.asymmetric:
        patch.set_asymmetric(place.tensor, values[place.source])
    for place in template.floats:
        patch.set_values(place.tensor, values[place.source])
    for row, table in template.rows:
        patch.copy_scale(row, table)
    for bias in template.biases:
        patch.set_bias(bias.tensor, values[bias.source], bias.input_tensor, bias.weight_tensor)
    return _finished(templates, patch, template.floats)


def answers(model: bytes, examples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return what a deployable model answers, (n, ...), to raw examples (n, ...): probabilities or values."""
    interpreter = _interpreter(model)
    entry, leave = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = entry["quantization"]
    raw = examples.astype(np.int32 if entry["dtype"] == np.int32 else np.float32)
    if scale:
        raw = np.clip(np.rint(raw / scale) + zero, INT8_LOW, INT8_HIGH).astype(np.int8)
    found = np.empty((len(raw), *leave["shape"][1:]), np.float32)
    for row, example in enumerate(raw):
        interpreter.set_tensor(entry["index"], example[None])
        interpreter.invoke()
        found[row] = interpreter.get_tensor(leave["index"])[0]
    scale, zero = leave["quantization"]
    return (found - np.float32(zero)) * np.float32(scale) if scale else found


def label_indices(model: bytes, examples: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the most probable label (n,) of each raw example (n, ...) under a deployable model."""
    labels: npt.NDArray[np.intp] = answers(model, examples).argmax(axis=-1)
    return labels


def _agreement(wide: npt.NDArray[np.float32], narrow: npt.NDArray[np.float32], *, labels: bool) -> float:
    if labels:
        return float(np.mean(wide.argmax(axis=-1) == narrow.argmax(axis=-1)))
    spread = max(float(wide.std()), float(np.finfo(np.float32).tiny))
    return max(0.0, 1.0 - float(np.abs(wide - narrow).mean()) / spread)


def _interpreter(model: bytes, *, preserve: bool = False) -> Any:
    # A delegate keeps its intermediate tensors to itself, so none where they are to be read.
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if preserve else OpResolverType.AUTO
    try:
        interpreter = Interpreter(
            model_content=split_own_places(model)[0],
            num_threads=1,
            experimental_op_resolver_type=kernels,
            experimental_preserve_all_tensors=preserve,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InvalidTemplateError(f"the interpreter refuses the model: {error}") from error
    return interpreter


def _finished(templates: Templates, patch: Patch, floats: Iterable[Place]) -> bytes:
    """Return the filled file, with the places for a device's own tensors where it has some."""
    if not templates.part.local:
        return patch.finish()
    preparation = templates.own_preparation or Preparation(b"", (), ())
    places = [(one.source, *patch.where(one.tensor)) for one in floats if one.source in templates.own_sources]
    own = OwnPlaces(
        parameters=templates.part.own,
        places=tuple(OwnPlace(*one) for one in places),
        preparation=preparation.model,
        inputs=preparation.inputs,
        outputs=preparation.outputs,
    )
    return with_own_places(patch.finish(), own)


def _values(templates: Templates, weights: Weights) -> dict[str, Weights]:
    """Return the value of every source: parameters, what the preparation makes of them, constants."""
    expected = templates.part.dimension
    if weights.shape != (expected,):
        raise WeightLengthError(
            f"weights of shape {weights.shape}, task {templates.name} has ({expected},): "
            "use the templates of the task the weights were trained for"
        )
    if not np.isfinite(weights).all():
        raise NonFiniteWeightsError("the weights hold NaN or infinity: release an earlier version")
    values = split_weights(weights.astype(np.float32, copy=False), templates.part.shared) | templates.own
    if templates.preparation is not None:
        values |= _prepared(templates.preparation, values)
    return values | templates.constants


def _prepared(preparation: Preparation, values: dict[str, Weights]) -> dict[str, Weights]:
    interpreter = _interpreter(preparation.model)
    for detail, name in zip(interpreter.get_input_details(), preparation.inputs, strict=True):
        interpreter.set_tensor(detail["index"], values[name])
    interpreter.invoke()
    details = interpreter.get_output_details()
    return {
        name: interpreter.get_tensor(detail["index"])
        for name, detail in zip(preparation.outputs, details, strict=True)
    }


def _checked_calibration(about: InputDescription, examples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if examples.shape[1:] != about.shape or not len(examples):
        raise MissingCalibrationError(
            f"calibration examples of shape {examples.shape}: give at least one example of shape "
            f"{about.shape} from public data"
        )
    if not (examples >= about.minimum).all() or not (examples <= about.maximum).all():
        raise MissingCalibrationError(
            f"calibration examples outside {about.minimum:g} to {about.maximum:g}: give raw examples"
        )
    return examples.astype(np.int32 if about.dtype == "int32" else np.float32)


def _digest(weights: Weights) -> bytes:
    return hashlib.sha256(weights.astype("<f4").tobytes()).digest()
