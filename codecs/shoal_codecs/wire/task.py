"""The task a fleet trains on: the trainable model and all a device must know to train it.

A task reaches devices as one blob, so that a new task needs no new agent. The weights of a model
travel as one flat float32 vector; ``parameters`` says how it is laid out. numpy is imported only
where an array is asked for, so that an idle agent may hold the types.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.task_check import GRADIENT_FOLD, check_task
from shoal_codecs.wire.task_errors import InvalidTaskError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TASK_MAGIC = b"SHTK"
TASK_FORMAT = 3
MAX_TASK_BYTES = 64 << 20
"""Of a task file, packed and unpacked."""
T = TypeVar("T")
DType = Literal["uint8", "int32", "float32"]
StoredDType = Literal["uint8", "int16", "int32", "float32"]
TargetKind = Literal["label", "values"]
Ability = Literal["mu", "seed", "correction"]
Setting = bool | int | float | str | tuple[int, ...] | None
GRADIENT_LEVELS = 32767
GRADIENT_FLOOR = 0.1
"""Of the largest of all: what a parameter is measured by at least, for some gradients are rounding alone."""
REFERENCE_MASK_SEED = 1
"""What ``seed`` is given where the reference's gradient is compared."""
REFERENCE_RATE = 16.0
"""What ``lr`` is given there: a large power of two scales a step exactly and keeps its rounding small."""
_DRAWN_AT_ONCE = 4 * GRADIENT_FOLD
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

    ``initial_mean`` m and ``initial_bound`` b are of the uniform distribution U(m - b, m + b) a fresh model
    draws it from; a bound of 0 means that it starts at m.
    """

    name: str
    shape: tuple[int, ...]
    initial_bound: float = 0.0
    initial_mean: float = 0.0

    @property
    def size(self) -> int:
        """Count of coordinates."""
        return math.prod(self.shape)


class InputDescription(msgspec.Struct, frozen=True):
    """What one raw example looks like, without the batch axis; models scale it themselves.

    The interpreter is fed float32, but tokens (``dtype`` int32) as they are.
    """

    shape: tuple[int, ...]
    dtype: DType
    minimum: float
    maximum: float


class TargetDescription(msgspec.Struct, frozen=True):
    """What is learned of an example, without the batch axis.

    ``label``: y (n,) int32, an index into the task's labels; the loss is cross-entropy in nats.
    ``values``: y (n, *shape) float32; the loss of an example is its mean squared error.
    """

    kind: TargetKind = "label"
    shape: tuple[int, ...] = ()


class TrainingDefaults(msgspec.Struct, frozen=True):
    """The task's default plan: what a round does where the operator's settings do not say otherwise.

    From ``mu`` on, zero and an empty name mean that the task says nothing either.
    """

    epochs: int = 5
    learning_rate: float = 0.2
    batch_size: int = 16
    mu: float = 0.0
    clip_norm: float = 0.0
    kept_share: float = 0.0
    weight_cap: int = 0
    algorithm: str = ""


class ReferenceGradients(msgspec.Struct, frozen=True):
    """What a correct runtime computes from the initial weights that ``seed`` draws.

    ``x`` (n and the input's shape) and ``y`` (n and the target's) are a batch of raw examples; ``loss_sum``
    is their summed loss, ``correct`` how many are right (0 where the target is values), both as ``evaluate``
    finds them. The gradient of their mean loss in training, and the way back from where a step moves what has
    none (running statistics) divided by ``REFERENCE_RATE``, are folded by ``fold_gradient`` and stored as
    ``gradient``, int16 levels within +-``GRADIENT_LEVELS``, times one entry of ``scales`` a parameter.
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


class LayerDescription(msgspec.Struct, frozen=True):
    """One layer, or the optimiser, in plain words: its ``kind`` and ``settings``, as the model kit has them.

    ``name`` begins the names of a layer's parameters.
    """

    kind: str
    name: str = ""
    settings: dict[str, Setting] = {}


class Architecture(msgspec.Struct, frozen=True):
    """How the model computes, for trainers that build it themselves.

    Raw examples enter as (x - ``mean``) / ``deviation``, tokens as they are; the loss is the target's.
    """

    layers: tuple[LayerDescription, ...]
    optimiser: LayerDescription = LayerDescription("sgd")
    mean: float = 0.0
    deviation: float = 1.0


