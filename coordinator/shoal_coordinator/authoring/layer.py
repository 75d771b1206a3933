"""What every layer can do; see the package for the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from shoal_codecs.wire.task import Parameter
from shoal_coordinator.authoring.errors import LayerShapeError, UnsupportedLayerError

if TYPE_CHECKING:
    from shoal_coordinator.authoring.ops import Ops

Shape = tuple[int, ...]
Tensor = Any
"""A TensorFlow tensor; the batch axis is first and of unknown length."""
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Built:
    """What a layer makes of its input: a shape without the batch axis, and parameters by short names."""

    shape: Shape
    parameters: tuple[Parameter, ...] = ()


@dataclass
class Run:
    """One way through a model: with which operations, and whether in training.

    ``seed`` (1,) int32 draws the masks of dropout, where the task has it. ``moved`` collects the parameters
    that training moves without a gradient, by full names; ``layer`` is whose turn it is.
    """

    ops: Ops
    training: bool = False
    seed: Tensor = None
    layer: str = ""
    moved: dict[str, Tensor] = field(default_factory=dict)

    def move(self, name: str, value: Tensor) -> None:
        """Give the current layer's parameter ``name`` this ``value`` after the step."""
        self.moved[f"{self.layer}_{name}"] = value


@dataclass(frozen=True)
class Layer:
    """A layer's description; subclasses are frozen dataclasses too."""

    name: str = field(default="", kw_only=True)
    """Begins the names of its parameters; the model numbers those that have none (``dense1``)."""

    KIND: ClassVar[str] = "layer"
    NEEDS_SEED: ClassVar[bool] = False
    """Whether training draws masks from ``run.seed``."""
    MOVES: ClassVar[tuple[str, ...]] = ()
    """Short names of the parameters that training hands to ``run.move``; they have no gradient."""
    BY_ROWS: ClassVar[tuple[str, ...]] = ()
    """Short names of the matrices that ``forward`` also takes as ``rows.Rows``, to compute block by block.

    A layer that inherits another's and brings a ``forward`` or ``squares`` of its own gets whole ones.
    """
    DESCRIBED: ClassVar[bool] = True
    """Whether kind and settings say all of it, so that another runtime can build it."""
    TAKES_TOKENS: ClassVar[bool] = False
    """Whether the input is int32, as the raw example is."""

    def __init_subclass__(cls, **settings: Any) -> None:
        """See ``BY_ROWS``."""
        super().__init_subclass__(**settings)
        own = vars(cls)
        if "BY_ROWS" not in own and ("forward" in own or "squares" in own):
            cls.BY_ROWS = ()

    def build(self, shape: Shape) -> Built:
        """Return output shape and parameters for an input of ``shape``, both without the batch axis.

        Raises:
            LayerShapeError: this layer does not take such an input.
            LayerSettingError: a setting that makes no layer.
        """
        raise NotImplementedError

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Return what the layer makes of ``x`` (n, ...) with its parameters ``p`` by short names."""
        raise NotImplementedError

    def parts(self) -> tuple[Layer, ...]:
        """Return the simpler layers this one stands for; itself where there are none."""
        return (self,)

    def squares(self, run: Run, p: Tensors, x: Tensor, dy: Tensor) -> Tensor:  # noqa: ARG002
        """Return the squared L2 length of each example's own gradient of the parameters, (n, 1).

        ``dy`` is the gradient of each example's own loss by the layer's output.

        Raises:
            UnsupportedLayerError: this layer cannot tell.
        """
        raise self.refuse_private()

    def narrow(self, share: float) -> Self:  # noqa: ARG002
        """Return the layer of a model with ``share`` of the width; as it is, where it has no width."""
        return self

    @property
    def title(self) -> str:
        """The layer's name, or its kind before it has one."""
        return self.name or self.KIND

    def named(self, name: str) -> Self:
        """Return the layer with this name."""
        return replace(self, name=name)

    def refuse_private(self) -> UnsupportedLayerError:
        """Return the error that says that DP-SGD does not go with this layer."""
        return UnsupportedLayerError(
            f"{self.title} ({type(self).__name__}) has no gradient for each example, as private=True needs: "
            "leave the layer out, freeze it, or author without private"
        )

    def refuse_shape(self, shape: Shape, wanted: str) -> LayerShapeError:
        """Return the error that says what this layer takes instead of ``shape``."""
        return LayerShapeError(f"{self.title} ({type(self).__name__}) takes {wanted}, not {shape}")
