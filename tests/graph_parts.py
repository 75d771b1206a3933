"""Inference graphs put together by hand, as a task's ``infer`` holds them."""

from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.deployable.extract import Inference, run
from shoal_coordinator.deployable.flatbuffer import write
from shoal_coordinator.deployable.graph import Graph, Operator, Tensor, constant

Array = npt.NDArray[Any]
SAME = schema.Padding.SAME


def options(kind: str, **fields: Any) -> tuple[Any, int]:
    made = getattr(schema, f"{kind}OptionsT")()
    for name, value in fields.items():
        setattr(made, name, value)
    return made, getattr(schema.BuiltinOptions, f"{kind}Options")


class Net:
    """An inference graph put together by hand; parameters are drawn, and kept with their values."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.example = Tensor(shape, name="x")
        self.inference = Inference(Graph([self.example], []), self.example, {})
        self.values: dict[str, Array] = {}
        self.rng = np.random.default_rng(seed)

    def parameter(self, *shape: int) -> Tensor:
        name = f"p{len(self.values)}"
        self.values[name] = self.rng.normal(size=shape).astype(np.float32)
        self.inference.parameters[name] = Tensor(shape, name=name)
        return self.inference.parameters[name]

    def add(
        self, kind: str, inputs: list[Tensor | None], *shape: int, said: tuple[Any, int] = (None, 0)
    ) -> Tensor:
        made = Tensor(shape)
        self.inference.graph.operators.append(Operator(kind, inputs, [made], *said))
        self.inference.graph.outputs = [made]
        return made

    def answer(self, x: Array) -> Array:
        """Run the whole graph, weights included."""
        graph = self.inference.graph
        entries = [self.example, *self.inference.parameters.values()]
        trial = Graph(entries, graph.outputs, graph.operators)
        found: Array = run(trial, [x, *self.values.values()])[graph.outputs[0]]
        return found

    def kinds(self) -> list[str]:
        """Name the operators that an example goes through."""
        mine = self.inference.of_example()
        return [one.kind for one in self.inference.graph.operators if one.output in mine]


def dense(net: Net, entry: Tensor, width: int, *, bias: bool = True) -> Tensor:
    rows = entry.shape[:-1]
    made = net.add(
        "BATCH_MATMUL",
        [entry, net.parameter(entry.shape[-1], width)],
        *rows,
        width,
        said=options("BatchMatMul"),
    )
    return net.add("ADD", [made, net.parameter(width)], *rows, width, said=options("Add")) if bias else made


def convolution(net: Net, entry: Tensor, channels: int) -> Tensor:
    _, height, width, depth = entry.shape
    kernel = net.parameter(3, 3, depth, channels)
    order = constant(np.array([3, 0, 1, 2], np.int32))
    turned = net.add("TRANSPOSE", [kernel, order], channels, 3, 3, depth)
    zero = constant(np.zeros(channels, np.float32))
    said = options("Conv2D", padding=SAME, strideH=1, strideW=1)
    return net.add("CONV_2D", [entry, turned, zero], 1, height, width, channels, said=said)


def batch_norm(net: Net, entry: Tensor) -> Tensor:
    channels = entry.shape[-1]
    sides = entry.shape
    centred = net.add("SUB", [entry, net.parameter(channels)], *sides, said=options("Sub"))
    scaled = net.add("MUL", [centred, net.parameter(channels)], *sides, said=options("Mul"))
    return net.add("ADD", [net.parameter(channels), scaled], *sides, said=options("Add"))


def image_net(seed: int) -> Net:
    net = Net(1, 6, 6, 2, seed=seed)
    scaled = net.add(
        "MUL", [net.example, constant(np.array(0.25, np.float32))], 1, 6, 6, 2, said=options("Mul")
    )
    made = batch_norm(net, convolution(net, scaled, 4))
    made = net.add("RELU", [made], 1, 6, 6, 4)
    made = batch_norm(net, convolution(net, made, 4))
    said = options("Reducer", keepDims=False)
    pooled = net.add("MEAN", [made, constant(np.array([1, 2], np.int32))], 1, 4, said=said)
    dense(net, pooled, 3)
    net.add("SOFTMAX", [net.inference.graph.outputs[0]], 1, 3, said=options("Softmax", beta=1.0))
    return net


def gated_net() -> Net:
    """Products of activations, as in a recurrent gate, between layers."""
    net = Net(1, 5)
    left, right = dense(net, net.example, 8), dense(net, net.example, 8)
    opened = net.add("LOGISTIC", [left], 1, 8)
    product = net.add("MUL", [opened, right], 1, 8, said=options("Mul"))
    dense(net, product, 3)
    return net


def filled(net: Net, name: str) -> bytes:
    """Return the deployable file of ``net`` with its values, whose answer is called ``name``."""
    graph = net.inference.graph
    graph.outputs[0].name = name
    for parameter, tensor in net.inference.parameters.items():
        tensor.data = net.values[parameter]
    return write(Graph([net.example], graph.outputs, graph.operators), "infer")[0]
