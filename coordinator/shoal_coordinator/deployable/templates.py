"""Both inference models of a task with empty places for its weights, made of the task file alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.wire.task import InputDescription, TaskBundle, initial_weights
from shoal_coordinator.artefact_errors import UnsupportedGraphError
from shoal_coordinator.deployable.extract import Inference, inference_of
from shoal_coordinator.deployable.flatbuffer import write
from shoal_coordinator.deployable.graph import Graph, Operator, Tensor
from shoal_coordinator.deployable.precision import Precision
from shoal_coordinator.deployable.quantise import Int8Places, quantise
from shoal_coordinator.deployable.simplify import fold_weights, simplify

SIGNATURE = "infer"
MOST_NARROW_LABELS = 16
"""Probabilities of more labels are too small for the 256 steps that int8 has from 0 to 1."""


@dataclass(frozen=True)
class Place:
    """A tensor and the value it takes: a parameter, or what the preparation makes of parameters."""

    tensor: int
    source: str


@dataclass(frozen=True)
class BiasPlace:
    """Where an int32 bias goes; its scale is the product of its layer's input and weight scales."""

    tensor: int
    source: str
    input_tensor: int
    weight_tensor: int


@dataclass(frozen=True)
class Preparation:
    """A model that computes, of parameters (its inputs), the values of places (its outputs)."""

    model: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class FloatTemplate:
    """The float32 inference model: a raw example in, the task's answer out."""

    model: bytes
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Int8Template:
    """The int8 inference model, with what ``quantise.Int8Places`` says by tensor indices of its file.

    ``groups`` are tensors of the float model whose common range gives ``activations`` (tensor, group) their
    scale; the one with the raw example in it is ``example_group``, -1 where that is not int8.
    ``operators`` counts how many compute in each precision.
    """

    model: bytes
    symmetric: tuple[Place, ...]
    asymmetric: tuple[Place, ...]
    floats: tuple[Place, ...]
    biases: tuple[BiasPlace, ...]
    rows: tuple[tuple[int, int], ...]
    activations: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, ...], ...]
    example_group: int
    operators: dict[str, int]


@dataclass(frozen=True)
class Templates:
    """What all deployable files of a task have in common.

    ``part`` of the parameters is what weights hold; the others stay on devices, and ``own`` holds their
    first values; ``own_preparation`` is the part of the ``preparation`` that a device repeats with its own,
    and ``own_sources`` are what it fills in. ``constants`` are sources that no weights change; ``labels``
    tells that the answer is probabilities.
    """

    name: str
    part: SharedPart
    own: dict[str, npt.NDArray[np.float32]]
    input: InputDescription
    float32: FloatTemplate
    int8: Int8Template
    preparation: Preparation | None
    own_preparation: Preparation | None
    own_sources: frozenset[str]
    constants: dict[str, npt.NDArray[np.float32]]
    labels: bool


def make_templates(bundle: TaskBundle, local: Iterable[str] = ()) -> Templates:
    """Return the templates of the task ``bundle`` whose parameters ``local`` stay on the devices.

    Raises:
        LocalParameterError: the task does not have them, or nothing is left.
        InvalidTemplateError: the trainable model cannot be read or lacks a signature.
        UnsupportedGraphError: ``infer`` has loops, operators that are no builtins, or no fixed shape.
    """
    part = SharedPart(bundle.parameters, tuple(local))
    inference = inference_of(bundle)
    simplify(inference, part.local)
    fold_weights(inference)
    return _Maker(bundle, part, inference).make()


