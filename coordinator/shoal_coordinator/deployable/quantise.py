"""The int8 inference model of a float graph: the same operators, with places for numbers and scales.

Nothing here depends on weights. Every scale that does is left at one, and where it comes from is noted in
``Int8Places``; filling a place changes numbers of the file and no byte else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.deployable.graph import FLOAT32, INT8, INT32, Graph, Operator, Tensor
from shoal_coordinator.deployable.precision import Precision, choose
from shoal_coordinator.deployable.scales import Scales
from shoal_coordinator.deployable.simplify import LAYERS

# The oldest version of each operator whose kernel takes what is written here; a runtime checks no more.
_INT8_VERSIONS = {
    "FULLY_CONNECTED": 4, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "MAX_POOL_2D": 2, "AVERAGE_POOL_2D": 2,
    "ADD": 2, "SUB": 2, "MUL": 2, "SOFTMAX": 2, "LOGISTIC": 2, "TANH": 2, "MEAN": 2, "SUM": 2, "RELU": 2,
    "RELU6": 2, "LEAKY_RELU": 2, "CONCATENATION": 2, "STRIDED_SLICE": 2, "SLICE": 2, "SPLIT": 2, "PAD": 2,
    "SPLIT_V": 2, "TRANSPOSE": 2, "PACK": 2, "UNPACK": 2, "RESIZE_NEAREST_NEIGHBOR": 2, "GATHER": 2,
    "DEQUANTIZE": 2, "REDUCE_MAX": 2, "REDUCE_MIN": 2,
}  # fmt: skip
_HYBRID_VERSIONS = {"FULLY_CONNECTED": 3, "CONV_2D": 5, "DEPTHWISE_CONV_2D": 6}
# Rows of one matrix kept apart, or a layer without bias, are newer than the layer.
_NEWER_FULLY_CONNECTED = 6


@dataclass
class Int8Places:
    """What is to be filled in: tensors of the int8 graph, by what they stand for in the float graph.

    ``symmetric`` weights are quantised around zero, ``asymmetric`` constants between their least and
    greatest value, ``floats`` stay as they are; ``biases`` go with their layer's input and weights, and
    ``rows`` of a table with the table. Activations of one group of ``groups`` (tensors of the float graph)
    share the scale of ``activations``.
    """

    symmetric: dict[Tensor, Tensor] = field(default_factory=dict)
    asymmetric: dict[Tensor, Tensor] = field(default_factory=dict)
    floats: dict[Tensor, Tensor] = field(default_factory=dict)
    biases: dict[Tensor, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    rows: dict[Tensor, Tensor] = field(default_factory=dict)
    activations: dict[Tensor, int] = field(default_factory=dict)
    groups: list[list[Tensor]] = field(default_factory=list)


def quantise(
    graph: Graph, example: Tensor, of_example: set[Tensor], moved: set[Tensor], *, wide_answer: bool
) -> tuple[Graph, Int8Places, dict[Operator, Precision]]:
    """Return the int8 twin of ``graph``, its places, and the precision of each operator of ``graph``."""
    forbidden: set[Operator] = set()
    while True:
        precisions = choose(graph, example, of_example, moved, forbidden, wide_answer=wide_answer)
        scales = Scales(precisions, of_example)
        if not scales.contradicting:
            break
        forbidden |= scales.contradicting
    work = _Quantiser(graph, example, of_example, moved, precisions, scales)
    return work.build(), work.places, precisions


class _Quantiser:
    def __init__(
        self,
        graph: Graph,
        example: Tensor,
        of_example: set[Tensor],
        moved: set[Tensor],
        precisions: Mapping[Operator, Precision],
        scales: Scales,
    ) -> None:
        self.places = Int8Places()
        self._graph, self._example, self._of_example = graph, example, of_example
        self._moved = moved
        self._precisions, self._scales = precisions, scales
        self._made = Graph([], [])
        self._float: dict[Tensor, Tensor] = {}
        self._int8: dict[Tensor, Tensor] = {}
        self._weights: dict[tuple[Tensor, str], Tensor] = {}
        self._groups: dict[Tensor, int] = {}

    def build(self) -> Graph:
        """Return the int8 graph."""
        example = self._example
        if example.dtype == FLOAT32 and self._is_read_as_int8(example):
            self._made.inputs = [self._activation(example)]
            self._made.inputs[0].name = example.name
        else:
            self._made.inputs = [
                self._float.setdefault(example, Tensor(example.shape, example.dtype, example.name))
            ]
        for operator in self._graph.operators:
            if operator.kind == "GATHER" and operator.inputs[0] not in self._of_example | self._moved:
                self._gather(operator)
            elif self._precisions[operator] is Precision.INT8:
                self._narrow(operator)
            else:
                self._wide(operator)
        for answer in self._graph.outputs:
            made = self._int8.get(answer) or self._as_float(answer)
            made.name = answer.name
            self._made.outputs.append(made)
        return self._made

    def _is_read_as_int8(self, tensor: Tensor) -> bool:
        readers = [one for one in self._graph.operators if tensor in one.inputs]
        return any(self._precisions[one] is Precision.INT8 for one in readers)

    def _narrow(self, operator: Operator) -> None:
        """Add ``operator`` with int8 activations."""
        inputs: list[Tensor | None] = []
        for place, tensor in enumerate(operator.inputs):
            if tensor is None or (tensor.dtype != FLOAT32):
                inputs.append(tensor)
            elif tensor in self._of_example:
                inputs.append(self._as_int8(tensor))
            elif operator.kind in LAYERS and place == 1:
                inputs.append(self._symmetric(tensor, operator))
            elif operator.kind in LAYERS:
                inputs.append(None)
            else:
                inputs.append(self._asymmetric(tensor))
        if operator.kind in LAYERS:
            inputs = [*inputs[:2], self._bias(operator, inputs)]
        outputs = [self._activation(one) for one in operator.outputs]
        version = max(operator.version, _INT8_VERSIONS.get(operator.kind, 1))
        self._add(operator, inputs, outputs, version)

    def _wide(self, operator: Operator) -> None:
        """Add ``operator`` with float activations."""
        hybrid = self._precisions[operator] is Precision.HYBRID
        inputs: list[Tensor | None] = []
        for place, tensor in enumerate(operator.inputs):
            if tensor is None or tensor.dtype != FLOAT32:
                inputs.append(
                    tensor if tensor is None or tensor not in self._of_example else self._as_float(tensor)
                )
            elif tensor in self._of_example:
                inputs.append(self._as_float(tensor))
            elif hybrid and place == 1:
                inputs.append(self._symmetric(tensor, operator))
            else:
                inputs.append(self._kept(tensor))
        outputs = [self._fresh_float(one) for one in operator.outputs]
        version = max(operator.version, _HYBRID_VERSIONS[operator.kind] if hybrid else 1)
        self._add(operator, inputs, outputs, version)

    def _gather(self, operator: Operator) -> None:
        """Add a look-up in an int8 table whose rows are read as floats."""
        small = self._symmetric(operator.entry(0), operator)
        row = Tensor(operator.output.shape, INT8, channels=1)
        self.places.rows[row] = small
        rest = [
            self._as_float(one) if one in self._of_example and one is not None else one
            for one in operator.inputs[1:]
        ]
        self._add(operator, [small, *rest], [row], _INT8_VERSIONS["GATHER"])
        self._convert("DEQUANTIZE", row, self._fresh_float(operator.output))

    def _add(
        self, operator: Operator, inputs: list[Tensor | None], outputs: list[Tensor], version: int
    ) -> None:
        if operator.kind == "FULLY_CONNECTED" and (operator.options.keepNumDims or inputs[2] is None):
            version = max(version, _NEWER_FULLY_CONNECTED)
        self._made.operators.append(
            Operator(operator.kind, inputs, outputs, operator.options, operator.options_type, version)
        )

    def _as_float(self, tensor: Tensor) -> Tensor:
        if tensor not in self._float:
            small = self._int8[tensor]
            self._convert("DEQUANTIZE", small, self._fresh_float(tensor))
        return self._float[tensor]

    def _as_int8(self, tensor: Tensor) -> Tensor:
        if tensor not in self._int8:
            self._convert("QUANTIZE", self._float[tensor], self._activation(tensor))
        return self._int8[tensor]

    def _convert(self, kind: str, before: Tensor, after: Tensor) -> None:
        title = kind.title()
        options = getattr(schema, f"{title}OptionsT")()
        number = getattr(schema.BuiltinOptions, f"{title}Options")
        version = _INT8_VERSIONS.get(kind, 1)
        self._made.operators.append(Operator(kind, [before], [after], options, number, version))

    def _fresh_float(self, tensor: Tensor) -> Tensor:
        # Integer tensors of the task itself keep the scales they came with.
        fresh = dataclasses.replace(tensor, name="", data=None)
        self._float[tensor] = fresh
        return fresh

    def _activation(self, tensor: Tensor) -> Tensor:
        """Make the int8 twin of an activation, with the scale that its set has."""
        fresh = Tensor(tensor.shape, INT8, channels=1)
        self._int8[tensor] = fresh
        fixed = self._scales.fixed(tensor)
        if fixed is not None:
            fresh.scales, fresh.zeros = np.array([fixed[0]], np.float32), np.array([fixed[1]], np.int64)
            return fresh
        root = self._scales.root(tensor)
        if root not in self._groups:
            self._groups[root] = len(self.places.groups)
            self.places.groups.append([])
        group = self._groups[root]
        self.places.groups[group].append(tensor)
        self.places.activations[fresh] = group
        return fresh

    def _symmetric(self, tensor: Tensor, operator: Operator) -> Tensor:
        """Make the int8 weights of ``operator``: a scale a channel for convolutions, one for the others."""
        # tflite-runtime 2.14 knows one scale for a fully connected layer, not one a channel.
        by_channel = operator.kind in {"CONV_2D", "DEPTHWISE_CONV_2D"}
        key = (tensor, operator.kind if by_channel else "")
        if key not in self._weights:
            axis = LAYERS[operator.kind] if by_channel else 0
            channels = tensor.shape[axis] if by_channel else 1
            fresh = Tensor(
                tensor.shape, INT8, data=np.zeros(tensor.shape, np.int8), channels=channels, axis=axis
            )
            self._weights[key] = fresh
            self.places.symmetric[fresh] = tensor
        return self._weights[key]

    def _asymmetric(self, tensor: Tensor) -> Tensor:
        key = (tensor, "between")
        if key not in self._weights:
            fresh = Tensor(tensor.shape, INT8, data=np.zeros(tensor.shape, np.int8), channels=1)
            self._weights[key] = fresh
            self.places.asymmetric[fresh] = tensor
        return self._weights[key]

    def _kept(self, tensor: Tensor) -> Tensor:
        if tensor.data is not None:
            return tensor
        key = (tensor, "float")
        if key not in self._weights:
            fresh = Tensor(tensor.shape, FLOAT32, data=np.zeros(tensor.shape, np.float32))
            self._weights[key] = fresh
            self.places.floats[fresh] = tensor
        return self._weights[key]

    def _bias(self, operator: Operator, inputs: list[Tensor | None]) -> Tensor | None:
        """Make the int32 bias of ``operator``, one of its own: its scale follows its layer's input."""
        entry, weights = inputs[:2]
        bias = operator.inputs[2] if len(operator.inputs) > 2 else None
        if bias is None or entry is None or weights is None:
            return None
        fresh = Tensor(bias.shape, INT32, data=np.zeros(bias.shape, np.int32), channels=weights.channels)
        self.places.biases[fresh] = (bias, entry, weights)
        return fresh