class Variant(msgspec.Struct, frozen=True):
    """A narrower model of the same task, for devices that the full one is too much for (HeteroFL).

    Every parameter has the name of a full one, and is its prefix ``full[:s0, :s1, ...]`` by its own shape.
    ``share`` (0 to 1, exclusive) is the width kept; ``reference`` is of this model and its own weights.
    """

    share: float
    trainable: bytes
    parameters: tuple[Parameter, ...]
    reference: ReferenceGradients
    architecture: Architecture | None = None

    @property
    def dimension(self) -> int:
        """Length of this model's flat weight vector."""
        return dimension(self.parameters)


class TaskBundle(msgspec.Struct, frozen=True):
    """Everything a device downloads to train; deployable models are made of its ``infer``.

    ``trainable`` is a LiteRT flatbuffer. What it holds as its first weights is never used: zeros make the
    file small. Every input has a batch axis or shape (1,). Its signatures, where "weights" are named and
    shaped like ``parameters``:

    - ``train(x, y, lr (1,))`` -> ``loss_sum`` (1,) before the step. One step of the optimiser, which is in
      the graph with its state, on the mean loss. With the ability ``seed`` an input ``seed`` (1,) int32,
      which draws the masks of dropout.
    - With the abilities ``mu`` or ``correction``: ``train_pulled``, the same with the correction added to
      every gradient, and with the ability ``mu`` an input ``mu`` (1,), FedProx's, whose anchor is what
      ``set_weights`` was last given. Apart, for a pull takes a large model's time and
      memory; a file without it takes both in ``train``.
    - ``evaluate(x, y)`` -> ``loss_sum`` (1,), ``correct`` (1,) int32.
    - ``infer(x)`` -> ``probabilities`` (n, labels), or ``values`` (n, *shape).
    - ``get_weights()`` -> weights; ``set_weights(weights)`` -> ``tensors`` (1,) int32; the latter also
      resets the optimiser, FedProx's anchor and the correction.
    - With the ability ``correction``: ``set_correction(weights)`` -> ``tensors`` (1,). What it is given is
      added to every gradient of ``train_pulled`` until the next ``set_weights`` (SCAFFOLD).
    - With a ``private`` reference: ``train_private(x, y, lr, clip (1,), noise_{parameter} ...)`` ->
      ``loss_sum``. It clips each example's gradient and adds the noise it is given to their sum.
    - ``gradients(x, y)`` -> weights: what the reference has a gradient of, there only where the optimiser's
      first step is something else than ``lr`` times its gradient (Adam); with ``seed`` it takes that too.

    ``local`` names parameters that stay on the device by default; ``variants`` are narrower models. Without
    an ``architecture`` (a part of the model is not described by layers) only LiteRT trains it.
    """

    name: str
    trainable: bytes
    parameters: tuple[Parameter, ...]
    input: InputDescription
    labels: tuple[str, ...]
    reference: ReferenceGradients
    target: TargetDescription = TargetDescription()
    defaults: TrainingDefaults = TrainingDefaults()
    abilities: tuple[Ability, ...] = ()
    private: PrivateReference | None = None
    local: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    architecture: Architecture | None = None

    @property
    def dimension(self) -> int:
        """Length D of the flat weight vector."""
        return dimension(self.parameters)

    def variant(self, share: float) -> TaskBundle:
        """Return the variant with this ``share`` as a task of its own.

        Raises:
            InvalidTaskError: there is none.
        """
        for one in self.variants:
            if math.isclose(one.share, share):
                return msgspec.structs.replace(
                    self,
                    trainable=one.trainable,
                    parameters=one.parameters,
                    reference=one.reference,
                    private=None,
                    variants=(),
                    architecture=one.architecture,
                )
        raise InvalidTaskError(
            f"task {self.name} has no variant of share {share:g}: use one of "
            f"{[one.share for one in self.variants]}"
        )


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

    Raw PCG64 words, the stream that numpy keeps for good: the upper 53 bits make u in [-1, 1) exactly, the
    weight is u times the bound plus the mean, each rounded to float64, and then to float32.
    """
    import numpy as np  # noqa: PLC0415 - an idle agent holds the types without numpy

    parameters = tuple(parameters)
    weights = np.empty(dimension(parameters), np.float32)
    views = split_weights(weights, parameters)
    for one, start, values in draw_weights(parameters, seed):
        views[one.name].reshape(-1)[start : start + values.size] = values
    return weights


def draw_weights(
    parameters: Iterable[Parameter], seed: int
) -> Iterator[tuple[Parameter, int, npt.NDArray[np.float32]]]:
    """Yield (parameter, start, values): ``initial_weights`` a piece at a time, parameter by parameter.

    ``values`` are the parameter's coordinates from ``start`` on, in C order; ``start`` is a multiple of
    ``GRADIENT_FOLD``.
    """
    import numpy as np  # noqa: PLC0415 - an idle agent holds the types without numpy

    from shoal_codecs.pcg64 import Pcg64  # noqa: PLC0415 - needs numpy

    bits = Pcg64(seed)
    for one in parameters:
        # A piece at a time: raw words and float64 take four times what they become.
        for start in range(0, one.size, _DRAWN_AT_ONCE):
            raw = bits.random_raw(min(one.size - start, _DRAWN_AT_ONCE))
            unit = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
            # The sum turns the -0.0 of a bound of zero into 0.0.
            yield one, start, (unit * one.initial_bound + one.initial_mean).astype(np.float32)


def folded_sizes(parameters: Iterable[Parameter]) -> list[int]:
    """Return how many entries each parameter has in a folded gradient."""
    return [min(one.size, GRADIENT_FOLD) for one in parameters]


def fold_gradient(gradient: npt.NDArray[Any], parameters: Iterable[Parameter]) -> npt.NDArray[np.float64]:
    """Return ``gradient`` (D,) with each parameter folded into at most ``GRADIENT_FOLD`` entries.

    Entry j of a larger parameter is the sum of its coordinates j, j + GRADIENT_FOLD, ...: every coordinate
    counts, and the reference of a large model stays small.
    """
    return fold_parts(split_weights(gradient, parameters).values())


def fold_parts(parts: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Return what ``fold_gradient`` does, of a gradient that is given parameter by parameter."""
    import numpy as np  # noqa: PLC0415 - an idle agent holds the types without numpy

    folded = []
    for part in parts:
        folded.append(np.zeros(min(part.size, GRADIENT_FOLD)))
        fold_into(folded[-1], part.reshape(-1))
    return np.concatenate(folded)


