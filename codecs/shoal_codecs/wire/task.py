"""The task a fleet trains on: the trainable model and all a device must know to train it.

A task reaches devices as one blob, so that a new task needs no new agent. The weights of a model
travel as one flat float32 vector; ``parameters`` says how it is laid out. numpy is imported only
where an array is asked for, so that an idle agent may hold the types.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.task_errors import InvalidTaskError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TASK_MAGIC = b"SHTK"
TASK_FORMAT = 2
MAX_TASK_BYTES = 64 << 20
"""Of a task file, packed and unpacked."""
MAX_DIMENSION = 1 << 26
MAX_SEED = 1 << 64
FLATBUFFER_IDENTIFIER = b"TFL3"
T = TypeVar("T")
DType = Literal["uint8", "int32", "float32"]
StoredDType = Literal["uint8", "int16", "int32", "float32"]
GRADIENT_LEVELS = 32767
_ITEM_BYTES: dict[StoredDType, int] = {"uint8": 1, "int16": 2, "int32": 4, "float32": 4}


class TypedArray(msgspec.Struct, frozen=True):
    """An array as raw little-endian bytes in C order."""

    dtype: StoredDType
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> TypedArray:
        """Hold a copy of ``values``, which must be uint8, int16, int32 or float32."""
        little = values.astype(values.dtype.newbyteorder("<"))
        name: Any = values.dtype.name
        if name not in _ITEM_BYTES:
            raise InvalidTaskError(f"a task holds no {name} arrays: use one of {list(_ITEM_BYTES)}")
        return cls(dtype=name, shape=values.shape, data=little.tobytes())

    def numpy(self) -> npt.NDArray[Any]:
        """Return the array, read-only, in its own shape and dtype."""
        import numpy as np  # noqa: PLC0415 - an idle agent holds the types without numpy

        return np.frombuffer(self.data, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)

    def check(self, label: str) -> None:
        """Raise InvalidTaskError unless the bytes fill the shape exactly."""
        if any(side < 0 for side in self.shape):
            raise InvalidTaskError(f"{label} has a negative side in {self.shape}: author the task again")
        expected = math.prod(self.shape) * _ITEM_BYTES[self.dtype]
        if len(self.data) != expected:
            raise InvalidTaskError(
                f"{label} holds {len(self.data)} bytes, its shape {expected}: author the task again"
            )


class Parameter(msgspec.Struct, frozen=True):
    """One trained tensor: a slice of the flat weight vector, in C order.

    ``initial_bound`` is b of the uniform distribution U(-b, b) a fresh model draws it from; 0 means
    that it starts at zero.
    """

    name: str
    shape: tuple[int, ...]
    initial_bound: float = 0.0

    @property
    def size(self) -> int:
        """Count of coordinates."""
        return math.prod(self.shape)


class InputDescription(msgspec.Struct, frozen=True):
    """What one raw example looks like, without the batch axis; models scale it themselves."""

    shape: tuple[int, ...]
    dtype: DType
    minimum: float
    maximum: float


class TrainingDefaults(msgspec.Struct, frozen=True):
    """How a device trains where the round's plan does not say otherwise."""

    epochs: int = 5
    learning_rate: float = 0.2
    batch_size: int = 16


class ReferenceGradients(msgspec.Struct, frozen=True):
    """What a correct runtime computes from the initial weights that ``seed`` draws.

    ``x`` (n and the input's shape) and ``y`` (n,) int32 are a batch of raw examples; ``loss_sum`` is their
    summed loss in nats. The gradient of their mean loss is ``gradient`` (D,), int16 levels within
    +-``GRADIENT_LEVELS``, times one entry of ``scales`` a parameter.
    """

    seed: int
    x: TypedArray
    y: TypedArray
    gradient: TypedArray
    scales: tuple[float, ...]
    loss_sum: float
    correct: int


class PrivateReference(msgspec.Struct, frozen=True):
    """What a correct runtime computes in ``train_private``, on the batch and weights of the gradients.

    ``norms`` (n,) are the L2 lengths of each example's gradient, ``clip`` is one that shortens some of them.
    """

    clip: float
    norms: tuple[float, ...]


