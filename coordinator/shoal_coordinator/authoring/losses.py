"""What a model is trained for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shoal_codecs.wire.task import TargetDescription
from shoal_coordinator.authoring.errors import DescriptionError
from shoal_coordinator.authoring.layer import Shape, Tensor
from shoal_coordinator.authoring.ops import Ops


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy in nats of one label; the last layer gives one logit a label."""

    def target(self, output: Shape, labels: tuple[str, ...]) -> TargetDescription:
        """Return what is learned, given the last layer's ``output`` shape.

        Raises:
            DescriptionError: the last layer gives something else than one logit a label.
        """
        if output != (len(labels),):
            raise DescriptionError(
                f"the last layer gives {output}, the task has {len(labels)} labels: end with "
                f"Dense({len(labels)}), or set labels right"
            )
        return TargetDescription("label")

    def per_example(self, ops: Ops, output: Tensor, y: Tensor) -> Tensor:
        """Return each example's loss (n, 1) of logits (n, labels) and labels ``y`` (n,) int32."""
        return ops.cross_entropy(output, y)


@dataclass(frozen=True)
class MeanSquaredError:
    """Mean of an example's squared errors; ``y`` has the last layer's shape."""

    def target(self, output: Shape, labels: tuple[str, ...]) -> TargetDescription:
        """Return what is learned, given the last layer's ``output`` shape.

        Raises:
            DescriptionError: the task has labels, or the output is a single number without an axis.
        """
        if labels or not math.prod(output):
            raise DescriptionError("MeanSquaredError() learns values: leave labels away")
        return TargetDescription("values", output)

    def per_example(self, ops: Ops, output: Tensor, y: Tensor) -> Tensor:
        """Return each example's loss (n, 1) of ``output`` and ``y``, both (n, ...) float32."""
        return ops.squared_error(output, y)


Loss = CrossEntropy | MeanSquaredError
