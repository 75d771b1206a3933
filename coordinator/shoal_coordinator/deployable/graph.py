"""A LiteRT graph as plain objects, to be changed; tensors are compared by identity."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.artefact_errors import UnsupportedGraphError

FLOAT32: int = schema.TensorType.FLOAT32
INT32: int = schema.TensorType.INT32
INT8: int = schema.TensorType.INT8
DTYPES: dict[int, str] = {
    schema.TensorType.FLOAT32: "<f4",
    schema.TensorType.INT32: "<i4",
    schema.TensorType.INT64: "<i8",
    schema.TensorType.INT16: "<i2",
    schema.TensorType.INT8: "i1",
    schema.TensorType.UINT8: "u1",
    schema.TensorType.BOOL: "?",
}


@dataclass(eq=False)
class Tensor:
    """One value of a graph; ``data`` of a constant, the quantisation of an integer one.

    ``channels`` is how many scales it has, along ``axis``; 0 for none.
    """

    shape: tuple[int, ...]
    dtype: int = FLOAT32
    name: str = ""
    data: npt.NDArray[Any] | None = None
    channels: int = 0
    axis: int = 0
    scales: npt.NDArray[np.float32] | None = None
    zeros: npt.NDArray[np.int64] | None = None

    @property
    def size(self) -> int:
        """Count of elements."""
        return math.prod(self.shape)


@dataclass(eq=False)
class Operator:
    """One builtin operator; ``inputs`` may leave optional ones out as None."""

    kind: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: Any = None
    options_type: int = 0
    version: int = 1

    @property
    def output(self) -> Tensor:
        """The first output, for most operators the only one."""
        return self.outputs[0]

    @property
    def bias(self) -> Tensor | None:
        """The third input, which of a layer is its bias; None without one."""
        return self.inputs[2] if len(self.inputs) > 2 else None

    def entry(self, place: int) -> Tensor:
        """Return the input at ``place``.

        Raises:
            UnsupportedGraphError: it is left out.
        """
        tensor = self.inputs[place] if place < len(self.inputs) else None
        if tensor is None:
            raise UnsupportedGraphError(
                f"the operator {self.kind} lacks its input {place}: author the task again"
            )
        return tensor


@dataclass
class Graph:
    """Operators in the order they run, between ``inputs`` and ``outputs``."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    operators: list[Operator] = field(default_factory=list)

    def consumers(self) -> dict[Tensor, list[Operator]]:
        """Return the operators that read each tensor."""
        found: dict[Tensor, list[Operator]] = {}
        for operator in self.operators:
            for tensor in dict.fromkeys(operator.inputs):
                if tensor is not None:
                    found.setdefault(tensor, []).append(operator)
        return found

    def insert_before(self, anchor: Operator, fresh: Operator) -> None:
        """Let ``fresh`` run right before ``anchor``."""
        self.operators.insert(self.operators.index(anchor), fresh)

    def replace_uses(self, old: Tensor, new: Tensor) -> None:
        """Let everything that reads ``old`` read ``new``."""
        for operator in self.operators:
            operator.inputs = [new if one is old else one for one in operator.inputs]
        self.outputs = [new if one is old else one for one in self.outputs]

    def drop_unused(self) -> None:
        """Remove the operators that no output depends on."""
        wanted = set(self.outputs)
        kept = []
        for operator in reversed(self.operators):
            if wanted.intersection(operator.outputs):
                kept.append(operator)
                wanted.update(one for one in operator.inputs if one is not None)
        self.operators = kept[::-1]


def constant(values: npt.NDArray[Any], name: str = "") -> Tensor:
    """Return a constant float32, int32 or int8 tensor."""
    kind = next(number for number, text in DTYPES.items() if np.dtype(text) == values.dtype)
    return Tensor(values.shape, kind, name, np.ascontiguousarray(values))
