"""A LiteRT signature whose tensors stay where they are between calls.

The runtime's own SignatureRunner resizes every input, plans the memory again and copies every output at each
call, a fifth of a small model's step. Here a tensor is resized when its shape changes, the memory planned
when one was, and an output read when it is asked for. The public calls of an Interpreter reach its first
subgraph only, and most signatures are others: hence the runner's own parts, which tflite-runtime 2.14 and
ai-edge-litert 2 both have.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.memory import give_back_freed_memory
from shoal_codecs.wire.task import TaskBundle
from shoal_edge.trainers.errors import (
    FitMemoryError,
    MissingSignatureError,
    TaskMismatchError,
    UnusableModelError,
)
from shoal_edge.trainers.pages import give_back_pages
from shoal_edge.trainers.private import NOISE_PREFIX

REQUIRED = ("train", "evaluate", "infer", "get_weights", "set_weights")
PRIVATE = "train_private"
PULLED = "train_pulled"
CORRECTION = "set_correction"
GRADIENTS = "gradients"


class Signature:
    """One signature of an interpreter: put its inputs, invoke it, read its outputs.

    Every call may raise ValueError or RuntimeError, as the interpreter does, and FitMemoryError.
    """

    def __init__(self, runner: Any) -> None:
        self._runtime = runner._interpreter_wrapper  # noqa: SLF001 - see above
        self._graph: int = runner._subgraph_index  # noqa: SLF001 - see above
        self.inputs: dict[str, dict[str, Any]] = runner.get_input_details()
        self.outputs: dict[str, dict[str, Any]] = runner.get_output_details()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._places = {name: int(one["index"]) for name, one in self.inputs.items()}
        self._results = {name: int(one["index"]) for name, one in self.outputs.items()}
        self._kept: dict[str, npt.NDArray[Any]] = {}
        self._planned = False
        # Here, or with an interpreter before this one.
        self.was_planned = False
        self._most_values = 0

    def keep(self, **values: npt.NDArray[Any]) -> None:
        """Put ``values`` from now on wherever other inputs' shapes change; they keep their own."""
        self._kept = values
        self._planned = False

    def plan(self, **shapes: tuple[int, ...]) -> None:
        """Make room for inputs of ``shapes``, and put what is kept."""
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                self._resize(name, shape)
        if not self._planned:
            self.put()

    def put(self, **values: npt.NDArray[Any]) -> None:
        """Copy ``values``, inputs by name in their exact dtypes, into the interpreter.

        Inputs that are not named stay as they are, unless a shape changes: then what is kept is put again.
        """
        for name, value in values.items():
            if self._shapes.get(name) != value.shape:
                self._resize(name, value.shape)
        if not self._planned:
            self._plan()
            values = self._kept | values
        for name, value in values.items():
            self._runtime.SetTensor(self._place(name), value, self._graph)

    def invoke(self) -> None:
        """Compute the outputs of what was put."""
        if not self._planned:
            self.put()
        self._runtime.Invoke(self._graph)

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return a copy of the output ``name`` of the last call."""
        found: npt.NDArray[Any] = self._runtime.GetTensor(self._results[name], self._graph)
        return found

    def shown(self, name: str) -> npt.NDArray[Any]:
        """Return the output ``name`` where it is: hold it no longer than until the next call."""
        return self._shown(self._results[name])

    def shown_input(self, name: str) -> npt.NDArray[Any]:
        """Return where the input ``name`` is to be written, for as long as ``shown``."""
        if not self._planned:
            self.put()
        return self._shown(self._place(name))

    def __call__(self, **values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Put all of ``values``, invoke, and return every output by name."""
        self.put(**values)
        self.invoke()
        return {name: self.read(name) for name in self._results}

    def let_go(self) -> None:
        """Give the pages of large inputs and outputs back, whose values are not wanted any more.

        As often as a model's weights are in a process, as much as its weights it takes.
        """
        if not self._planned:
            return
        for place in (*self._places.values(), *self._results.values()):
            give_back_pages(self._shown(place))

    def _shown(self, place: int) -> npt.NDArray[Any]:
        """Return a tensor where it is: nobody may hold it when tensors are planned again."""
        found: npt.NDArray[Any] = self._runtime.tensor(self._runtime, place, self._graph)
        return found

    def _resize(self, name: str, shape: tuple[int, ...]) -> None:
        sides = np.array(shape, np.int32)
        self._runtime.ResizeInputTensor(self._place(name), sides, False, self._graph)  # noqa: FBT003
        self._shapes[name] = shape
        self._planned = False

    def _plan(self) -> None:
        values = sum(math.prod(shape) for shape in self._shapes.values())
        grows = values > self._most_values
        if grows:
            # Vectors that nobody wants any more would stand beside what is planned.
            give_back_freed_memory()
        try:
            self._runtime.AllocateTensors(self._graph)
        except RuntimeError as error:
            if not self.was_planned:
                raise
            # What could be planned for other shapes is no bad model.
            raise FitMemoryError(
                f"the interpreter finds no memory for a batch ({error}): lower batch_size, or raise "
                "fit_memory_limit_bytes"
            ) from error
        self._planned = self.was_planned = True
        if grows:
            # What was planned for fewer examples lies free in between.
            self._most_values = values
            give_back_freed_memory()

    def _place(self, name: str) -> int:
        if name not in self._places:
            raise ValueError(f"no input is called {name}")
        return self._places[name]


def checked_signatures(interpreter: Any, bundle: TaskBundle) -> dict[str, Signature]:
    """Return the signatures that training ``bundle`` needs or may use, by name.

    Raises:
        UnusableModelError: the interpreter cannot run them.
        MissingSignatureError: one that the task needs is not there.
        TaskMismatchError: a signature takes or gives other weights than the task describes.
    """
    needed: tuple[str, ...] = REQUIRED
    if bundle.private is not None:
        needed = (*needed, PRIVATE)
    if "correction" in bundle.abilities:
        needed = (*needed, CORRECTION)
    try:
        present = set(interpreter.get_signature_list())
        missing = [name for name in needed if name not in present]
        if missing:
            raise MissingSignatureError(
                f"task {bundle.name} lacks the signatures {', '.join(missing)}: author it "
                f"as a trainable model with {', '.join(needed)}"
            )
        used = [name for name in (*needed, PULLED, CORRECTION, GRADIENTS) if name in present]
        found = {name: Signature(interpreter.get_signature_runner(name)) for name in used}
    except (ValueError, RuntimeError) as error:
        raise UnusableModelError(
            f"the interpreter cannot run task {bundle.name} ({error}): update the agent"
        ) from error
    sides = [found["set_weights"].inputs, found["get_weights"].outputs]
    if CORRECTION in found:
        sides.append(found[CORRECTION].inputs)
    if GRADIENTS in found:
        sides.append(found[GRADIENTS].outputs)
    if bundle.private is not None:
        sides.append(_noise_of(found[PRIVATE].inputs))
    wanted = {one.name: one.shape for one in bundle.parameters}
    for details in sides:
        shapes = {name: tuple(map(int, one["shape"])) for name, one in details.items()}
        if shapes != wanted:
            raise TaskMismatchError(
                f"task {bundle.name} describes weights {wanted}, its model has {shapes}: "
                "author the task again"
            )
    return found


def _noise_of(details: dict[str, Any]) -> dict[str, Any]:
    """Return the noise inputs by the names of their parameters."""
    return {
        name.removeprefix(NOISE_PREFIX): one for name, one in details.items() if name.startswith(NOISE_PREFIX)
    }
