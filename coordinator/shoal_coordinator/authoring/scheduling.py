"""In which order a converted graph computes: each value as late as it can be, for what waits is held.

The converter's order follows how a model was written: masks and patches of all layers are made on the way
forward and wait for the way back, and every gradient is there before the first step.
"""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.authoring.sizes import numbers_of

_KINDS = schema.BuiltinOperator
# What these give may be what they were given.
SAME_MEMORY = frozenset({_KINDS.RESHAPE, _KINDS.EXPAND_DIMS, _KINDS.SQUEEZE})

_MANY = 1 << 18


def orders(graph: Any, kinds: list[int]) -> list[list[Any]]:
    """Return orders of the operators of ``graph``, one of ``kinds`` each, of which one may hold least.

    A graph that changes no variable stays as it is: it holds little, and artefacts are made of its order.
    """
    if _KINDS.ASSIGN_VARIABLE not in kinds:
        return [list(graph.operators)]
    order = Order(graph, kinds, numbers_of(graph, kinds))
    return [list(graph.operators), order.operators(), order.operators(eager=True)]


def held(operators: list[Any], sizes: list[int]) -> int:
    """Return how many numbers are held at once at most, where ``operators`` follow each other."""
    return max(held_along(operators, sizes), default=0)


def held_along(operators: list[Any], sizes: list[int]) -> list[int]:
    """Return how many numbers are held while each of ``operators`` computes; ``sizes`` are the tensors'."""
    last = {place: number for number, one in enumerate(operators) for place in (*one.inputs, *one.outputs)}
    ends: dict[int, list[int]] = {}
    for place, number in last.items():
        ends.setdefault(number, []).append(place)
    made: set[int] = set()
    now, along = 0, []
    for number, operator in enumerate(operators):
        made.update(operator.outputs)
        now += sum(sizes[place] for place in operator.outputs)
        along.append(now)
        now -= sum(sizes[place] for place in ends.get(number, ()) if place in made)
    return along


class Order:
    """The order of a graph's operators, of whose ``kinds`` there is one for each.

    Variables are read before they are assigned as often as they were, by all that uses what was read.
    """

    def __init__(self, graph: Any, kinds: list[int], sizes: list[int]) -> None:
        self._operators = graph.operators
        self._kinds = kinds
        self._sizes = sizes
        makers = {place: number for number, one in enumerate(self._operators) for place in one.outputs}
        self._needs = [[makers[place] for place in one.inputs if place in makers] for one in self._operators]
        self._behind_variables()
        self._depths = self._count_depths()
        ends = {number for number, kind in enumerate(kinds) if kind == _KINDS.ASSIGN_VARIABLE}
        ends |= {makers[place] for place in graph.outputs if place in makers}
        self._ends = sorted(ends, key=lambda one: (self._is_large(one), self._depths[one], one))

    def operators(self, *, eager: bool = False) -> list[Any]:
        """Return the operators that something is made with, in their order.

        An ``eager`` order also does at once whatever lets go of as much as it makes.
        """
        done: dict[int, None] = {}
        waiting = _Waiting(self._operators, self._needs, self._wanted(), self._sizes) if eager else None
        for end in self._ends:
            open_ones = [end]
            while open_ones:
                number = open_ones[-1]
                missing = [one for one in self._needs[number] if one not in done]
                if missing:
                    # The longest way first: what is quickly made would wait for it.
                    open_ones.append(max(missing, key=lambda one: self._depths[one]))
                    continue
                open_ones.pop()
                if number not in done:
                    done[number] = None
                    if waiting is not None:
                        done.update(dict.fromkeys(waiting.freed_by(number)))
        return [self._operators[number] for number in done]

    def _wanted(self) -> set[int]:
        """Return the operators that something is made with."""
        found, left = set(self._ends), list(self._ends)
        while left:
            new = set(self._needs[left.pop()]) - found
            found |= new
            left += new
        return found

    def _is_large(self, end: int) -> bool:
        """Whether what is assigned is so large that it comes last, when all activations are let go."""
        if self._kinds[end] != _KINDS.ASSIGN_VARIABLE:
            return False
        value: int = self._operators[end].inputs[1]
        return self._sizes[value] > _MANY

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
        # A bit for each operator: of sets, long sequences would take gigabytes.
        all_of: list[int] = []
        for needs in self._needs:
            found = 0
            for one in needs:
                found |= all_of[one] | 1 << one
            all_of.append(found)
        return [one.bit_count() for one in all_of]


class _Waiting:
    """What can be done at once after an operator, since it lets go of as much as it makes."""

    def __init__(
        self, operators: list[Any], needs: list[list[int]], wanted: set[int], sizes: list[int]
    ) -> None:
        self._operators = operators
        self._sizes = sizes
        self._missing = {number: set(needs[number]) for number in wanted}
        self._after: dict[int, set[int]] = {}
        self._uses: dict[int, int] = {}
        for number in wanted:
            for one in needs[number]:
                self._after.setdefault(one, set()).add(number)
            for place in set(operators[number].inputs):
                self._uses[place] = self._uses.get(place, 0) + 1
        self._made: set[int] = set()
        self._ready: set[int] = set()

    def freed_by(self, number: int) -> list[int]:
        """Note that the operator ``number`` is done; do, and return, what lets go of as much as it makes."""
        self._note(number)
        found: list[int] = []
        while True:
            gains = {one: self._gain(one) for one in self._ready}
            best = max(gains, key=lambda one: (gains[one], -one), default=None)
            if best is None or gains[best] < 0:
                return found
            found.append(best)
            self._note(best)

    def _note(self, number: int) -> None:
        self._ready.discard(number)
        self._made.update(self._operators[number].outputs)
        for place in set(self._operators[number].inputs):
            self._uses[place] -= 1
        for one in self._after.get(number, ()):
            self._missing[one].discard(number)
            if not self._missing[one]:
                self._ready.add(one)

    def _gain(self, number: int) -> int:
        """Return how much less is held when the operator is done."""
        operator = self._operators[number]
        last = [place for place in set(operator.inputs) if place in self._made and self._uses[place] == 1]
        freed, made = (sum(self._sizes[int(place)] for place in one) for one in (last, operator.outputs))
        return freed - made
