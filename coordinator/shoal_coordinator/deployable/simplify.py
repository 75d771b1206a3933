"""Fewer and cheaper operators for the same answer: what depends on weights alone moves out of the graph.

Matrix products become layers with constant weights; additions after a layer become its bias, and
multiplications a part of its weights, so that a batch norm costs an inference nothing (Jacob et al.
2018, section 3.2). The operators that compute weights stay in the graph, before the layer they are for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.deployable.extract import Inference, fold_constants
from shoal_coordinator.deployable.graph import Graph, Operator, Tensor, constant

NO_ACTIVATION: int = schema.ActivationFunctionType.NONE
_FUSIBLE = {
    "RELU": schema.ActivationFunctionType.RELU,
    "RELU6": schema.ActivationFunctionType.RELU6,
    "RELU_N1_TO_1": schema.ActivationFunctionType.RELU_N1_TO_1,
}
# The axis of a layer's weights that is its output's channel.
LAYERS = {"FULLY_CONNECTED": 0, "CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
_SEEN_THROUGH = frozenset({"RESHAPE", "SQUEEZE"})


def simplify(inference: Inference, local: Iterable[str] = ()) -> None:
    """Simplify ``inference`` in place.

    What depends on parameters named in ``local`` is never mixed with what depends on others: a device must be
    able to put its own in their place.
    """
    work = _Simplifier(inference, {inference.parameters[name] for name in local})
    while work.step():
        pass
    inference.graph.drop_unused()


class _Simplifier:
    def __init__(self, inference: Inference, local: set[Tensor]) -> None:
        self._graph: Graph = inference.graph
        self._inference = inference
        self._local = local

    def step(self) -> bool:
        """Make one change; return whether there was one to make."""
        self._of_example = self._inference.of_example()
        parameters = set(self._inference.parameters.values())
        self._own = self._inference.depending_on(self._local)
        self._shared = self._inference.depending_on(parameters - self._local)
        self._consumers = self._graph.consumers()
        rules = (self._product, self._scaled_input, self._bias, self._factor, self._activation)
        return any(rule(operator) for operator in list(self._graph.operators) for rule in rules)

    def _product(self, operator: Operator) -> bool:
        """Turn a matrix product with weights into a fully connected layer."""
        if operator.kind != "BATCH_MATMUL" or operator.output not in self._of_example:
            return False
        left, right = operator.inputs
        if left is None or right is None or right in self._of_example or len(right.shape) != 2:
            return False
        if operator.options.adjX:
            return False
        if not operator.options.adjY:
            right = self._weights(
                "TRANSPOSE", operator, [right, constant(np.array([1, 0], np.int32))], right.shape[::-1]
            )
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = len(left.shape) > 2
        operator.kind, operator.options = "FULLY_CONNECTED", options
        operator.options_type = schema.BuiltinOptions.FullyConnectedOptions
        operator.inputs, operator.version = [left, right, None], 1
        return True

    def _scaled_input(self, operator: Operator) -> bool:
        """Fold a constant factor of a layer's input into its weights."""
        if operator.kind != "MUL" or operator.options.fusedActivationFunction != NO_ACTIVATION:
            return False
        data, factor = self._sides(operator)
        layers = self._consumers.get(operator.output, [])
        if data is None or factor.size != 1 or factor.data is None or operator.output in self._graph.outputs:
            return False
        fits = all(self._is_layer(one) and one.inputs[0] is operator.output for one in layers)
        if not layers or not fits:
            return False
        for layer in layers:
            weights = layer.entry(1)
            layer.inputs[:2] = [data, self._weights("MUL", layer, [weights, factor], weights.shape)]
        self._graph.operators.remove(operator)
        return True

    def _bias(self, operator: Operator) -> bool:
        """Turn an addition of weights after a layer into its bias."""
        if operator.kind not in {"ADD", "SUB"}:
            return False
        data, added = self._sides(operator)
        if data is None or (operator.kind == "SUB" and operator.inputs[0] is not data):
            return False
        layer = self._layer_before(data, added)
        if layer is None:
            return False
        channels = layer.output.shape[-1]
        added = self._flat(added, channels, layer)
        bias = layer.bias
        if bias is not None and bias.data is not None and not bias.data.any():
            bias = None
        if bias is not None or operator.kind == "SUB":
            start = bias if bias is not None else constant(np.zeros(channels, np.float32))
            added = self._weights(operator.kind, layer, [start, added], (channels,))
        layer.inputs = [*layer.inputs[:2], added]
        self._take_over(layer, operator, data)
        return True

    def _factor(self, operator: Operator) -> bool:
        """Fold a factor a channel after a layer into its weights and bias."""
        if operator.kind != "MUL":
            return False
        data, factor = self._sides(operator)
        layer = None if data is None else self._layer_before(data, factor)
        if layer is None or data is None:
            return False
        weights, channels = layer.entry(1), layer.output.shape[-1]
        factor = self._flat(factor, channels, layer)
        sides = [1] * len(weights.shape)
        sides[LAYERS[layer.kind]] = channels
        spread = self._reshaped(factor, tuple(sides), layer)
        changed: list[Tensor | None] = [
            layer.inputs[0],
            self._weights("MUL", layer, [weights, spread], weights.shape),
        ]
        for bias in layer.inputs[2:]:
            zero = bias is None or (bias.data is not None and not bias.data.any())
            changed.append(bias if zero else self._weights("MUL", layer, [bias, factor], (channels,)))
        layer.inputs = changed
        self._take_over(layer, operator, data)
        return True

    def _activation(self, operator: Operator) -> bool:
        """Let the layer before clip its own output."""
        if operator.kind not in _FUSIBLE or operator.inputs[0] is None:
            return False
        layer = self._layer_before(operator.inputs[0], None)
        if layer is None:
            return False
        layer.options.fusedActivationFunction = _FUSIBLE[operator.kind]
        self._take_over(layer, operator, operator.inputs[0])
        return True

    def _sides(self, operator: Operator) -> tuple[Any, Any]:
        """Return (what depends on the example, what does not), (None, None) where that is not so."""
        one, other = operator.inputs
        if operator.output not in self._of_example or one is None or other is None:
            return None, None
        if other in self._of_example:
            one, other = other, one
        if other in self._of_example or one.shape != operator.output.shape:
            return None, None
        return one, other

    def _is_layer(self, operator: Operator) -> bool:
        weights = operator.inputs[1] if operator.kind in LAYERS else None
        return weights is not None and weights not in self._of_example

    def _layer_before(self, data: Tensor, added: Tensor | None) -> Operator | None:
        """Return the layer without activation that makes ``data`` for nobody else and can add ``added``."""
        maker = self._maker(data)
        if maker is not None and maker.kind in _SEEN_THROUGH and maker.inputs[0] is not None:
            inside = maker.inputs[0]
            if inside.shape and data.shape and inside.shape[-1] == data.shape[-1]:
                maker = self._maker(inside)
        if (
            maker is None
            or not self._is_layer(maker)
            or maker.options.fusedActivationFunction != NO_ACTIVATION
        ):
            return None
        channels = maker.output.shape[-1]
        if added is not None and not (added.size == 1 or added.size == channels == added.shape[-1]):
            return None
        held = [one for one in (*maker.inputs[1:], added) if one is not None]
        mixed = self._own.intersection(held) and self._shared.intersection(held)
        return None if mixed else maker

    def _maker(self, tensor: Tensor) -> Operator | None:
        """Return the operator that makes ``tensor`` if one other alone reads it."""
        alone = len(self._consumers.get(tensor, [])) == 1 and tensor not in self._graph.outputs
        return next((one for one in self._graph.operators if alone and tensor in one.outputs), None)

    def _take_over(self, layer: Operator, operator: Operator, data: Tensor) -> None:
        """Drop ``operator``, whose work ``layer`` now does, with its activation; ``data`` is its answer."""
        fused = getattr(operator.options, "fusedActivationFunction", NO_ACTIVATION)
        if fused != NO_ACTIVATION:
            layer.options.fusedActivationFunction = fused
        if operator.output in self._graph.outputs:
            data.name = operator.output.name
        self._graph.operators.remove(operator)
        self._graph.replace_uses(operator.output, data)

    def _flat(self, tensor: Tensor, channels: int, layer: Operator) -> Tensor:
        """Return ``tensor`` of one or ``channels`` elements as (channels,)."""
        if tensor.shape == (channels,):
            return tensor
        if tensor.size == channels:
            return self._reshaped(tensor, (channels,), layer)
        ones = constant(np.ones(channels, np.float32))
        return self._weights("MUL", layer, [ones, tensor], (channels,))

    def _reshaped(self, tensor: Tensor, shape: tuple[int, ...], layer: Operator) -> Tensor:
        return self._weights("RESHAPE", layer, [tensor, constant(np.array(shape, np.int32))], shape)

    def _weights(
        self, kind: str, layer: Operator, inputs: list[Tensor | None], shape: tuple[int, ...]
    ) -> Tensor:
        """Let an operator of ``kind`` compute something of weights before ``layer``; return it."""
        made = Tensor(shape)
        fresh = Operator(kind, inputs, [made])
        if kind in {"ADD", "SUB", "MUL"}:
            fresh.options = getattr(schema, f"{kind.title()}OptionsT")()
            fresh.options_type = getattr(schema.BuiltinOptions, f"{kind.title()}Options")
        self._graph.insert_before(layer, fresh)
        return made


def fold_weights(inference: Inference) -> None:
    """Compute what depends on constants alone, and let equal operators on weights be one operator."""
    fold_constants(inference)
    graph, of_example = inference.graph, inference.of_example()
    kept: dict[tuple[Any, ...], Operator] = {}
    for operator in list(graph.operators):
        if operator.output in of_example or len(operator.outputs) > 1:
            continue
        options = tuple(sorted(vars(operator.options).items())) if operator.options is not None else ()
        key = (operator.kind, tuple(map(_identity, operator.inputs)), repr(options))
        first = kept.setdefault(key, operator)
        if first is not operator:
            graph.operators.remove(operator)
            graph.replace_uses(operator.output, first.output)


def _identity(tensor: Tensor | None) -> Any:
    """Return what tells ``tensor`` from others: of a constant its numbers."""
    if tensor is None or tensor.data is None:
        return tensor
    return tensor.dtype, tensor.shape, tensor.data.tobytes()