class TaskBundle(msgspec.Struct, frozen=True):
    """Everything a device downloads to train; the deployable templates stay at the coordinator.

    ``trainable`` is a LiteRT flatbuffer with the signatures train, evaluate, infer, get_weights and
    set_weights; its weights are inputs and outputs named like ``parameters``. What it holds as their first
    values is never used: zeros make the file small. With a ``private`` reference it has ``train_private``
    too, which clips each example's gradient and adds the noise it is given (``noise_`` and a parameter's
    name).
    """

    name: str
    trainable: bytes
    parameters: tuple[Parameter, ...]
    input: InputDescription
    labels: tuple[str, ...]
    reference: ReferenceGradients
    defaults: TrainingDefaults = TrainingDefaults()
    private: PrivateReference | None = None

    @property
    def dimension(self) -> int:
        """Length D of the flat weight vector."""
        return dimension(self.parameters)


def dimension(parameters: Iterable[Parameter]) -> int:
    """Return the length of the flat weight vector that ``parameters`` describe."""
    return sum(parameter.size for parameter in parameters)


def split_weights(
    vector: npt.NDArray[np.float32], parameters: Iterable[Parameter]
) -> dict[str, npt.NDArray[np.float32]]:
    """Return views of the flat ``vector`` (D,) by parameter name, each in its own shape."""
    views: dict[str, npt.NDArray[np.float32]] = {}
    start = 0
    for parameter in parameters:
        views[parameter.name] = vector[start : start + parameter.size].reshape(parameter.shape)
        start += parameter.size
    return views


