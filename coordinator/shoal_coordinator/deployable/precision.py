"""Which operators of an inference graph compute in int8, and which stay in float.

The rules of the LiteRT 8-bit quantisation specification decide what may be int8. What loses accuracy there
stays float: products of two activations (the gates of GRU and LSTM), roots and quotients (layer norm), and
what stands alone between such operators. Layers between float operators keep int8 weights and quantise
their input while they run ("hybrid" kernels).
"""

from __future__ import annotations

from enum import Enum

from shoal_coordinator.deployable.graph import FLOAT32, Graph, Operator, Tensor
from shoal_coordinator.deployable.simplify import LAYERS

MOST_SIDES = 4
"""Of tensors that int8 kernels of every runtime broadcast."""


class Precision(Enum):
    """How one operator computes."""

    FLOAT = "float"
    HYBRID = "int8 weights, float activations"
    INT8 = "int8"


# Copies or picks of values: input and output have one scale.
EXACT = frozenset(
    {
        "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "STRIDED_SLICE", "SLICE", "SPLIT", "SPLIT_V", "TRANSPOSE", "PAD",
        "CONCATENATION", "PACK", "UNPACK", "MAX_POOL_2D", "AVERAGE_POOL_2D", "REVERSE_V2",
        "RESIZE_NEAREST_NEIGHBOR",
    }
)  # fmt: skip
# New values at a scale of their own.
SCALED = frozenset({"ADD", "SUB", "MUL", "MEAN", "SUM", "RELU", "RELU6", "LEAKY_RELU"})
# New values at the scale (a power of two) and zero point that the kernels demand.
FIXED: dict[str, tuple[float, int]] = {
    "SOFTMAX": (1 / 256, -128),
    "LOGISTIC": (1 / 256, -128),
    "TANH": (1 / 128, 0),
}
# Of two activations these lose more than the rest of a model.
_PRODUCTS = frozenset({"MUL", "SUB"})


def choose(
    graph: Graph,
    example: Tensor,
    of_example: set[Tensor],
    moved: set[Tensor],
    forbidden: set[Operator],
    *,
    wide_answer: bool,
) -> dict[Operator, Precision]:
    """Return the precision of each operator of ``graph``.

    ``of_example`` are the activations; ``moved`` is all that depends on a device's own parameters: nobody can
    measure its range, or quantise it, before the device has put them in; ``forbidden`` operators stay float.
    ``wide_answer`` asks for an answer of more than 256 steps.
    """
    consumers = graph.consumers()
    maker = {tensor: one for one in graph.operators for tensor in one.outputs}
    answers = set(graph.outputs)
    found = {
        one: Precision.INT8 if one not in forbidden and _may(one, of_example, moved) else Precision.FLOAT
        for one in graph.operators
    }

    def is_float(tensor: Tensor) -> bool:
        operator = maker.get(tensor)
        if operator is None:
            return example.dtype != FLOAT32 or tensor is not example
        return found[operator] is Precision.FLOAT

    def all_read_as_float(operator: Operator) -> bool:
        readers = [one for tensor in operator.outputs for one in consumers.get(tensor, [])]
        answer = bool(answers.intersection(operator.outputs))
        return all(found[one] is Precision.FLOAT for one in readers) and (wide_answer or not answer)

    def lonely(operator: Operator) -> bool:
        before = [is_float(one) for one in activations(operator, of_example)]
        if operator.kind in EXACT:
            return all(before) or all_read_as_float(operator)
        readers = [one for tensor in operator.outputs for one in consumers.get(tensor, [])]
        return any(before) or any(found[one] is Precision.FLOAT for one in readers)

    changed = True
    while changed:
        changed = False
        for operator, precision in found.items():
            if precision is Precision.INT8 and operator.kind not in LAYERS and lonely(operator):
                found[operator], changed = Precision.FLOAT, True
    for operator in graph.operators:
        if operator.kind not in LAYERS or found[operator] is Precision.FLOAT:
            continue
        blind = bool(moved.intersection([*activations(operator, of_example), *operator.outputs]))
        last = wide_answer and bool(answers.intersection(operator.outputs))
        between = all(is_float(one) for one in activations(operator, of_example)) or last
        if blind or (between and all_read_as_float(operator)):
            found[operator] = Precision.HYBRID
    return found


def activations(operator: Operator, of_example: set[Tensor]) -> list[Tensor]:
    """Return the inputs of ``operator`` that depend on the example and are numbers."""
    return [one for one in operator.inputs if one is not None and one in of_example and one.dtype == FLOAT32]


def _may(operator: Operator, of_example: set[Tensor], moved: set[Tensor]) -> bool:
    """Tell whether ``operator`` has int8 kernels, and loses little in them."""
    inside = activations(operator, of_example)
    if (
        not inside
        or moved.intersection(set(operator.inputs) - of_example)
        or any(one.dtype != FLOAT32 for one in operator.outputs)
    ):
        return False
    if operator.kind in LAYERS:
        return inside == operator.inputs[:1]
    if moved.intersection([*inside, *operator.outputs]):
        return False
    if any(len(one.shape) > MOST_SIDES for one in (*inside, *operator.outputs)):
        return False
    numbers = [one for one in operator.inputs if one is not None and one.dtype == FLOAT32]
    if operator.kind in EXACT:
        return len(numbers) == len(inside)
    if operator.kind in _PRODUCTS:
        return len(inside) == 1
    return operator.kind in SCALED or operator.kind in FIXED
