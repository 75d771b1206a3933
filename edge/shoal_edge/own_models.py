"""Which weights a device answers with that keeps something of its own. Worker only: needs numpy."""

from pathlib import Path

from shoal_codecs.wire.task import TaskBundle
from shoal_edge.errors import ModelDimensionError, NoOwnModelError
from shoal_edge.own_tensors import Own, begun, part_for, read_own
from shoal_edge.vectors import Vector, read_vector


def whole(bundle: TaskBundle, own: Own, vector: Vector) -> Vector:
    """Return all weights (D,) of the task: the fleet's ``vector`` with what is this device's ``own``.

    Raises:
        ModelDimensionError: the vector is of another task, or what was kept beside it is gone.
    """
    part = part_for(bundle, own, vector.size)
    if vector.size != part.dimension:
        raise ModelDimensionError(
            f"the model has {vector.size} parameters, the task shares {part.dimension}: plan anew"
        )
    return part.joined(vector, begun(part, own, bundle))


def own_weights(
    bundle: TaskBundle, own_path: Path, model_path: Path | None, digest: bytes, *, personal: bool
) -> Vector:
    """Return the ``personal`` model (D,), or the fleet's newest with the device's own tensors.

    Raises:
        NoOwnModelError: there is no such model here yet.
        ModelDimensionError, VectorFileError: what is here does not belong together.
    """
    own = read_own(own_path)
    if not personal:
        if model_path is None:
            raise NoOwnModelError("no model of the fleet is here yet: let the device take part in a round")
        return whole(bundle, own, read_vector(model_path, digest))
    if own.personal is None or own.personal.size != bundle.dimension:
        raise NoOwnModelError(
            "this device has no model of its own for this task: let it take part in a round"
        )
    return own.personal
