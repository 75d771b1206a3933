"""A device's own tensors in the model it deploys: the fleet's part as it came, its own where it belongs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.ota.own_places import OwnPlaces, split_own_places
from shoal_edge.trainers.errors import UnusableModelError
from shoal_edge.trainers.runtime import open_model

Tensors = Mapping[str, npt.NDArray[np.float32]]


def with_own_tensors(data: bytes, own: Tensors) -> bytes:
    """Return the flatbuffer of the deployable file ``data`` with tensors of ``own`` (by parameter) in place.

    A parameter that ``own`` lacks, or has in another shape, keeps the value it came with, and so do all.

    Raises:
        OwnPlacesError: the file's places are damaged.
        UnusableModelError: what computes them does not run.
    """
    model, places = split_own_places(data)
    if places is None:
        return model
    fits = all(one.name in own and own[one.name].shape == one.shape for one in places.parameters)
    if not fits:
        return model
    values = _values(places, own)
    filled = bytearray(model)
    for place in places.places:
        raw = np.ascontiguousarray(values[place.source], "<f4").tobytes()
        if len(raw) != place.size:
            raise UnusableModelError(
                f"the model keeps {place.size} bytes for {place.source}, this device has {len(raw)}: "
                "release it again"
            )
        filled[place.offset : place.offset + place.size] = raw
    return bytes(filled)


def _values(places: OwnPlaces, own: Tensors) -> dict[str, npt.NDArray[Any]]:
    """Return the value of every source: own tensors, and what the preparation makes of them."""
    values: dict[str, npt.NDArray[Any]] = dict(own)
    if not places.preparation:
        return values
    interpreter = open_model(places.preparation)
    try:
        interpreter.allocate_tensors()
        for detail, name in zip(interpreter.get_input_details(), places.inputs, strict=True):
            interpreter.set_tensor(detail["index"], own[name])
        interpreter.invoke()
        details = interpreter.get_output_details()
        made = [np.array(interpreter.get_tensor(one["index"])) for one in details]
        return values | dict(zip(places.outputs, made, strict=True))
    except (ValueError, RuntimeError, KeyError) as error:
        raise UnusableModelError(
            f"the model's preparation does not run ({error}): release it again"
        ) from error
