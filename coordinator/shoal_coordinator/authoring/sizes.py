"""How many numbers the tensors of a converted graph hold, with a batch of a usual size."""

from __future__ import annotations

import math
from typing import Any

from ai_edge_litert import schema_py_generated as schema

# To weigh what is made of examples against what is made of weights.
_EXAMPLES = 32


def numbers_of(graph: Any, kinds: list[int]) -> list[int]:
    """Return how many numbers each tensor of ``graph`` has, whose operators are of ``kinds``.

    Of a side that is only known with the batch the converter does not say how much of it there is: where it
    is joined with others, it is what was given.
    """
    unknown = [_EXAMPLES] * len(graph.tensors)
    for operator, kind in zip(graph.operators, kinds, strict=True):
        given = [int(one) for one in operator.inputs if one >= 0 and _is_open(graph, one)]
        for place in operator.outputs:
            if not given or not _is_open(graph, place):
                continue
            if kind == schema.BuiltinOperator.RESHAPE:
                whole = _numbers(graph, given[0], unknown[given[0]])
                unknown[place] = max(1, whole // _numbers(graph, place, 1))
            else:
                unknown[place] = unknown[given[0]]
    return [_numbers(graph, place, each) for place, each in enumerate(unknown)]


def _sides(graph: Any, place: int) -> list[int]:
    tensor = graph.tensors[place]
    sides = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    # Of nothing the schema makes no list.
    return [] if sides is None else [int(side) for side in sides]


def _is_open(graph: Any, place: int) -> bool:
    return any(side < 0 for side in _sides(graph, place))


def _numbers(graph: Any, place: int, unknown: int) -> int:
    return math.prod(unknown if side < 0 else side for side in _sides(graph, place))
