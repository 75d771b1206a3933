"""What is read or computed a second time: late, large, and only while the variable is what it was."""

from __future__ import annotations

from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.authoring.recomputing import recomputed
from shoal_coordinator.authoring.rereading import reread

KINDS = schema.BuiltinOperator
LARGE, FEW = (512, 512), (8,)


class Drawn:
    """A graph that is put together operator by operator."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.kinds: list[int] = []

    def tensor(self, shape: tuple[int, ...]) -> int:
        one = schema.TensorT()
        one.shape, one.name = list(shape), b"t"
        self.graph.tensors.append(one)
        return len(self.graph.tensors) - 1

    def add(self, kind: int, *inputs: int, shape: tuple[int, ...] | None = LARGE) -> int:
        """Append an operator and return the place of what it gives, -1 for nothing."""
        one = schema.OperatorT()
        one.opcodeIndex, one.inputs = kind, list(inputs)
        if kind == KINDS.VAR_HANDLE:
            one.builtinOptions = schema.VarHandleOptionsT()
            one.builtinOptions.sharedName = f"v{len(self.kinds)}"
        one.outputs = [] if shape is None else [self.tensor(shape)]
        self.graph.operators.append(one)
        self.kinds.append(kind)
        return one.outputs[0] if one.outputs else -1

    def wait(self, place: int, count: int) -> int:
        for _ in range(count):
            place = self.add(KINDS.RELU, place)
        return place


def _told(operators: list[Any]) -> list[tuple[int, list[int]]]:
    return [(one.opcodeIndex, list(one.inputs)) for one in operators]


@pytest.mark.parametrize(
    ("shape", "between", "assigned", "again"),
    [(LARGE, 40, False, True), (FEW, 40, False, False), (LARGE, 10, False, False), (LARGE, 40, True, False)],
    ids=["far", "small", "near", "changed meanwhile"],
)
def test_a_large_variable_is_read_again_for_a_late_use(
    shape: tuple[int, ...], between: int, *, assigned: bool, again: bool
) -> None:
    drawn = Drawn()
    handle = drawn.add(KINDS.VAR_HANDLE, shape=())
    read = drawn.add(KINDS.READ_VARIABLE, handle, shape=shape)
    used = drawn.wait(drawn.add(KINDS.RELU, read), between)
    if assigned:
        drawn.add(KINDS.ASSIGN_VARIABLE, handle, used, shape=None)
    drawn.add(KINDS.ADD, used, read)
    order = reread(drawn.graph, drawn.kinds)
    late = order[-1]
    if not again:
        assert late.inputs == [used, read]
        assert [one.opcodeIndex for one in order] == drawn.kinds
        return
    assert _told(order)[-2] == (KINDS.READ_VARIABLE, [handle])
    assert order[-2].outputs == [late.inputs[1]] != [read]
    assert drawn.graph.tensors[late.inputs[1]].shape == list(shape)


@pytest.mark.parametrize("assigned", [False, True])
def test_a_value_is_computed_again_only_of_what_its_variable_was(*, assigned: bool) -> None:
    drawn = Drawn()
    given, few = drawn.tensor(LARGE), drawn.tensor(FEW)
    handle = drawn.add(KINDS.VAR_HANDLE, shape=())
    read = drawn.add(KINDS.READ_VARIABLE, handle, shape=FEW)
    scaled = drawn.add(KINDS.MUL, given, read)
    if assigned:
        drawn.add(KINDS.ASSIGN_VARIABLE, handle, few, shape=None)
    # Two at once, beside the scaled one that waits: here most is held.
    first = drawn.add(KINDS.RELU, given)
    both = drawn.add(KINDS.BATCH_MATMUL, first, drawn.add(KINDS.RELU, first))
    less = drawn.add(KINDS.MAX_POOL_2D, both, shape=FEW)
    # Read once more, so that the assignment cannot wait for the end.
    drawn.add(KINDS.ADD, less, drawn.add(KINDS.READ_VARIABLE, handle, shape=FEW), shape=FEW)
    drawn.add(KINDS.MUL, scaled, scaled)
    other = drawn.add(KINDS.VAR_HANDLE, shape=())
    drawn.add(KINDS.ASSIGN_VARIABLE, other, few, shape=None)
    again = [one for one in recomputed(drawn.graph, drawn.kinds) if one.inputs == [given, read]]
    assert len(again) == (1 if assigned else 2)
