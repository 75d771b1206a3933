"""The layers of a description put together: names, shapes, and where each parameter belongs."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from numbers import Integral

import msgspec

from shoal_codecs.wire.task import Parameter
from shoal_coordinator.authoring.dense import Activation
from shoal_coordinator.authoring.errors import DescriptionError, LayerSettingError, UnsupportedLayerError
from shoal_coordinator.authoring.layer import Built, Layer, Run, Shape, Tensor, Tensors
from shoal_coordinator.authoring.pooling import MaxPool
from shoal_coordinator.authoring.rows import parameter_of
from shoal_coordinator.authoring.scale import Scale

_MOST_CHARACTERS = 200
# TensorFlow names variables so.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
MIXING = frozenset({"flatten", "reshape"})
# Equal entries behind them, from others that were not, get no gradient.
_KEEPING_ORDER = frozenset({"relu", "relu6"})


@dataclass(frozen=True)
class Placed:
    """A layer in its model: input and output shape without the batch axis, parameters by full names."""

    layer: Layer
    entry: Shape
    exit: Shape
    parameters: tuple[Parameter, ...]

    @property
    def name(self) -> str:
        """The layer's name in its model."""
        return self.layer.name

    @property
    def title(self) -> str:
        """Name and kind, for whoever reads an error."""
        return f"{self.name} ({type(self.layer).__name__})"

    def own(self, p: Tensors) -> dict[str, Tensor]:
        """Return this layer's tensors of ``p`` by their short names."""
        start = len(self.name) + 1
        return {one.name[start:]: parameter_of(p, one.name) for one in self.parameters}


@dataclass(frozen=True)
class Model:
    """A chain of layers, each with a name of its own."""

    placed: tuple[Placed, ...]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters by full names, in the order of the flat weight vector."""
        return tuple(parameter for one in self.placed for parameter in one.parameters)

    @property
    def output(self) -> Shape:
        """Shape of what the last layer gives, without the batch axis."""
        return self.placed[-1].exit

    @property
    def seeded(self) -> bool:
        """Whether training draws masks."""
        return any(one.layer.NEEDS_SEED for one in self.placed)

    @property
    def moved(self) -> frozenset[str]:
        """Full names of the parameters that training moves without a gradient."""
        return frozenset(f"{one.name}_{name}" for one in self.placed for name in one.layer.MOVES)

    @property
    def by_rows(self) -> frozenset[str]:
        """Full names of the matrices that their layers take as ``Rows``."""
        return frozenset(f"{one.name}_{name}" for one in self.placed for name in one.layer.BY_ROWS)

    @property
    def _pooled_first(self) -> tuple[Placed, ...]:
        order = list(self.placed)
        for place, (one, after) in enumerate(pairwise(self.placed)):
            growing = isinstance(one.layer, Activation) and one.layer.function in _KEEPING_ORDER
            if growing and isinstance(after.layer, MaxPool):
                order[place : place + 2] = [after, one]
        return tuple(order)

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Return the last layer's output for ``x`` (n, ...) with parameters ``p`` by full names."""
        output = x
        for _, output in self.walk(run, p, x):  # noqa: B007 - the last one is wanted
            pass
        return output

    def walk(self, run: Run, p: Tensors, x: Tensor) -> Iterable[tuple[Placed, Tensor]]:
        """Yield each layer with its output, in order.

        Where nothing fuses activations, a max pool comes before the one it follows: the largest entry stays
        the largest, and fewer are left.
        """
        for one in self._pooled_first if run.ops.products else self.placed:
            run.layer = one.name
            x = one.layer.forward(run, one.own(p), x)
            yield one, x


