"""In which order a converted graph computes: each value as late as it can be, for what waits is held.

The converter's order follows how a model was written: masks and patches of all layers are made on the way
forward and wait for the way back, and every gradient is there before the first step.
"""

from __future__ import annotations

import math
from typing import Any

from ai_edge_litert import schema_py_generated as schema

_KINDS = schema.BuiltinOperator
# What these give may be what they were given.
SAME_MEMORY = frozenset({_KINDS.RESHAPE, _KINDS.EXPAND_DIMS, _KINDS.SQUEEZE})

_MANY = 1 << 18
# A batch's usual size, to weigh what is made of examples against what is made of weights.
_EXAMPLES = 32


def scheduled(graph: Any, kinds: list[int]) -> list[Any]:
    """Return the operators of ``graph``, one of ``kinds`` each, in an order that holds least.

    A graph that changes no variable stays as it is: it holds little, and artefacts are made of its order.
    """
    if _KINDS.ASSIGN_VARIABLE not in kinds:
        return list(graph.operators)
    return min((list(graph.operators), Order(graph, kinds).operators()), key=lambda one: held(graph, one))


def held(graph: Any, operators: list[Any]) -> int:
    """Return how many numbers are held at once at most, where ``operators`` follow each other."""
    return max(held_along(graph, operators), default=0)


def held_along(graph: Any, operators: list[Any]) -> list[int]:
    """Return how many numbers are held while each of ``operators`` computes."""
    last = {place: number for number, one in enumerate(operators) for place in (*one.inputs, *one.outputs)}
    ends: dict[int, list[int]] = {}
    for place, number in last.items():
        ends.setdefault(number, []).append(place)
    made: set[int] = set()
    now, along = 0, []
    for number, operator in enumerate(operators):
        made.update(operator.outputs)
        now += sum(numbers_of(graph.tensors[place]) for place in operator.outputs)
        along.append(now)
        now -= sum(numbers_of(graph.tensors[place]) for place in ends.get(number, ()) if place in made)
    return along


def numbers_of(tensor: Any) -> int:
    """Return how many numbers ``tensor`` holds, with a batch of a usual size."""
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    return math.prod(_EXAMPLES if side < 0 else int(side) for side in shape)


class Order:
    """The order of a graph's operators, of whose ``kinds`` there is one for each.

    Variables are read before they are assigned as often as they were, by all that uses what was read.
    """

    def __init__(self, graph: Any, kinds: list[int]) -> None:
        self._operators = graph.operators
        self._kinds = kinds
        makers = {place: number for number, one in enumerate(self._operators) for place in one.outputs}
        self._needs = [[makers[place] for place in one.inputs if place in makers] for one in self._operators]
        self._behind_variables()
        self._depths = self._count_depths()
        ends = {number for number, kind in enumerate(kinds) if kind == _KINDS.ASSIGN_VARIABLE}
        ends |= {makers[place] for place in graph.outputs if place in makers}
        self._ends = sorted(ends, key=lambda one: (self._is_large(graph, one), self._depths[one], one))

    def operators(self) -> list[Any]:
        """Return the operators that something is made with, in their order."""
        done: dict[int, None] = {}
        for end in self._ends:
            open_ones = [end]
            while open_ones:
                number = open_ones[-1]
                missing = [one for one in self._needs[number] if one not in done]
                if missing:
                    # The longest way first: what is quickly made would wait for it.
                    open_ones.append(max(missing, key=lambda one: self._depths[one]))
                else:
                    done[open_ones.pop()] = None
        return [self._operators[number] for number in done]

    def _is_large(self, graph: Any, end: int) -> bool:
        """Whether what is assigned is so large that it comes last, when all activations are let go."""
        if self._kinds[end] != _KINDS.ASSIGN_VARIABLE:
            return False
        return math.prod(map(int, graph.tensors[self._operators[end].inputs[1]].shape)) > _MANY

    def _behind_variables(self) -> None:
        """Let assignments wait for whatever uses the variable before, and reads for assignments before."""
        names: dict[int, Any] = {}
        used: dict[Any, set[int]] = {}
        holds: dict[int, Any] = {}
        assigned: dict[Any, int] = {}
        for number, (operator, kind) in enumerate(zip(self._operators, self._kinds, strict=True)):
            if kind == _KINDS.VAR_HANDLE:
                names[operator.outputs[0]] = operator.builtinOptions.sharedName
                continue
            for place in operator.inputs:
                if place in holds:
                    used[holds[place]].add(number)
                    if kind in SAME_MEMORY:
                        holds[operator.outputs[0]] = holds[place]
            if kind == _KINDS.READ_VARIABLE:
                name = names[operator.inputs[0]]
                holds[operator.outputs[0]] = name
                used.setdefault(name, set()).add(number)
                self._needs[number] += [assigned[name]] if name in assigned else []
            elif kind == _KINDS.ASSIGN_VARIABLE:
                name = names[operator.inputs[0]]
                before = {*used.pop(name, set()), *([assigned[name]] if name in assigned else [])}
                self._needs[number] += sorted(before - {number})
                used[name] = set()
                assigned[name] = number

    def _count_depths(self) -> list[int]:
        """Return how many operators each one needs, themselves and theirs."""
        all_of: list[set[int]] = []
        for needs in self._needs:
            found = set(needs)
            for one in needs:
                found |= all_of[one]
            all_of.append(found)
        return [len(one) for one in all_of]
