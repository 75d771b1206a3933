"""Large weights read again where they are used again, and not kept in between.

To the fast kernels reading a variable is copying it. The way back uses the weights of the way forward: their
copy would be held through all that is between.
"""

from __future__ import annotations

import copy
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.authoring.sizes import numbers_of

_KINDS = schema.BuiltinOperator
# 256 KiB: less is not worth a copy.
_LARGE = 1 << 16
# So many operators between two uses make another copy the cheaper way.
_FAR = 32


def reread(graph: Any, kinds: list[int]) -> list[Any]:
    """Return the operators of ``graph``, one of ``kinds`` each, with large variables read anew for late uses.

    The graph gets tensors for what is read again.
    """
    sizes = numbers_of(graph, kinds)
    handles = [one for one, kind in zip(graph.operators, kinds, strict=True) if kind == _KINDS.VAR_HANDLE]
    names = {one.outputs[0]: one.builtinOptions.sharedName for one in handles}
    readers: dict[int, Any] = {}
    now: dict[int, int] = {}
    used: dict[int, int] = {}
    changed: set[Any] = set()
    order: list[Any] = []
    for number, (operator, kind) in enumerate(zip(graph.operators, kinds, strict=True)):
        for place in readers.keys() & set(operator.inputs):
            far = number - used.get(place, number) > _FAR
            if far and names[readers[place].inputs[0]] not in changed:
                order.append(_copied(graph, readers[place]))
                now[place] = order[-1].outputs[0]
            used[place] = number
        operator.inputs = [now.get(place, place) for place in operator.inputs]
        if kind == _KINDS.READ_VARIABLE and sizes[operator.outputs[0]] >= _LARGE:
            readers[operator.outputs[0]] = operator
        if kind == _KINDS.ASSIGN_VARIABLE:
            changed.add(names[operator.inputs[0]])
        order.append(operator)
    return order


def _copied(graph: Any, reader: Any) -> Any:
    """Return an operator that reads the same variable into a tensor of its own."""
    fresh, tensor = copy.copy(reader), copy.copy(graph.tensors[reader.outputs[0]])
    tensor.name += b"_again"
    fresh.outputs = [len(graph.tensors)]
    graph.tensors.append(tensor)
    return fresh
