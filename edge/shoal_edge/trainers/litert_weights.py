"""A task's trainable model in the LiteRT interpreter, and its weights; what trains them is ``litert``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.memory import give_back_freed_memory, resident_bytes
from shoal_codecs.updates.base import all_finite
from shoal_codecs.wire.task import TaskBundle, draw_weights, split_weights
from shoal_edge.trainers.errors import UnusableModelError
from shoal_edge.trainers.fitting_trainer import FittingTrainer, Weights
from shoal_edge.trainers.pages import move_out
from shoal_edge.trainers.runtime import open_model, runtime_name
from shoal_edge.trainers.signatures import Signature, checked_signatures

# What is less is planned again with every fit for nothing.
_MUCH_BYTES = 24 << 20


class LiteRtWeights(FittingTrainer):
    """An interpreter of ``bundle``'s model on ``threads`` threads, whose variables are the weights.

    Raises: as ``LiteRtTrainer``.
    """

    def __init__(self, bundle: TaskBundle, threads: int = 1) -> None:
        super().__init__(bundle)
        self._threads = threads
        # What the process has beside an interpreter, and what one takes before it trains.
        self._beside_bytes = self._opened_bytes = 0
        self._interpreter: Any = None
        self._opened: dict[str, Signature] = {}
        self._planned: list[str] = []
        # What lies free now would be filled by a fit that seems to take nothing.
        self._renew()
        self._open()

    @property
    def runtime(self) -> str:
        """The interpreter's distribution and version."""
        return runtime_name()

    def rest(self) -> None:
        """Give back what training takes of the memory, if that is much; the weights are lost then."""
        more_bytes = resident_bytes() - self._beside_bytes - self._opened_bytes
        if self._opened and more_bytes >= _MUCH_BYTES:
            self._renew()
            self._is_new = self._is_bare = True

    # --- the weights ---------------------------------------------------------------------------

    def _set_weights(self, vector: Weights) -> None:
        self._run("set_weights", **split_weights(vector, self._bundle.parameters))
        self._signatures["set_weights"].let_go()

    def _get_weights(self) -> Weights:
        signature = self._signatures["get_weights"]
        vector = np.empty(self.dimension, np.float32)
        with self._named_faults():
            signature.invoke()
            for name, part in split_weights(vector, self._bundle.parameters).items():
                # From where they are: a large model's weights are there often enough.
                move_out(signature.shown(name), part)
            signature.let_go()
        return vector

    def _begin(self) -> None:
        """Draw the initial weights where the interpreter takes them from: no vector holds them."""
        parameters, seed = self._bundle.parameters, self._bundle.reference.seed
        signature = self._signatures["set_weights"]
        with self._named_faults():
            for one, start, values in draw_weights(parameters, seed):
                signature.shown_input(one.name).reshape(-1)[start : start + values.size] = values
            signature.invoke()
            signature.let_go()

    def _is_finite(self) -> bool:
        signature = self._signatures["get_weights"]
        with self._named_faults():
            signature.invoke()
            found = all(all_finite(signature.shown(one.name)) for one in self._bundle.parameters)
            signature.let_go()
        return found

    # --- the interpreter -----------------------------------------------------------------------

    @property
    def _signatures(self) -> dict[str, Signature]:
        """The interpreter's, which is opened where there is none."""
        if not self._opened:
            self._open()
        return self._opened

    def _renew(self) -> None:
        """Let the interpreter go, for the memory that was planned stays with it; the next use opens another.

        Not here, where there may be no memory for it, and nobody who hears of that.
        """
        self._planned = [name for name, one in self._opened.items() if one.was_planned] or self._planned
        self._interpreter, self._opened = None, {}
        give_back_freed_memory()
        self._beside_bytes = resident_bytes()

    def _open(self) -> None:
        before_bytes = resident_bytes()
        self._interpreter = open_model(self._bundle.trainable, self._threads)
        opened = checked_signatures(self._interpreter, self._bundle)
        for name in self._planned:
            opened[name].was_planned = True
        self._opened, self._opened_bytes = opened, resident_bytes() - before_bytes

    def _run(self, signature: str, /, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        with self._named_faults():
            return self._signatures[signature](**inputs)

    @contextmanager
    def _named_faults(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> UnusableModelError:
        return UnusableModelError(
            f"the interpreter cannot run task {self._bundle.name} ({error}): update the agent"
        )
