"""Large matrices as blocks of their rows, each a variable of its own in the trainable graph.

A step then reads, follows and writes one block after the other, near at hand, and holds no whole gradient.
Weights travel, are set and are told whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from shoal_codecs.wire.task import Parameter

Tensor = Any

# 1 MiB is not worth it; half of that stays in the second cache of a small board's processor.
_LARGE = 1 << 18
_BLOCK = 1 << 17


@dataclass(frozen=True)
class Rows:
    """A matrix (i, o) as its ``blocks`` (rows, o), the first rows first."""

    blocks: tuple[Tensor, ...]

    def along(self, x: Tensor) -> list[Tensor]:
        """Return ``x`` (n, i) cut as the rows are."""
        return [x[:, start:end] for start, end in _edges(block.shape[0] for block in self.blocks)]


@dataclass(frozen=True)
class Cell:
    """What one variable holds: rows ``start`` to ``end`` of a ``parameter``, or all of it."""

    name: str
    parameter: Parameter
    start: int
    end: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the variable."""
        return (self.end - self.start, *self.parameter.shape[1:])

    def of(self, values: Tensor) -> Tensor:
        """Return the cell's part of the parameter's ``values``."""
        return values if self.shape == self.parameter.shape else values[self.start : self.end]


def cells_of(parameter: Parameter, *, by_rows: bool) -> list[Cell]:
    """Return the variables that hold ``parameter``: blocks of rows, where it is large and may be cut."""
    whole = parameter.shape[0]
    # A row is not cut, however long.
    many = min(whole, -(-parameter.size // _BLOCK)) if by_rows and parameter.size > _LARGE else 1
    if many == 1:
        return [Cell(parameter.name, parameter, 0, whole)]
    rows, left = divmod(whole, many)
    edges = _edges(rows + (one < left) for one in range(many))
    return [
        Cell(_name(parameter.name, number), parameter, start, end)
        for number, (start, end) in enumerate(edges)
    ]


def parameter_of(values: Mapping[str, Tensor], name: str) -> Any:
    """Return the parameter ``name`` of ``values`` by cell: a tensor, or the rows that it is cut into.

    Raises:
        KeyError: neither is there.
    """
    if name in values:
        return values[name]
    blocks: list[Tensor] = []
    while _name(name, len(blocks)) in values:
        blocks.append(values[_name(name, len(blocks))])
    return Rows(tuple(blocks)) if blocks else values[name]


def _name(parameter: str, number: int) -> str:
    # No name of a parameter has such a sign.
    return f"{parameter}:{number}"


def _edges(lengths: Iterable[int]) -> list[tuple[int, int]]:
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    return list(pairwise(ends))
