"""The inference models of a task with places for weights: made once by the author, filled per release.

A template is an ordinary .tflite file, never sent to a device. Filling it changes numbers in place
and no byte else, so two releases differ only where the model does.
"""

import msgspec

from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.task import InputDescription, Parameter, unpack_file
from shoal_codecs.wire.task_check import check_flatbuffer, check_parameters
from shoal_codecs.wire.task_errors import InvalidTaskError
from shoal_coordinator.artefact_errors import InvalidTemplateError

TEMPLATES_FORMAT = 1


class WeightPlace(msgspec.Struct, frozen=True):
    """Where one parameter goes: ``factor * parameter``, transposed if said so, into ``tensor``.

    ``factor`` folds the scaling of raw inputs into the first layer.
    """

    parameter: str
    tensor: int
    transpose: bool = False
    factor: float = 1.0


class BiasPlace(msgspec.Struct, frozen=True):
    """Where an int32 bias goes; its scale is the product of its layer's input and weight scales."""

    parameter: str
    tensor: int
    input_tensor: int
    weight_tensor: int


class ActivationPlace(msgspec.Struct, frozen=True):
    """An int8 activation and the tensor of the float model that holds the same values."""

    tensor: int
    float_tensor: int


class FloatTemplate(msgspec.Struct, frozen=True):
    """The float32 inference model: raw examples in, probabilities out."""

    model: bytes
    places: tuple[WeightPlace, ...]


class Int8Template(msgspec.Struct, frozen=True):
    """The int8 inference model; ``input_tensor`` is scaled from the input's declared range."""

    model: bytes
    input_tensor: int
    weights: tuple[WeightPlace, ...]
    biases: tuple[BiasPlace, ...]
    activations: tuple[ActivationPlace, ...]


class Templates(msgspec.Struct, frozen=True):
    """Both inference models of the task ``name``, and the weights' layout they were made for."""

    name: str
    parameters: tuple[Parameter, ...]
    input: InputDescription
    float32: FloatTemplate
    int8: Int8Template
    format: int = TEMPLATES_FORMAT


def encode_templates(templates: Templates) -> bytes:
    """Encode checked ``templates`` as a MessagePack map.

    Raises:
        InvalidTemplateError: parts contradict each other.
    """
    _check(templates)
    return pack(templates)


def decode_templates(data: bytes) -> Templates:
    """Decode and check a template file.

    Raises:
        InvalidTemplateError: no template file, or parts that contradict each other.
    """
    try:
        templates = unpack_file(data, Templates)
    except InvalidTaskError as error:
        raise InvalidTemplateError(str(error)) from error
    _check(templates)
    return templates


def _check(templates: Templates) -> None:
    if templates.format != TEMPLATES_FORMAT:
        raise InvalidTemplateError(
            f"template format {templates.format}, this coordinator reads {TEMPLATES_FORMAT}: "
            "author the task again"
        )
    try:
        check_parameters(templates.parameters)
        check_flatbuffer(templates.float32.model, "the float template")
        check_flatbuffer(templates.int8.model, "the int8 template")
    except InvalidTaskError as error:
        raise InvalidTemplateError(str(error)) from error
    names = sorted(one.name for one in templates.parameters)
    placed_float = sorted(one.parameter for one in templates.float32.places)
    placed_int8 = sorted(
        [one.parameter for one in templates.int8.weights] + [one.parameter for one in templates.int8.biases]
    )
    if not names == placed_float == placed_int8:
        raise InvalidTemplateError(
            "every parameter needs exactly one place in each template: author the task again"
        )
