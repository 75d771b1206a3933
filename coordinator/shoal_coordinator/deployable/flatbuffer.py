"""Graphs out of .tflite files and into them.

Writing gives tensors their index in order of first use, so that the same graph always makes the same bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.artefact_errors import InvalidTemplateError, UnsupportedGraphError
from shoal_coordinator.deployable.graph import DTYPES, Graph, Operator, Tensor

# What the kernels' vector loads like best, and what the format's own schema demands of buffers.
BUFFER_ALIGNMENT = 16
_OPERATORS: dict[int, str] = {
    number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
_NUMBERS = {name: number for number, name in _OPERATORS.items()}
# Past the table of short numbers: the old field of an operator's code holds this one.
_LONG_NUMBER = 127


class Source:
    """A .tflite file as the schema's objects, of which only what is asked for is read.

    Raises:
        InvalidTemplateError: a damaged flatbuffer.
    """

    def __init__(self, model: bytes) -> None:
        with _damage_named():
            self._root = schema.Model.GetRootAs(model, 0)
            codes = (self._root.OperatorCodes(place) for place in range(self._root.OperatorCodesLength()))
            self.codes = [
                (max(one.BuiltinCode(), one.DeprecatedBuiltinCode()), one.Version()) for one in codes
            ]
            count = self._root.SignatureDefsLength()
            self.signatures = [
                schema.SignatureDefT.InitFromObj(self._root.SignatureDefs(place)) for place in range(count)
            ]

    def subgraph(self, index: int) -> Any:
        """Return the schema's object of subgraph ``index``."""
        with _damage_named():
            return schema.SubGraphT.InitFromObj(self._root.Subgraphs(index))

    def buffer(self, index: int) -> bytes:
        """Return the bytes of a buffer; none where it is empty."""
        with _damage_named():
            raw = self._root.Buffers(index).DataAsNumpy()
            return b"" if isinstance(raw, int) else bytes(raw)


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except (ValueError, IndexError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise InvalidTemplateError(
            f"the task's model is damaged ({error}): fetch or author it again"
        ) from error


def read_subgraph(file: Source, index: int) -> Graph:
    """Return subgraph ``index`` of ``file``.

    Raises:
        UnsupportedGraphError: it has an operator that is no builtin of one graph.
        InvalidTemplateError: a damaged flatbuffer.
    """
    source = file.subgraph(index)
    tensors = [_read_tensor(file, one) for one in source.tensors]

    def pick(indices: Iterable[int]) -> list[Any]:
        return [tensors[one] if one >= 0 else None for one in indices]

    graph = Graph(pick(source.inputs), pick(source.outputs))
    for one in source.operators or []:
        number, version = file.codes[one.opcodeIndex]
        kind = _OPERATORS.get(number, "?")
        if kind in {"CUSTOM", "IF", "WHILE", "CALL", "?"} or kind.startswith("STABLEHLO"):
            raise UnsupportedGraphError(
                f"the signature infer holds the operator {kind}: build it of builtin operators "
                "without loops (unroll recurrent layers)"
            )
        graph.operators.append(
            Operator(
                kind,
                pick(one.inputs if one.inputs is not None else ()),
                pick(one.outputs if one.outputs is not None else ()),
                one.builtinOptions,
                one.builtinOptionsType,
                version,
            )
        )
    return graph


def _read_tensor(file: Source, source: Any) -> Tensor:
    shape = tuple(int(one) for one in (source.shape if source.shape is not None else ()))
    name = (source.name or b"").decode("utf-8", "replace")
    tensor = Tensor(shape, source.type, name)
    raw = file.buffer(source.buffer)
    if raw and source.type in DTYPES:
        tensor.data = np.frombuffer(raw, DTYPES[source.type]).reshape(shape)
    quantisation = source.quantization
    if quantisation is not None and quantisation.scale is not None and len(quantisation.scale):
        tensor.scales = np.asarray(quantisation.scale, np.float32)
        tensor.zeros = np.asarray(quantisation.zeroPoint, np.int64)
        tensor.channels, tensor.axis = len(tensor.scales), quantisation.quantizedDimension
    return tensor


class _Buffer(schema.BufferT):  # type: ignore[misc] # the schema is untyped
    """A buffer whose bytes begin at a multiple of ``BUFFER_ALIGNMENT`` of the file."""

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - the schema's own name
        place = None
        if self.data is not None:
            count = len(self.data)
            builder.StartVector(1, count, BUFFER_ALIGNMENT)
            builder.head = begin = int(builder.Head()) - count
            builder.Bytes[begin : begin + count] = self.data.tobytes()
            builder.vectorNumElems = count
            place = builder.EndVector()
        schema.BufferStart(builder)
        if place is not None:
            schema.BufferAddData(builder, place)
        return schema.BufferEnd(builder)


def write(
    graph: Graph, signature: str, metadata: Mapping[str, bytes] | None = None
) -> tuple[bytes, dict[Tensor, int]]:
    """Return ``graph`` as a .tflite file, and the index in it of every tensor.

    Inputs and outputs have the names of their tensors in the ``signature``.
    """
    order: dict[Tensor, int] = {}
    for tensor in itertools.chain(
        graph.inputs, *(itertools.chain(one.inputs, one.outputs) for one in graph.operators), graph.outputs
    ):
        if tensor is not None:
            order.setdefault(tensor, len(order))
    buffers = [_Buffer()]
    codes: dict[tuple[str, int], int] = {}
    tree = schema.ModelT()
    tree.version, tree.description = 3, "Shoal"
    sub = schema.SubGraphT()
    sub.name = signature
    sub.tensors = [_write_tensor(one, buffers) for one in order]
    sub.inputs = np.array([order[one] for one in graph.inputs], np.int32)
    sub.outputs = np.array([order[one] for one in graph.outputs], np.int32)
    sub.operators = [_write_operator(one, order, codes) for one in graph.operators]
    tree.subgraphs = [sub]
    tree.operatorCodes = [_code(*one) for one in codes]
    tree.signatureDefs = [_signature(graph, signature, order)]
    tree.metadata = []
    for name, content in (metadata or {}).items():
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(buffers)
        buffers.append(_Buffer(np.frombuffer(content, np.uint8)))
        tree.metadata.append(entry)
    tree.buffers = buffers
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output()), order


