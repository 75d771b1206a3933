"""From a description to a task file: convert, check, store the reference."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from shoal_codecs.wire.task import Architecture, LayerDescription, TaskBundle, Variant
from shoal_coordinator.authoring.blame import unconvertible_layers, wrong_layers
from shoal_coordinator.authoring.check import check_converted
from shoal_coordinator.authoring.convert import convert
from shoal_coordinator.authoring.errors import ConversionError, GradientMismatchError
from shoal_coordinator.authoring.graphs import TrainableGraph
from shoal_coordinator.authoring.model import Model
from shoal_coordinator.authoring.reference import example_batch, private_reference_of, reference_of
from shoal_coordinator.authoring.rewriting import rewritten
from shoal_coordinator.authoring.task import Task
from shoal_coordinator.deployable.check import check_deployable


def author(task: Task) -> TaskBundle:
    """Return the checked bundle of ``task``; nothing is written.

    Raises:
        AuthoringError: its subclasses say what the task, a layer or the converter lacks.
        ArtefactError: nothing deployable can be made of it.
    """
    batch = example_batch(task)
    private = private_reference_of(task, batch) if task.private else None
    bundle = TaskBundle(
        name=task.name,
        trainable=_trainable(task, batch, private),
        parameters=task.model.parameters,
        input=task.input.description,
        labels=task.labels,
        reference=reference_of(task, batch),
        target=task.target,
        defaults=task.defaults,
        abilities=task.abilities,
        private=private,
        local=task.local_parameters,
        variants=tuple(_variant(task, share, batch) for share in task.widths),
        architecture=_architecture(task),
    )
    check_deployable(bundle)
    return bundle


def _trainable(task: Task, batch: Any, private: Any) -> bytes:
    graph = TrainableGraph(task)
    try:
        model = rewritten(convert(graph, graph.signatures))
    except ConversionError as error:
        raise ConversionError(f"{_blamed(unconvertible_layers(task))}{error}") from error
    try:
        check_converted(task, model, batch, private)
    except GradientMismatchError as error:
        raise GradientMismatchError(f"{_blamed(wrong_layers(task))}{error}") from error
    return model


def _blamed(layers: list[str]) -> str:
    return f"layer {', '.join(layers)}: " if layers else ""


def _variant(task: Task, share: float, batch: Any) -> Variant:
    narrow = task.narrow(share)
    return Variant(
        share=share,
        trainable=_trainable(narrow, batch, None),
        parameters=narrow.model.parameters,
        reference=reference_of(narrow, batch),
        architecture=_architecture(narrow),
    )


def _architecture(task: Task) -> Architecture | None:
    if not all(one.layer.DESCRIBED for one in task.model.placed):
        return None
    return Architecture(
        layers=_described(task.model),
        optimiser=LayerDescription(task.optimiser.KIND, settings=_settings(task.optimiser)),
        mean=float(task.input.mean),
        deviation=float(task.input.deviation),
    )


def _described(model: Model) -> tuple[LayerDescription, ...]:
    return tuple(LayerDescription(one.layer.KIND, one.name, _settings(one.layer)) for one in model.placed)


def _settings(described: Any) -> dict[str, Any]:
    return {one.name: getattr(described, one.name) for one in fields(described) if one.name != "name"}
