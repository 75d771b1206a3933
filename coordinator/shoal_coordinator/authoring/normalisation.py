"""Batch normalisation, whose running statistics move without a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shoal_codecs.wire.task import Parameter
from shoal_coordinator.authoring.errors import LayerSettingError
from shoal_coordinator.authoring.layer import Built, Layer, Run, Shape, Tensor, Tensors


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Each channel to mean 0 and variance 1 over the batch, times ``g``, plus ``b`` (Ioffe and Szegedy 2015).

    Outside training the running ``mean`` and ``variance`` stand for the batch's; a training step moves them
    by 1 - ``momentum`` towards it. They are parameters, and travel; named in a task's ``local`` they stay on
    the device (FedBN, Li et al. 2021). The variance is the biased one. DP-SGD is refused: the batch's
    statistics mix examples. Use LayerNorm there.
    """

    KIND: ClassVar[str] = "batch_norm"
    MOVES: ClassVar[tuple[str, ...]] = ("mean", "variance")
    momentum: float = 0.9
    epsilon: float = 1e-3

    def build(self, shape: Shape) -> Built:
        """Take (..., channels), give the same."""
        if not shape:
            raise self.refuse_shape(shape, "(..., channels)")
        if not 0 <= self.momentum < 1 or not self.epsilon > 0:
            raise LayerSettingError(
                f"{self.title}: momentum {self.momentum}, epsilon {self.epsilon}; momentum is 0 to 1 "
                "(exclusive), epsilon above 0"
            )
        channels = shape[-1:]
        return Built(
            shape,
            (
                Parameter("g", channels, initial_mean=1.0),
                Parameter("b", channels),
                Parameter("mean", channels),
                Parameter("variance", channels, initial_mean=1.0),
            ),
        )

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Normalise by the batch in training, and by what is remembered otherwise."""
        if not run.training:
            return run.ops.normalise(x, p["g"], p["b"], p["mean"], p["variance"], self.epsilon)
        y, mean, variance = run.ops.batch_norm(x, p["g"], p["b"], self.epsilon)
        for name, seen in (("mean", mean), ("variance", variance)):
            run.move(name, p[name] * self.momentum + seen * (1 - self.momentum))
        return y