def _write_tensor(tensor: Tensor, buffers: list[_Buffer]) -> Any:
    fresh = schema.TensorT()
    fresh.name, fresh.type, fresh.hasRank = tensor.name, tensor.dtype, True
    fresh.shape = np.array(tensor.shape, np.int32)
    if tensor.data is not None:
        fresh.buffer = len(buffers)
        raw = np.ascontiguousarray(tensor.data, DTYPES[tensor.dtype])
        buffers.append(_Buffer(np.frombuffer(raw.tobytes(), np.uint8)))
    if tensor.channels:
        about = schema.QuantizationParametersT()
        about.scale = np.ones(tensor.channels, np.float32) if tensor.scales is None else tensor.scales
        about.zeroPoint = np.zeros(tensor.channels, np.int64) if tensor.zeros is None else tensor.zeros
        about.quantizedDimension = tensor.axis
        fresh.quantization = about
    return fresh


def _write_operator(
    operator: Operator, order: Mapping[Tensor, int], codes: dict[tuple[str, int], int]
) -> Any:
    fresh = schema.OperatorT()
    fresh.opcodeIndex = codes.setdefault((operator.kind, operator.version), len(codes))
    fresh.inputs = np.array([-1 if one is None else order[one] for one in operator.inputs], np.int32)
    fresh.outputs = np.array([order[one] for one in operator.outputs], np.int32)
    fresh.builtinOptions, fresh.builtinOptionsType = operator.options, operator.options_type
    return fresh


def _code(kind: str, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = _NUMBERS[kind]
    code.deprecatedBuiltinCode = min(code.builtinCode, _LONG_NUMBER)
    code.version = version
    return code


def _signature(graph: Graph, name: str, order: Mapping[Tensor, int]) -> Any:
    def entries(tensors: list[Tensor]) -> list[Any]:
        found = []
        for tensor in tensors:
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = tensor.name, order[tensor]
            found.append(entry)
        return found

    fresh = schema.SignatureDefT()
    fresh.signatureKey, fresh.subgraphIndex = name, 0
    fresh.inputs, fresh.outputs = entries(graph.inputs), entries(graph.outputs)
    return fresh
