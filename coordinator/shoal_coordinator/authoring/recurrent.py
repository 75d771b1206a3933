"""Recurrent layers, unrolled over the steps of their input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from shoal_codecs.wire.task import Parameter
from shoal_coordinator.authoring.dense import glorot_bound, narrowed
from shoal_coordinator.authoring.errors import LayerSettingError
from shoal_coordinator.authoring.layer import Built, Layer, Run, Shape, Tensor, Tensors


@dataclass(frozen=True)
class Recurrent(Layer):
    """What GRU and LSTM share: (steps, features) in, the last state out, or with ``sequences`` every state.

    The input's weights ``w`` (features, gates, units), the state's ``u`` (units, gates, units).
    """

    GATES: ClassVar[int]
    units: int
    sequences: bool = False

    def build(self, shape: Shape) -> Built:
        """Take (steps, features), give (units,) or (steps, units)."""
        if len(shape) != 2:
            raise self.refuse_shape(shape, "(steps, features), as Embedding() and windows of a signal are")
        if self.units < 1:
            raise LayerSettingError(f"{self.title}: units is {self.units}, at least 1 is needed")
        steps, features = shape
        if steps < 2:
            raise self.refuse_shape(shape, "at least two steps; use Dense() for one")
        gates, units = self.GATES, self.units
        w = Parameter("w", (features, gates, units), glorot_bound(features, units))
        u = Parameter("u", (units, gates, units), glorot_bound(units, units))
        return Built((steps, units) if self.sequences else (units,), (w, u, *self.biases()))

    def biases(self) -> tuple[Parameter, ...]:
        """Return what is added to the gates."""
        raise NotImplementedError

    def narrow(self, share: float) -> Self:
        """Keep the first units of every gate."""
        return replace(self, units=narrowed(self.units, share))


@dataclass(frozen=True)
class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014): update z, reset r and candidate n.

    z = s(x w_z + b_z + h u_z + c_z), r likewise, n = tanh(x w_n + b_n + r (h u_n + c_n)), and the state
    becomes (1 - z) n + z h: the reset acts after the product, as in cuDNN and PyTorch.
    """

    KIND: ClassVar[str] = "gru"
    GATES: ClassVar[int] = 3

    def biases(self) -> tuple[Parameter, ...]:
        """Return ``b`` beside the input's product and ``c`` beside the state's, (3, units) each."""
        return Parameter("b", (3, self.units)), Parameter("c", (3, self.units))

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Walk through the steps."""
        return run.ops.gru(x, p["w"], p["u"], p["b"], p["c"], last=not self.sequences)


@dataclass(frozen=True)
class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000).

    Gates i (input), f (forget) and o (output) are s(x w + h u + b), the candidate g = tanh of the same; the
    cell becomes f c + i g and the state o tanh(cell).
    """

    KIND: ClassVar[str] = "lstm"
    GATES: ClassVar[int] = 4

    def biases(self) -> tuple[Parameter, ...]:
        """Return ``b`` (4, units)."""
        return (Parameter("b", (4, self.units)),)

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Walk through the steps."""
        return run.ops.lstm(x, p["w"], p["u"], p["b"], last=not self.sequences)
