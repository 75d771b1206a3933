"""Which activations of an int8 graph share a scale, and which scales the kernels demand."""

from __future__ import annotations

from collections.abc import Mapping

from shoal_coordinator.deployable.graph import Operator, Tensor
from shoal_coordinator.deployable.precision import EXACT, FIXED, Precision, activations


class Scales:
    """Activations that must have one scale, as sets; a set may hold one scale that kernels demand."""

    def __init__(self, precisions: Mapping[Operator, Precision], of_example: set[Tensor]) -> None:
        self._parent: dict[Tensor, Tensor] = {}
        self._fixed: dict[Tensor, tuple[float, int]] = {}
        self.contradicting: set[Operator] = set()
        chosen = [one for one, precision in precisions.items() if precision is Precision.INT8]
        for operator in chosen:
            if operator.kind in FIXED:
                self._fixed[operator.output] = FIXED[operator.kind]
        for operator in chosen:
            if operator.kind in EXACT and not self._join(
                [*activations(operator, of_example), *operator.outputs]
            ):
                self.contradicting.add(operator)

    def root(self, tensor: Tensor) -> Tensor:
        """Return the tensor that stands for the set of ``tensor``."""
        while self._parent.get(tensor, tensor) is not tensor:
            tensor = self._parent[tensor]
        return tensor

    def fixed(self, tensor: Tensor) -> tuple[float, int] | None:
        """Return the scale and zero point that kernels demand of the set of ``tensor``."""
        return self._fixed.get(self.root(tensor))

    def _join(self, tensors: list[Tensor]) -> bool:
        roots = list(dict.fromkeys(self.root(one) for one in tensors))
        demands = {self._fixed[one] for one in roots if one in self._fixed}
        if len(demands) > 1:
            return False
        for one in roots[1:]:
            self._parent[one] = roots[0]
        if demands:
            self._fixed[roots[0]] = demands.pop()
        return True
