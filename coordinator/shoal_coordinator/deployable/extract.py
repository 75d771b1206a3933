"""A task's ``infer`` signature as one graph: one example and the parameters in, the answer out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from shoal_codecs.wire.task import TaskBundle
from shoal_coordinator.artefact_errors import UnsupportedGraphError
from shoal_coordinator.deployable.flatbuffer import Source, read_subgraph, write
from shoal_coordinator.deployable.graph import DTYPES, Graph, Tensor, constant
from shoal_coordinator.deployable.variables import bind_variables, signature_of

_SHAPE_KINDS = frozenset({"SHAPE", "RANK"})


@dataclass
class Inference:
    """The graph of ``infer`` for one example.

    ``parameters`` are the tensors that hold the task's parameters, by name; ``example`` is the raw example.
    What depends on no example is computed once for each set of weights, by ``made``'s operators.
    """

    graph: Graph
    example: Tensor
    parameters: dict[str, Tensor]

    def fixed(self) -> set[Tensor]:
        """Return the tensors that depend on constants alone."""
        return _reach(self.graph, (self.example, *self.parameters.values()))[1]

    def of_example(self) -> set[Tensor]:
        """Return the tensors that depend on the example."""
        return self.depending_on([self.example])

    def depending_on(self, roots: Iterable[Tensor]) -> set[Tensor]:
        """Return ``roots`` and the tensors that depend on one of them."""
        return _reach(self.graph, roots)[0]


def inference_of(bundle: TaskBundle) -> Inference:
    """Return the inference graph of ``bundle``, every shape known, nothing left to compute of constants.

    Raises:
        InvalidTemplateError: the trainable model cannot be read or lacks ``infer``.
        UnsupportedGraphError: ``infer`` has loops, operators that are no builtins, or no fixed shape.
    """
    file = Source(bundle.trainable)
    graph = read_subgraph(file, signature_of(file, "infer").subgraphIndex)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UnsupportedGraphError(
            f"infer has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs: give it x and one answer"
        )
    example = graph.inputs[0]
    example.shape, example.name = (1, *bundle.input.shape), "x"
    graph.outputs[0].name = signature_of(file, "infer").outputs[0].name.decode()
    parameters = bind_variables(file, graph, bundle.parameters)
    found = Inference(graph, example, parameters)
    _learn_shapes(found)
    fold_constants(found)
    return found


def _learn_shapes(found: Inference) -> None:
    """Run the graph once and keep every tensor's shape; shapes of tensors become constants."""
    graph = found.graph
    trial = Graph([found.example, *found.parameters.values()], graph.outputs, graph.operators)
    values = run(trial, [], keep_all=True)
    for tensor, value in values.items():
        tensor.shape = value.shape
    for operator in [one for one in graph.operators if one.kind in _SHAPE_KINDS]:
        graph.replace_uses(operator.output, constant(values[operator.output]))
        graph.operators.remove(operator)


def fold_constants(found: Inference) -> None:
    """Compute once what depends on constants alone, and drop what no answer depends on."""
    graph, fixed = found.graph, found.fixed()
    used = {one for operator in graph.operators for one in operator.inputs if operator.output not in fixed}
    folded = [one for operator in graph.operators for one in operator.outputs if one in fixed and one in used]
    if folded:
        trial = Graph([], folded, [one for one in graph.operators if one.output in fixed])
        for tensor, value in run(trial, []).items():
            graph.replace_uses(tensor, constant(value))
    graph.drop_unused()


def run(graph: Graph, values: list[Any], *, keep_all: bool = False) -> dict[Tensor, Any]:
    """Run ``graph`` on ``values``, zeros where it has none; return its outputs, or every tensor's value.

    Raises:
        UnsupportedGraphError: the interpreter cannot run it.
    """
    data, order = write(graph, "run")
    try:
        interpreter = Interpreter(
            model_content=data,
            num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=keep_all,
        )
        interpreter.allocate_tensors()
        for place, tensor in enumerate(graph.inputs):
            value = values[place] if values else np.zeros(tensor.shape, DTYPES[tensor.dtype])
            interpreter.set_tensor(order[tensor], value)
        interpreter.invoke()
        wanted = [one for one in order if one.data is None] if keep_all else graph.outputs
        return {one: np.array(interpreter.get_tensor(order[one])) for one in wanted}
    except (ValueError, RuntimeError, KeyError) as error:
        raise UnsupportedGraphError(
            f"infer does not run on one example ({error}): author the task with a batch of any size"
        ) from error


def _reach(graph: Graph, roots: Iterable[Tensor]) -> tuple[set[Tensor], set[Tensor]]:
    """Return the tensors that depend on ``roots``, and the others that operators make."""
    reached, others = set(roots), set[Tensor]()
    for operator in graph.operators:
        hit = any(one in reached for one in operator.inputs)
        (reached if hit else others).update(operator.outputs)
    return reached, others
