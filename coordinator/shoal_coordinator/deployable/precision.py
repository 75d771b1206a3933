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
        "CONCATENATION", "REDUCE_MAX", "REDUCE_MIN", "PACK", "UNPACK", "MAX_POOL_2D", "AVERAGE_POOL_2D",
        "REVERSE_V2", "RESIZE_NEAREST_NEIGHBOR",
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
    answers = _said_wide(graph, of_example) if wide_answer else set[Tensor]()
    forbidden = forbidden | {one for one in graph.operators if one.kind in FIXED and one.output in answers}
    work = _Chooser(graph, example, of_example, answers)
    work.begin(forbidden, moved)
    while work.leave_alone():
        pass
    for operator in graph.operators:
        if operator.kind in LAYERS and work.found[operator] is Precision.INT8:
            blind = moved.intersection([*activations(operator, of_example), *operator.outputs])
            if blind or work.stands_between(operator):
                work.found[operator] = Precision.HYBRID
    return work.found


class _Chooser:
    """Precisions ``found`` so far; ``answers`` are the tensors that are wanted as float."""

    def __init__(self, graph: Graph, example: Tensor, of_example: set[Tensor], answers: set[Tensor]) -> None:
        self.found: dict[Operator, Precision] = {}
        self._operators = graph.operators
        self._outputs = set(graph.outputs)
        self._example, self._of_example, self._answers = example, of_example, answers
        self._consumers = graph.consumers()
        self._maker = {tensor: one for one in graph.operators for tensor in one.outputs}

    def begin(self, forbidden: set[Operator], moved: set[Tensor]) -> None:
        """Let all compute in int8 that may."""
        for one in self._operators:
            fits = one not in forbidden and _may(one, self._of_example, moved)
            self.found[one] = Precision.INT8 if fits else Precision.FLOAT

    def leave_alone(self) -> bool:
        """Let operators stay float that stand alone between float ones; return whether there were some."""
        alone = [
            one
            for one, precision in self.found.items()
            if precision is Precision.INT8 and one.kind not in LAYERS and self._is_alone(one)
        ]
        self.found.update(dict.fromkeys(alone, Precision.FLOAT))
        return bool(alone)

    def stands_between(self, layer: Operator) -> bool:
        """Tell whether ``layer`` is read as float alone, and reads float or makes a wide answer."""
        wide = bool(self._answers.intersection(layer.outputs))
        return (wide or all(self._reads_float(layer))) and self._read_as_float(layer)

    def _is_alone(self, operator: Operator) -> bool:
        before = self._reads_float(operator)
        if operator.kind in EXACT:
            return all(before) or self._read_as_float(operator)
        return any(before) or any(self.found[one] is Precision.FLOAT for one in self._readers(operator))

    def _reads_float(self, operator: Operator) -> list[bool]:
        """Tell of each activation that ``operator`` reads whether it is float."""
        found = []
        for tensor in activations(operator, self._of_example):
            maker = self._maker.get(tensor)
            found.append(maker is not None and self.found[maker] is Precision.FLOAT)
        return found

    def _read_as_float(self, operator: Operator) -> bool:
        """Tell whether nothing reads the outputs of ``operator`` as int8."""
        said = self._outputs.intersection(operator.outputs) - self._answers
        return not said and all(self.found[one] is Precision.FLOAT for one in self._readers(operator))

    def _readers(self, operator: Operator) -> list[Operator]:
        return [one for tensor in operator.outputs for one in self._consumers.get(tensor, [])]


def _said_wide(graph: Graph, of_example: set[Tensor]) -> set[Tensor]:
    """Return the answers, and what they are mere copies or probabilities of."""
    found = set(graph.outputs)
    for operator in reversed(graph.operators):
        if operator.kind in EXACT | FIXED.keys() and operator.output in found:
            found.update(activations(operator, of_example))
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
