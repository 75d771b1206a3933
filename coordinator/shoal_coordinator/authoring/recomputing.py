"""What a training step computes a second time on its way back, instead of holding it from its way forward.

What a layer gave is held until its gradient is made, although most of it is quickly made of something else
that is held as well: what a norm gives and an activation lets through, of the normalised input (Chen et al.
2016, "Training deep nets with sublinear memory cost", section 3, does so with such operators).
"""

from __future__ import annotations

import copy
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.authoring.scheduling import SAME_MEMORY, held_along
from shoal_coordinator.authoring.sizes import numbers_of

_KINDS = schema.BuiltinOperator
# One pass over what they are given, in fast kernels.
_QUICK = frozenset(
    {_KINDS.ADD, _KINDS.SUB, _KINDS.MUL, _KINDS.RELU, _KINDS.MINIMUM, _KINDS.CEIL, _KINDS.RESHAPE}
)
# How many operators one value may take again.
_MOST = 3
# What is smaller than this share of all that is held is held for nothing.
_SMALL = 1 / 128


def recomputed(graph: Any, kinds: list[int]) -> list[Any]:
    """Return the operators of ``graph``, one of ``kinds`` each, some a second time, so that less is held.

    The graph gets tensors for what they give. One that changes no variable stays as it is.
    """
    operators = list(graph.operators)
    if _KINDS.ASSIGN_VARIABLE not in kinds:
        return operators
    kind_of = {one.opcodeIndex: kind for one, kind in zip(operators, kinds, strict=True)}
    sizes = numbers_of(graph, kinds)
    late = _small_assigned_last(operators, kind_of, sizes)
    while (relieved := _Steps(graph, late, kind_of, sizes).relieved()) is not None:
        operators = late = relieved
    return operators


def _small_assigned_last(operators: list[Any], kind_of: dict[int, int], sizes: list[int]) -> list[Any]:
    """Return ``operators`` with small variables assigned at the end: until then they are what they were."""
    most = max(held_along(operators, sizes))
    names = _names(operators, kind_of)
    read_again, assigned = set(), set()
    for one in operators:
        kind = kind_of[one.opcodeIndex]
        if kind == _KINDS.ASSIGN_VARIABLE:
            assigned.add(names[one.inputs[0]])
        elif kind == _KINDS.READ_VARIABLE and names[one.inputs[0]] in assigned:
            read_again.add(names[one.inputs[0]])

    def waits(one: Any) -> bool:
        if kind_of[one.opcodeIndex] != _KINDS.ASSIGN_VARIABLE or names[one.inputs[0]] in read_again:
            return False
        value: int = one.inputs[1]
        return sizes[value] < _SMALL * most

    return sorted(operators, key=waits)


def _names(operators: list[Any], kind_of: dict[int, int]) -> dict[int, Any]:
    """Return the variables' names by the places of what stands for them."""
    handles = [one for one in operators if kind_of[one.opcodeIndex] == _KINDS.VAR_HANDLE]
    return {one.outputs[0]: one.builtinOptions.sharedName for one in handles}


class _Steps:
    """The steps of a graph, and what each needs and gives; values are known by their tensors' places."""

    def __init__(self, graph: Any, operators: list[Any], kind_of: dict[int, int], sizes: list[int]) -> None:
        self._graph, self._operators, self._kind_of = graph, operators, kind_of
        self._sizes = sizes
        self._makers = {place: at for at, one in enumerate(operators) for place in one.outputs}
        self._uses: dict[int, list[int]] = {}
        for at, one in enumerate(operators):
            for place in one.inputs:
                self._uses.setdefault(place, []).append(at)
        self._along = held_along(operators, sizes)
        self._names = _names(operators, kind_of)
        self._assigned = {
            self._names[one.inputs[0]]: at
            for at, one in enumerate(operators)
            if self._kind(at) == _KINDS.ASSIGN_VARIABLE
        }

    def relieved(self) -> list[Any] | None:
        """Return the steps with one value made again after where most is held; None if none helps."""
        most = max(self._along)
        peak = self._along.index(most)
        waiting = [place for place, at in self._makers.items() if at < peak and self._waits(place, peak)]
        for place in sorted(waiting, key=lambda one: -self._sizes[one]):
            if self._is_small(place):
                break
            start = next(at for at in self._uses[place] if at > peak)
            chain = self._chain(place, start)
            if chain is None or len(chain) > _MOST:
                continue
            tensors = len(self._graph.tensors)
            again = self._again(chain, start)
            if max(held_along(again, self._sizes)) < most:
                return again
            del self._graph.tensors[tensors:], self._sizes[tensors:]
        return None

    def _kind(self, at: int) -> int:
        return self._kind_of[self._operators[at].opcodeIndex]

    def _waits(self, place: int, peak: int) -> bool:
        uses = self._uses.get(place, [])
        return peak not in uses and bool(uses) and uses[-1] > peak

    def _is_small(self, place: int) -> bool:
        return self._sizes[place] < _SMALL * max(self._along)

    def _chain(self, place: int, start: int) -> list[int] | None:
        """Return the steps that make ``place`` of what is there at ``start``; None where none may."""
        maker = self._makers[place]
        if self._kind(maker) not in _QUICK:
            return None
        steps: list[int] = []
        for given in self._operators[maker].inputs:
            if given not in self._makers:
                continue
            if self._uses[given][-1] >= start or self._is_small(given):
                if not self._is_still(given, start):
                    return None
                continue
            found = self._chain(given, start)
            if found is None:
                return None
            steps += [one for one in found if one not in steps]
        return [*steps, maker]

    def _is_still(self, place: int, start: int) -> bool:
        """Whether ``place`` is at ``start`` what it was: what was read of a variable changes with it."""
        maker = self._makers[place]
        while self._kind(maker) in SAME_MEMORY and self._operators[maker].inputs[0] in self._makers:
            maker = self._makers[self._operators[maker].inputs[0]]
        if self._kind(maker) != _KINDS.READ_VARIABLE:
            return True
        return self._assigned.get(self._names[self._operators[maker].inputs[0]], start) >= start

    def _again(self, chain: list[int], start: int) -> list[Any]:
        """Return all steps with those of ``chain`` again before ``start``; later ones get what those give."""
        renamed: dict[int, int] = {}
        copies = []
        for at in chain:
            one = self._renamed(self._operators[at], renamed)
            for place in one.outputs:
                renamed[place] = len(self._graph.tensors)
                tensor = copy.copy(self._graph.tensors[place])
                tensor.name = tensor.name + b"_again"
                self._graph.tensors.append(tensor)
                self._sizes.append(self._sizes[place])
            one.outputs = [renamed[place] for place in one.outputs]
            copies.append(one)
        later = [self._renamed(one, renamed) for one in self._operators[start:]]
        return [*self._operators[:start], *copies, *later]

    @staticmethod
    def _renamed(operator: Any, renamed: dict[int, int]) -> Any:
        one = copy.copy(operator)
        one.inputs = [renamed.get(place, place) for place in operator.inputs]
        return one