def fold_into(sums: npt.NDArray[np.float64], values: npt.NDArray[Any]) -> None:
    """Add ``values``, coordinates of a parameter in their order, to its folded ``sums``.

    The first of them has a place that is a multiple of ``GRADIENT_FOLD``.
    """
    whole = values.size // GRADIENT_FOLD * GRADIENT_FOLD
    if whole:
        sums += values[:whole].reshape(-1, GRADIENT_FOLD).sum(axis=0, dtype=sums.dtype)
    sums[: values.size - whole] += values[whole:]


def gradient_levels(
    gradient: npt.NDArray[Any], parameters: Iterable[Parameter]
) -> tuple[npt.NDArray[np.int16], tuple[float, ...]]:
    """Return ``gradient`` (D,), folded, as int16 levels and one scale a parameter, for a reference."""
    import numpy as np  # noqa: PLC0415 - an idle agent holds the types without numpy

    parameters = tuple(parameters)
    levels, scales = [], []
    folded, ends = fold_gradient(gradient, parameters), np.cumsum(folded_sizes(parameters))
    least = float(np.abs(folded).max()) * GRADIENT_FLOOR
    for part in np.split(folded, ends[:-1]):
        scales.append(max(float(np.abs(part).max()), least) / GRADIENT_LEVELS or 1.0)
        levels.append(np.rint(part / scales[-1]).astype(np.int16))
    return np.concatenate(levels), tuple(scales)


def encode_task(bundle: TaskBundle) -> bytes:
    """Encode a checked ``bundle``: magic, format number (1 byte), a MessagePack map in zlib's format.

    Raises:
        InvalidTaskError: parts of the bundle contradict each other.
    """
    check_task(bundle)
    return TASK_MAGIC + bytes([TASK_FORMAT]) + zlib.compress(pack(bundle), 9)


def decode_task(data: bytes, place: object = "") -> TaskBundle:
    """Decode and check a task file; ``place`` is where a person finds it, for the error's text.

    Raises:
        InvalidTaskError: too long, no task, of another format, or parts that contradict each other.
    """
    try:
        bundle = unpack_file(_unzip(data), TaskBundle)
        check_task(bundle)
    except InvalidTaskError as error:
        if not place:
            raise
        raise InvalidTaskError(f"{place}: {error}") from error
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
