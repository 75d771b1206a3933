"""Trainable models read, and what kernels meet by the plain definition."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.authoring.windows import Window


def tree_of(model: bytes) -> Any:
    """Return the schema's objects of a .tflite."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))


def graph_of(tree: Any, signature: str) -> tuple[Any, list[int]]:
    """Return a signature's graph and its operators' kinds."""
    (index,) = (one.subgraphIndex for one in tree.signatureDefs if one.signatureKey.decode() == signature)
    codes = [max(one.builtinCode, one.deprecatedBuiltinCode) for one in tree.operatorCodes]
    graph = tree.subgraphs[index]
    return graph, [codes[one.opcodeIndex] for one in graph.operators]


def met_by_entries(x: Any, window: Window) -> list[Any]:
    """Return what each entry of a kernel meets of ``x`` at all places, row by row, by strided slices."""
    pads = [[0, 0], *[[max(one, 0) for one in both] for both in window.pads], [0, 0]]
    whole, (high, wide), (down, across) = tf.pad(x, pads), window.counts, window.stride
    ends = (high - 1) * down + 1, (wide - 1) * across + 1
    return [
        whole[:, i : i + ends[0] : down, j : j + ends[1] : across]
        for i in range(window.size[0])
        for j in range(window.size[1])
    ]
