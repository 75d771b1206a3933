"""Weights as int8 levels with one scale a channel: how a frozen backbone is kept in a small file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from shoal_coordinator.authoring.errors import LayerSettingError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LEVELS = 127
_LEVELS, _SCALES = "_levels", "_scales"


@dataclass(frozen=True, eq=False)
class Int8Weights:
    """``levels`` int8 (..., c) times ``scales`` float32 (c,); a frozen layer takes it for an array."""

    levels: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.levels.dtype.name != "int8" or self.scales.shape != self.levels.shape[-1:]:
            raise LayerSettingError(
                f"int8 weights of {self.levels.dtype} {self.levels.shape} with scales {self.scales.shape}: "
                "levels are int8, and the last axis has a scale for each entry"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights."""
        return self.levels.shape

    @classmethod
    def of(cls, weights: npt.NDArray[Any]) -> Self:
        """Round ``weights`` (..., c), each channel by its own largest; off by half a level at most."""
        import numpy as np  # noqa: PLC0415 - descriptions without such weights need no numpy

        largest = np.abs(weights).max(axis=tuple(range(weights.ndim - 1)))
        scales = np.where(largest > 0, largest / LEVELS, 1.0).astype(np.float32)
        return cls(np.rint(weights / scales).astype(np.int8), scales)


def packed(weights: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return arrays for ``numpy.savez``: of two axes and more as levels and scales, others as they are."""
    arrays = {}
    for name, value in weights.items():
        if value.ndim < 2:
            arrays[name] = value
        else:
            rounded = Int8Weights.of(value)
            arrays[name + _LEVELS], arrays[name + _SCALES] = rounded.levels, rounded.scales
    return arrays


def unpacked(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any] | Int8Weights]:
    """Return what ``packed`` made, for ``freeze``."""
    weights: dict[str, npt.NDArray[Any] | Int8Weights] = {}
    for name, value in arrays.items():
        stem = name.removesuffix(_LEVELS)
        if stem != name:
            weights[stem] = Int8Weights(value, arrays[stem + _SCALES])
        elif not name.endswith(_SCALES):
            weights[name] = value
    return weights