class _Maker:
    def __init__(self, bundle: TaskBundle, part: SharedPart, inference: Inference) -> None:
        self._bundle, self._part = bundle, part
        self._inference = inference
        self._of_example = inference.of_example()
        self._sources: dict[Tensor, str] = {one: name for name, one in inference.parameters.items()}
        self._constants: dict[str, npt.NDArray[np.float32]] = {}

    def make(self) -> Templates:
        """Return the templates."""
        graph = self._inference.graph
        run = [one for one in graph.operators if one.output in self._of_example]
        before = [one for one in graph.operators if one.output not in self._of_example]
        main = Graph([self._inference.example], graph.outputs, run)
        own = {self._inference.parameters[name] for name in self._part.local}
        moved = self._inference.depending_on(own)
        read = _inputs(main)
        made = self._name_outputs(before, read)
        labels = self._bundle.target.kind == "label"
        narrow, places, precisions = quantise(
            main,
            self._inference.example,
            self._of_example,
            moved,
            wide_answer=not labels or len(self._bundle.labels) > MOST_NARROW_LABELS,
        )
        float32, order = self._float_template(main)
        return Templates(
            name=self._bundle.name,
            part=self._part,
            own=self._part.own_of(initial_weights(self._bundle.parameters, self._bundle.reference.seed))
            if self._part.local
            else {},
            input=self._bundle.input,
            float32=float32,
            int8=self._int8_template(narrow, places, order, precisions),
            preparation=self._preparation(before, made),
            own_preparation=self._own_preparation(before, [one for one in made if one in moved]),
            own_sources=frozenset(
                self._sources[one] for one in read if one in moved and one in self._sources
            ),
            constants=self._constants,
            labels=labels,
        )

    def _name_outputs(self, before: list[Operator], read: list[Tensor]) -> list[Tensor]:
        """Return what ``before`` makes of parameters to be ``read``, each with a name of its own."""
        outputs = {tensor for one in before for tensor in one.outputs}
        wanted = [one for one in read if one in outputs]
        for number, tensor in enumerate(wanted):
            tensor.name = self._sources[tensor] = f"made{number}"
        return wanted

    def _own_preparation(self, before: list[Operator], wanted: list[Tensor]) -> Preparation | None:
        """Return the model of what a device makes of its own parameters."""
        names = set(self._inference.parameters) - set(self._part.local)
        shared = self._inference.depending_on(self._inference.parameters[name] for name in names)
        if shared.intersection(wanted):
            raise UnsupportedGraphError(
                "infer computes one tensor of parameters that stay on devices and of others: "
                "keep both on the device (local), or neither"
            )
        return self._preparation(before, wanted)

    def _preparation(self, before: list[Operator], wanted: list[Tensor]) -> Preparation | None:
        """Return the model that computes ``wanted`` of parameters, None where there is nothing to compute."""
        if not wanted:
            return None
        work = Graph([], wanted, list(before))
        work.drop_unused()
        used = {tensor for one in work.operators for tensor in one.inputs}
        entries = {name: one for name, one in self._inference.parameters.items() if one in used}
        work.inputs = list(entries.values())
        model, _ = write(work, "prepare")
        return Preparation(model, tuple(entries), tuple(self._sources[one] for one in wanted))

    def _float_template(self, main: Graph) -> tuple[FloatTemplate, dict[Tensor, int]]:
        filled = [one for one in _inputs(main) if one in self._sources]
        for tensor in filled:
            tensor.data = np.zeros(tensor.shape, np.float32)
        model, order = write(main, SIGNATURE)
        for tensor in filled:
            tensor.data = None
        return FloatTemplate(model, tuple(Place(order[one], self._sources[one]) for one in filled)), order

    def _int8_template(
        self,
        graph: Graph,
        places: Int8Places,
        floats: dict[Tensor, int],
        precisions: dict[Operator, Precision],
    ) -> Int8Template:
        model, order = write(graph, SIGNATURE)

        def listed(chosen: dict[Tensor, Tensor]) -> tuple[Place, ...]:
            return tuple(Place(order[mine], self._source(theirs)) for mine, theirs in chosen.items())

        example = self._inference.example
        held = [number for number, group in enumerate(places.groups) if example in group]
        counts = {one.value: 0 for one in Precision}
        for precision in precisions.values():
            counts[precision.value] += 1
        return Int8Template(
            model=model,
            symmetric=listed(places.symmetric),
            asymmetric=listed(places.asymmetric),
            floats=listed(places.floats),
            biases=tuple(
                BiasPlace(order[mine], self._source(bias), order[entry], order[weights])
                for mine, (bias, entry, weights) in places.biases.items()
            ),
            rows=tuple((order[row], order[table]) for row, table in places.rows.items()),
            activations=tuple((order[mine], group) for mine, group in places.activations.items()),
            groups=tuple(tuple(floats[one] for one in group) for group in places.groups),
            example_group=held[0] if held else -1,
            operators=counts,
        )

    def _source(self, tensor: Tensor) -> str:
        if tensor not in self._sources:
            self._sources[tensor] = f"constant{len(self._constants)}"
            self._constants[self._sources[tensor]] = np.asarray(tensor.data, np.float32)
        return self._sources[tensor]


def _inputs(graph: Graph) -> list[Tensor]:
    """Return every tensor that an operator of ``graph`` reads, in order, once."""
    return list(
        dict.fromkeys(one for operator in graph.operators for one in operator.inputs if one is not None)
    )
