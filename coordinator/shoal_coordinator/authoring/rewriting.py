"""What a converted model is changed in, so that it trains faster and holds less.

The converter writes for weights that are constant: it makes FULLY_CONNECTED of a product with what is
transposed, which the interpreter leaves to its slow kernels where weights change, and it stores every
variable's first value in full.
"""

from __future__ import annotations

import copy
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.authoring.recomputing import recomputed
from shoal_coordinator.authoring.rereading import reread
from shoal_coordinator.authoring.scheduling import held, orders
from shoal_coordinator.authoring.sizes import numbers_of

_IDENTIFIER = b"TFL3"
_KINDS = schema.BuiltinOperator


def rewritten(model: bytes) -> bytes:
    """Return ``model``, a .tflite of a task, which computes the same once its weights were set."""
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    _multiply_in_batches(tree)
    _leave_variables_unset(tree)
    for graph in tree.subgraphs:
        arranged = [_arranged(tree, graph, order) for order in orders(graph, _kinds_of(tree, graph))]
        best = min(arranged, key=lambda one: held(one.operators, numbers_of(one, _kinds_of(tree, one))))
        graph.operators, graph.tensors = best.operators, best.tensors
        _count_first(tree, graph)
    builder = flatbuffers.Builder(len(model))
    builder.Finish(tree.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _kind(tree: Any, operator: Any) -> int:
    code = tree.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _arranged(tree: Any, graph: Any, order: list[Any]) -> Any:
    """Return ``graph`` in ``order``, with what is read and computed a second time so that less is held."""
    arranged = copy.copy(graph)
    arranged.tensors, arranged.operators = list(graph.tensors), [copy.copy(one) for one in order]
    arranged.operators = reread(arranged, _kinds_of(tree, arranged))
    arranged.operators = recomputed(arranged, _kinds_of(tree, arranged))
    return arranged


def _kinds_of(tree: Any, graph: Any) -> list[int]:
    return [_kind(tree, one) for one in graph.operators]


def _multiply_in_batches(tree: Any) -> None:
    """Make BATCH_MATMUL of each FULLY_CONNECTED whose weights are no constant and that does nothing else."""
    for graph in tree.subgraphs:
        for operator in graph.operators:
            if _kind(tree, operator) == _KINDS.FULLY_CONNECTED and _is_product(tree, graph, operator):
                options = schema.BatchMatMulOptionsT()
                options.adjX, options.adjY = False, True
                operator.inputs = operator.inputs[:2]
                operator.opcodeIndex = _code_of(tree, _KINDS.BATCH_MATMUL)
                operator.builtinOptionsType = schema.BuiltinOptions.BatchMatMulOptions
                operator.builtinOptions = options


def _is_product(tree: Any, graph: Any, operator: Any) -> bool:
    weights, *bias = operator.inputs[1:]
    options = operator.builtinOptions
    tensors = [graph.tensors[one] for one in (operator.inputs[0], weights, operator.outputs[0])]
    return (
        all(one < 0 for one in bias)
        and options.fusedActivationFunction == schema.ActivationFunctionType.NONE
        and options.weightsFormat == schema.FullyConnectedOptionsWeightsFormat.DEFAULT
        and all(one.type == schema.TensorType.FLOAT32 for one in tensors)
        and len(tensors[0].shape) == len(tensors[2].shape)
        and not _is_constant(tree, graph, weights)
    )


def _code_of(tree: Any, kind: int) -> int:
    """Return where the operator of ``kind`` stands among the model's operators, added where it is missing."""
    for place, code in enumerate(tree.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == kind:
            return place
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), 1
    tree.operatorCodes.append(code)
    return len(tree.operatorCodes) - 1


def _leave_variables_unset(tree: Any) -> None:
    """Take away what sets variables at the first call: devices set all of them before, by ``set_weights``."""
    firsts = set()
    for graph in tree.subgraphs:
        for operator in graph.operators:
            if _kind(tree, operator) == _KINDS.CALL_ONCE:
                firsts.add(operator.builtinOptions.initSubgraphIndex)
        graph.operators = [one for one in graph.operators if _kind(tree, one) != _KINDS.CALL_ONCE]
    # Graphs are known by their places: one that others follow stays, empty.
    for place in sorted(firsts, reverse=True):
        graph = tree.subgraphs[place]
        graph.operators, graph.tensors = [], []
        graph.inputs, graph.outputs = [], []
        if place == len(tree.subgraphs) - 1:
            tree.subgraphs.pop()
    used = {tensor.buffer for graph in tree.subgraphs for tensor in graph.tensors}
    used |= {one.buffer for one in tree.metadata or []}
    for place, buffer in enumerate(tree.buffers):
        if place not in used:
            buffer.data = None


def _count_first(tree: Any, graph: Any) -> None:
    """Put first what whole numbers of the input become, as labels and the batch's size do.

    The fast kernels take none of it. Where it stands between what they take, they cannot take that together,
    and what goes from one part to the next is held beside them.
    """
    known = {place for place in graph.inputs if _is_whole(graph.tensors[place])}
    first, others = [], []
    for operator in graph.operators:
        given = [one for one in operator.inputs if one >= 0 and not _is_constant(tree, graph, one)]
        if given and known.issuperset(given):
            first.append(operator)
            known.update(one for one in operator.outputs if _is_whole(graph.tensors[one]))
        else:
            others.append(operator)
    graph.operators = first + others


def _is_whole(tensor: Any) -> bool:
    return tensor.type in {schema.TensorType.INT32, schema.TensorType.INT64, schema.TensorType.BOOL}


def _is_constant(tree: Any, graph: Any, place: int) -> bool:
    return tree.buffers[graph.tensors[place].buffer].data is not None