def build_model(layers: Iterable[Layer], shape: Shape, *, frozen: bool = False) -> Model:
    """Return the model of ``layers`` for examples of ``shape``; a ``frozen`` one may have no parameters.

    Raises:
        LayerShapeError, LayerSettingError: layers that do not fit together, or cannot be.
        UnsupportedLayerError: something that is no layer of the kit.
        DescriptionError: no layers, no parameters, names that are none, or two of one name.
    """
    placed = []
    for layer in _named(layers):
        built = _built(layer, shape)
        parameters = tuple(
            msgspec.structs.replace(one, name=f"{layer.name}_{one.name}") for one in built.parameters
        )
        placed.append(Placed(layer, shape, built.shape, parameters))
        shape = built.shape
    model = Model(tuple(placed))
    _check_names("parameter", [one.name for one in model.parameters])
    if not (model.parameters or frozen):
        raise DescriptionError("no layer has a parameter to train: add a Dense layer at the end")
    return model


def _built(layer: Layer, shape: Shape) -> Built:
    """Return what ``layer`` makes of ``shape``; a setting of a kind that it cannot use is named."""
    try:
        built = layer.build(shape)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise LayerSettingError(
            f"{layer.title}: {_written(layer)} cannot be built on {shape} ({type(error).__name__}: {error}): "
            "give each setting a value of its kind"
        ) from error
    sides: tuple[object, ...] = built.shape
    if not all(isinstance(side, Integral) and int(side) > 0 for side in sides):
        raise LayerSettingError(
            f"{layer.title}: {_written(layer)} gives {built.shape}: sides are whole numbers of at least 1"
        )
    return built


def _written(layer: Layer) -> str:
    """Return a layer about as its author wrote it."""
    settings = (f"{one.name}={getattr(layer, one.name)!r}" for one in fields(layer) if one.name != "name")
    return f"{type(layer).__name__}({', '.join(settings)[:_MOST_CHARACTERS]})"


def narrow_layers(layers: Iterable[Layer], share: float) -> list[Layer]:
    """Return the layers of a model with ``share`` of the width; what it gives stays (HeteroFL).

    Before the next layer with a width of its own what a narrower one gave is scaled up, so that it adds up to
    what the full one's output does: behind normalisation, whose statistics all widths share.
    """
    wide = list(layers)
    end = max((place for place, one in enumerate(wide) if not isinstance(one, Activation)), default=0)
    narrow: list[Layer] = []
    fewer = False
    for layer in wide[:end]:
        thin = layer.narrow(share)
        if thin != layer:
            narrow += [Scale(1 / share)] if fewer else []
            fewer = True
        narrow.append(thin)
    return [*narrow, *([Scale(1 / share)] if fewer else []), *wide[end:]]


def check_narrow(full: Model, narrow: Model, share: float) -> None:
    """Refuse a narrower model whose weights are no prefixes of the full one's.

    Raises:
        DescriptionError: channels are flattened together with places, so that the first features are not
            those of the first channels.
    """
    wide = {one.name: one.entry for one in full.placed}
    for one in narrow.placed:
        entry = wide.get(one.name, one.entry)
        if one.layer.KIND in MIXING and one.entry != entry and math.prod(entry[:-1]) > 1:
            raise DescriptionError(
                f"{one.name} mixes channels with places, so that {share:g} of the channels is no first part "
                "of its features: put a global pooling layer there, or leave widths away"
            )


def _named(layers: Iterable[Layer]) -> list[Layer]:
    simple: list[Layer] = []
    for number, layer in enumerate(layers, start=1):
        if not isinstance(layer, Layer):
            raise UnsupportedLayerError(
                f"layer {number} is a {type(layer).__name__}: use the layers of "
                "shoal_coordinator.authoring, whose gradients convert"
            )
        simple.extend(layer.parts())
    counts: Counter[str] = Counter()
    named = []
    for layer in simple:
        counts[layer.KIND] += 1
        named.append(layer if layer.name else replace(layer, name=f"{layer.KIND}{counts[layer.KIND]}"))
    _check_names("layer", [one.name for one in named])
    return named


def _check_names(what: str, names: list[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or names.count(name) > 1:
            raise DescriptionError(
                f"{what} name {name!r} is none, or given twice: give each {what} another, a letter of a to z "
                "and then letters, digits and _"
            )
