"""Which parameter each variable of a trainable model holds: all of it, or a block of its rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shoal_codecs.wire.task import Parameter
from shoal_coordinator.artefact_errors import InvalidTemplateError, UnsupportedGraphError
from shoal_coordinator.deployable.flatbuffer import Source, read_subgraph
from shoal_coordinator.deployable.graph import FLOAT32, Graph, Operator, Tensor

_STATE_KINDS = frozenset({"CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE"})


@dataclass(frozen=True)
class _Block:
    """Rows of a parameter from ``start`` on, in a variable."""

    parameter: str
    start: int


def signature_of(file: Source, name: str) -> Any:
    """Return the signature ``name`` of a trainable model.

    Raises:
        InvalidTemplateError: it has none.
    """
    for one in file.signatures:
        if one.signatureKey == name.encode():
            return one
    raise InvalidTemplateError(f"the trainable model has no signature {name}: author the task again")


def bind_variables(file: Source, graph: Graph, parameters: Iterable[Parameter]) -> dict[str, Tensor]:
    """Replace what ``graph`` reads of variables: by parameters, and other variables by their first value.

    Raises:
        UnsupportedGraphError: a variable that is neither, or blocks of a parameter that are not joined to it.
    """
    handles = _handles(graph)
    held = _held(file)
    first = _first_values(file, graph)
    bound = {one.name: Tensor(one.shape, FLOAT32, one.name) for one in parameters}
    blocks: dict[Tensor, _Block] = {}
    for operator in graph.operators:
        if operator.kind != "READ_VARIABLE":
            continue
        variable = handles.get(operator.entry(0), b"")
        block = held.get(variable)
        if block is not None and operator.output.shape == bound[block.parameter].shape:
            graph.replace_uses(operator.output, bound[block.parameter])
        elif block is not None:
            blocks[operator.output] = block
        elif variable in first:
            graph.replace_uses(operator.output, first[variable])
        else:
            raise UnsupportedGraphError(
                f"infer reads the variable {variable.decode(errors='replace')}, no parameter and without "
                "a first value: make it a parameter"
            )
    graph.operators = [one for one in graph.operators if one.kind not in _STATE_KINDS]
    _join(graph, blocks, bound)
    return bound


def _join(graph: Graph, blocks: dict[Tensor, _Block], bound: dict[str, Tensor]) -> None:
    """Replace blocks that are joined to a whole parameter by the parameter."""
    for operator in list(graph.operators):
        if operator.kind == "CONCATENATION" and operator.entry(0) in blocks:
            name = blocks[operator.entry(0)].parameter
            if _is_whole(operator, blocks, bound[name]):
                graph.replace_uses(operator.output, bound[name])
                graph.operators.remove(operator)
    left = blocks.keys() & graph.consumers().keys()
    if left:
        name = blocks[left.pop()].parameter
        raise UnsupportedGraphError(
            f"infer reads blocks of {name} by themselves: author the task again, with whole parameters there"
        )


def _is_whole(operator: Operator, blocks: dict[Tensor, _Block], parameter: Tensor) -> bool:
    """Return whether ``operator`` joins all rows of ``parameter`` in their order."""
    row = 0
    for tensor in operator.inputs:
        if tensor is None or blocks.get(tensor) != _Block(parameter.name, row):
            return False
        row += tensor.shape[0]
    return row == parameter.shape[0] and operator.options.axis == 0


def _held(file: Source) -> dict[bytes, _Block]:
    """Return what ``set_weights`` assigns to each variable: an input, or rows that are cut out of one."""
    signature = signature_of(file, "set_weights")
    setter = read_subgraph(file, signature.subgraphIndex)
    told = file.subgraph(signature.subgraphIndex)
    position = {int(index): place for place, index in enumerate(told.inputs)}
    name_of = {setter.inputs[position[one.tensorIndex]]: one.name.decode() for one in signature.inputs}
    cut = {one.output: one for one in setter.operators if one.kind == "STRIDED_SLICE"}
    found = {}
    for variable, value in _assigned(setter):
        slicing = cut.get(value)
        source, start = (value, 0) if slicing is None else (slicing.entry(0), _start(slicing))
        if source in name_of:
            found[variable] = _Block(name_of[source], start)
    return found


def _start(slicing: Operator) -> int:
    """Return the first row that is cut out."""
    starts = slicing.entry(1).data
    return int(starts.flat[0]) if starts is not None else -1


def _first_values(file: Source, graph: Graph) -> dict[bytes, Tensor]:
    values: dict[bytes, Tensor] = {}
    for operator in graph.operators:
        if operator.kind == "CALL_ONCE":
            start = read_subgraph(file, operator.options.initSubgraphIndex)
            values.update((name, value) for name, value in _assigned(start) if value.data is not None)
    return values


def _assigned(graph: Graph) -> list[tuple[bytes, Tensor]]:
    handles = _handles(graph)
    return [(handles[one.entry(0)], one.entry(1)) for one in graph.operators if one.kind == "ASSIGN_VARIABLE"]


def _handles(graph: Graph) -> dict[Tensor, bytes]:
    return {one.output: one.options.sharedName for one in graph.operators if one.kind == "VAR_HANDLE"}
