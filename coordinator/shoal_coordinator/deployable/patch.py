"""Filling the places of a template: numbers of a flatbuffer are overwritten, no byte else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.artefact_errors import InvalidTemplateError

Values = npt.NDArray[np.float32]
INT8_LOW, INT8_HIGH = -128, 127
# Weights leave -128 out, as the kernels demand.
_WEIGHT_LIMIT = 127
_STEPS = 255
# Scales under this make the kernels' fixed-point multipliers underflow; a silent layer gets it.
_SMALLEST_SCALE = 1e-8


class Patch:
    """A private copy of a flatbuffer whose vectors are overwritten in place.

    Affine quantisation as in the LiteRT 8-bit quantisation specification.
    """

    def __init__(self, model: bytes) -> None:
        self._data = bytearray(model)
        self._model = schema.Model.GetRootAs(self._data, 0)
        self._graph = self._model.Subgraphs(0)

    def set_values(self, tensor: int, values: npt.NDArray[Any]) -> None:
        """Write ``values``, already of the tensor's dtype, into the tensor's buffer."""
        target = self._tensor(tensor)
        raw = self._model.Buffers(target.Buffer()).DataAsNumpy()
        fresh = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        if isinstance(raw, int) or raw.shape != fresh.shape:
            raise InvalidTemplateError(
                f"tensor {tensor} of the template has no room for its weights: author the task again"
            )
        raw[:] = fresh

    def set_activation(self, tensor: int, low: float, high: float) -> None:
        """Set scale and zero point so that int8 covers low to high, zero included exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / _STEPS, _SMALLEST_SCALE)
        zero = int(np.clip(np.rint(INT8_LOW - low / scale), INT8_LOW, INT8_HIGH))
        self._scales(tensor)[:] = scale
        self._zeros(tensor)[:] = zero

    def set_symmetric(self, tensor: int, values: Values) -> None:
        """Quantise ``values`` around zero, per tensor or per channel as the template has it."""
        scales = self._scales(tensor)
        axis = self._tensor(tensor).Quantization().QuantizedDimension()
        across: tuple[int, ...] | None = None
        if len(scales) > 1:
            across = tuple(one for one in range(values.ndim) if one != axis)
        greatest = np.abs(values).max(axis=across, keepdims=True)
        step = np.maximum(greatest / _WEIGHT_LIMIT, _SMALLEST_SCALE).astype(np.float32)
        scales[:] = step.reshape(-1)
        quantised = np.clip(np.rint(values / step), -_WEIGHT_LIMIT, _WEIGHT_LIMIT)
        self.set_values(tensor, quantised.astype(np.int8))

    def set_asymmetric(self, tensor: int, values: Values) -> None:
        """Quantise ``values`` between their least and greatest, zero included exactly."""
        self.set_activation(tensor, float(values.min()), float(values.max()))
        scale, zero = self._scales(tensor), self._zeros(tensor)
        quantised = np.clip(np.rint(values / scale[0]) + zero[0], INT8_LOW, INT8_HIGH)
        self.set_values(tensor, quantised.astype(np.int8))

    def set_bias(self, tensor: int, values: Values, input_tensor: int, weight_tensor: int) -> None:
        """Quantise a bias to int32 at the scales its layer now has."""
        step = self._scales(input_tensor) * self._scales(weight_tensor)
        self._scales(tensor)[:] = step
        limits = np.iinfo(np.int32)
        # A silent layer's scale may underflow in the product.
        divisor = np.maximum(step.astype(np.float64), np.finfo(np.float32).tiny)
        quantised = np.clip(np.rint(values / divisor), limits.min, limits.max)
        self.set_values(tensor, quantised.astype(np.int32))

    def copy_scale(self, tensor: int, other: int) -> None:
        """Give ``tensor`` the scale that ``other`` now has."""
        self._scales(tensor)[:] = self._scales(other)

    def where(self, tensor: int) -> tuple[int, int]:
        """Return (offset, size) in bytes of the tensor's buffer in the file."""
        raw = self._model.Buffers(self._tensor(tensor).Buffer()).DataAsNumpy()
        return int(raw.ctypes.data - np.frombuffer(self._data, np.uint8).ctypes.data), int(raw.size)

    def finish(self) -> bytes:
        """Return the filled file."""
        return bytes(self._data)

    def _tensor(self, index: int) -> Any:
        if not 0 <= index < self._graph.TensorsLength():
            raise InvalidTemplateError(f"the template has no tensor {index}: author the task again")
        return self._graph.Tensors(index)

    def _scales(self, tensor: int) -> npt.NDArray[np.float32]:
        quantisation = self._tensor(tensor).Quantization()
        scales: Any = None if quantisation is None else quantisation.ScaleAsNumpy()
        if not isinstance(scales, np.ndarray) or quantisation.ZeroPointIsNone():
            raise InvalidTemplateError(f"tensor {tensor} of the template has no scale: author the task again")
        return scales

    def _zeros(self, tensor: int) -> npt.NDArray[np.int64]:
        zeros: npt.NDArray[np.int64] = self._tensor(tensor).Quantization().ZeroPointAsNumpy()
        return zeros
