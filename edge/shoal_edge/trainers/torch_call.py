"""What a layer in PyTorch is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shoal_codecs.wire.task import Setting
from shoal_edge.trainers.errors import UnknownLayerError

Tensor = Any


@dataclass
class Call:
    """One layer's turn: its ``name``, its ``settings``, its parameters ``p`` by short names.

    ``seed`` draws the masks of dropout in training. ``moved`` collects the parameters that training moves
    without a gradient, by short names.
    """

    name: str
    settings: dict[str, Setting]
    p: dict[str, Tensor]
    training: bool = False
    seed: int = 0
    moved: dict[str, Tensor] = field(default_factory=dict)

    def sides(self, name: str, axes: int = 0) -> tuple[int, ...]:
        """Return the setting ``name`` as sides; a single number stands for each of ``axes``.

        Raises:
            UnknownLayerError: no such setting, or something else.
        """
        value = self.settings.get(name)
        if isinstance(value, int):
            return (value,) * axes
        if isinstance(value, tuple):
            return value
        raise self._unknown(name, value)

    def number(self, name: str) -> float:
        """Return the setting ``name``, a number.

        Raises:
            UnknownLayerError: no such setting, or something else.
        """
        value = self.settings.get(name)
        if isinstance(value, int | float):
            return float(value)
        raise self._unknown(name, value)

    def _unknown(self, name: str, value: object) -> UnknownLayerError:
        return UnknownLayerError(
            f"layer {self.name} has {name} {value!r}, which this agent cannot read: update the agent"
        )


Forward = Callable[[Call, Tensor], Tensor]