def initial_weights(parameters: Iterable[Parameter], seed: int) -> npt.NDArray[np.float32]:
    """Draw the weights (D,) float32 of a fresh model; the same seed gives the same bits on every machine.

    Raw PCG64 words, whose stream numpy keeps for good: the upper 53 bits make u in [-1, 1) exactly, the
    weight is u times the bound, rounded once to float64 and once to float32.
    """
    import numpy as np  # noqa: PLC0415 - an idle agent holds the types without numpy

    bits = np.random.PCG64(seed)
    draws = []
    for one in parameters:
        unit = (bits.random_raw(one.size) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
        # The sum turns the -0.0 of a bound of zero into 0.0.
        draws.append((unit * one.initial_bound + 0.0).astype(np.float32))
    return np.concatenate(draws)


def gradient_levels(
    gradient: npt.NDArray[Any], parameters: Iterable[Parameter]
) -> tuple[npt.NDArray[np.int16], tuple[float, ...]]:
    """Return ``gradient`` (D,) as int16 levels (D,) and one scale a parameter, for ``ReferenceGradients``."""
    import numpy as np  # noqa: PLC0415 - an idle agent holds the types without numpy

    levels, scales = [], []
    for part in split_weights(gradient, parameters).values():
        scales.append(float(np.abs(part).max()) / GRADIENT_LEVELS or 1.0)
        levels.append(np.rint(part.ravel() / scales[-1]).astype(np.int16))
    return np.concatenate(levels), tuple(scales)


def check_parameters(parameters: tuple[Parameter, ...]) -> None:
    """Raise InvalidTaskError unless ``parameters`` describe one flat vector of sensible length."""
    names = {parameter.name for parameter in parameters}
    if not parameters or len(names) != len(parameters):
        raise InvalidTaskError("a task needs at least one parameter, each with a name of its own")
    if any(side < 1 for parameter in parameters for side in parameter.shape):
        raise InvalidTaskError("every side of a parameter is at least 1: author the task again")
    if any(not 0 <= parameter.initial_bound < math.inf for parameter in parameters):
        raise InvalidTaskError("initial_bound is a finite number of at least 0: author the task again")
    if dimension(parameters) > MAX_DIMENSION:
        raise InvalidTaskError(f"a task has at most {MAX_DIMENSION} weights: author a smaller one")


def check_flatbuffer(model: bytes, label: str) -> None:
    """Raise InvalidTaskError unless ``model`` begins like a LiteRT flatbuffer."""
    if len(model) < 8 or model[4:8] != FLATBUFFER_IDENTIFIER:
        raise InvalidTaskError(f"{label} is no .tflite file (TFL3): author the task again")


def check_task(bundle: TaskBundle) -> None:
    """Raise InvalidTaskError where parts of ``bundle`` contradict each other."""
    check_parameters(bundle.parameters)
    check_flatbuffer(bundle.trainable, "the trainable model")
    about = bundle.input
    if any(side < 1 for side in about.shape) or not about.minimum < about.maximum:
        raise InvalidTaskError("the input needs positive sides and a minimum under its maximum: mend it")
    if not math.isfinite(about.minimum) or not math.isfinite(about.maximum):
        raise InvalidTaskError("the input's minimum and maximum are finite numbers: author the task again")
    if len(bundle.labels) < 2:
        raise InvalidTaskError("a task needs at least two labels: author the task again")
    preset = bundle.defaults
    if preset.epochs < 1 or preset.batch_size < 1 or not 0 < preset.learning_rate < math.inf:
        raise InvalidTaskError("epochs, batch_size and learning_rate must be above zero: mend the defaults")
    _check_reference(bundle)


def _check_reference(bundle: TaskBundle) -> None:
    reference = bundle.reference
    for label in ("x", "y", "gradient"):
        getattr(reference, label).check(f"reference {label}")
    count = math.prod(reference.y.shape)
    fits = (
        count > 0
        and reference.y.shape == (count,)
        and reference.y.dtype == "int32"
        and reference.x.shape == (count, *bundle.input.shape)
        and reference.x.dtype == bundle.input.dtype
        and reference.gradient.shape == (bundle.dimension,)
        and reference.gradient.dtype == "int16"
        and len(reference.scales) == len(bundle.parameters)
        and all(0 < scale < math.inf for scale in reference.scales)
        and 0 <= reference.seed < MAX_SEED
    )
    if not fits:
        raise InvalidTaskError("the reference gradients are of another model: author the task again")
    private = bundle.private
    if private is None:
        return
    lengths = (private.clip, *private.norms)
    if len(private.norms) != count or not all(0 < one < math.inf for one in lengths):
        raise InvalidTaskError(
            "a private reference has a clip norm and a length for each example, all above zero: "
            "author the task again"
        )


def encode_task(bundle: TaskBundle) -> bytes:
    """Encode a checked ``bundle``: magic, format number (1 byte), a MessagePack map in zlib's format.

    Raises:
        InvalidTaskError: parts of the bundle contradict each other.
    """
    check_task(bundle)
    return TASK_MAGIC + bytes([TASK_FORMAT]) + zlib.compress(pack(bundle), 9)


def decode_task(data: bytes) -> TaskBundle:
    """Decode and check a task file.

    Raises:
        InvalidTaskError: too long, no task, of another format, or parts that contradict each other.
    """
    bundle = unpack_file(_unzip(data), TaskBundle)
    check_task(bundle)
    return bundle


def _check_size(data: bytes) -> None:
    if len(data) > MAX_TASK_BYTES:
        raise InvalidTaskError(
            f"{len(data)} bytes, a task file has at most {MAX_TASK_BYTES}: take a smaller one"
        )


def _unzip(data: bytes) -> bytes:
    _check_size(data)
    begin = len(TASK_MAGIC) + 1
    if len(data) < begin or not data.startswith(TASK_MAGIC):
        raise InvalidTaskError("no task file: fetch it again, or author it again if it is of an older Shoal")
    if data[begin - 1] != TASK_FORMAT:
        raise InvalidTaskError(
            f"task format {data[begin - 1]}, this party reads {TASK_FORMAT}: update the agent"
        )
    inflater = zlib.decompressobj()
    try:
        packed = inflater.decompress(memoryview(data)[begin:], MAX_TASK_BYTES + 1)
    except zlib.error as error:
        raise InvalidTaskError(f"a damaged task file ({error}): fetch it again") from error
    if len(packed) <= MAX_TASK_BYTES and (not inflater.eof or inflater.unused_data):
        raise InvalidTaskError("a task file that is cut short, or has bytes after its end: fetch it again")
    return packed


def unpack_file(data: bytes, kind: type[T]) -> T:
    """Decode a file of one task into ``kind``.

    Raises:
        InvalidTaskError: too long, or no such file.
    """
    _check_size(data)
    try:
        return unpack(data, kind)
    except (MalformedMessageError, msgspec.ValidationError) as error:
        raise InvalidTaskError(f"no {kind.__name__}: {error}; fetch the file again") from error
