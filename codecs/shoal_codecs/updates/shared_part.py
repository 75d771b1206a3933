"""Which coordinates of a task's weights the fleet shares, and which stay on each device.

FedPer (Arivazhagan et al. 2019) keeps a model's head on the device, FedBN (Li et al. 2021, section 3) its
normalisation layers: a round names the parameters, and the fleet's vector is the others in the task's order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from shoal_codecs.updates.base import Float32Vector, check_shape
from shoal_codecs.updates.errors import LocalParameterError, VectorShapeError
from shoal_codecs.wire.task import Parameter, dimension, split_weights

OwnTensors = Mapping[str, Float32Vector]
"""A device's own tensors by the names of their parameters, each in its parameter's shape."""


@dataclass(frozen=True, slots=True)
class SharedPart:
    """The parameters of a task without those named in ``local``, which never leave the device.

    Raises:
        LocalParameterError: a name the task does not have or that stands twice, or nothing is left to share.
    """

    parameters: tuple[Parameter, ...]
    local: tuple[str, ...] = ()
    shared: tuple[Parameter, ...] = field(init=False)
    own: tuple[Parameter, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = {one.name for one in self.parameters}
        unknown = sorted(set(self.local) - names)
        if unknown or len(set(self.local)) != len(self.local):
            raise LocalParameterError(
                f"`local` names {', '.join(unknown) or 'a parameter twice'}, the task has "
                f"{', '.join(sorted(names))}: name each parameter that stays on the device once"
            )
        if len(self.local) == len(self.parameters):
            raise LocalParameterError("every parameter stays on the device: leave at least one to share")
        kept = frozenset(self.local)
        object.__setattr__(self, "shared", tuple(one for one in self.parameters if one.name not in kept))
        object.__setattr__(self, "own", tuple(one for one in self.parameters if one.name in kept))

    @property
    def dimension(self) -> int:
        """Length of the fleet's vector."""
        return dimension(self.shared)

    def of(self, weights: Float32Vector) -> Float32Vector:
        """Return the fleet's vector out of all ``weights`` (D,); itself where nothing is local."""
        check_shape(weights, dimension(self.parameters))
        if not self.local:
            return weights
        views = split_weights(weights, self.parameters)
        return np.concatenate([views[one.name].reshape(-1) for one in self.shared])

    def own_of(self, weights: Float32Vector) -> dict[str, Float32Vector]:
        """Return copies of the tensors among all ``weights`` (D,) that stay on the device."""
        check_shape(weights, dimension(self.parameters))
        views = split_weights(weights, self.parameters)
        return {one.name: views[one.name].copy() for one in self.own}

    def joined(self, vector: Float32Vector, own: OwnTensors) -> Float32Vector:
        """Return all weights (D,) of the fleet's ``vector`` and a device's ``own`` tensors.

        Raises:
            VectorShapeError: a vector of another length, or a tensor that is missing or of another shape.
        """
        check_shape(vector, self.dimension)
        if not self.local:
            return vector
        parts = split_weights(vector, self.shared)
        for one in self.own:
            tensor = own.get(one.name)
            if tensor is None or tensor.shape != one.shape or tensor.dtype != np.float32:
                raise VectorShapeError(
                    f"this device's own {one.name} is no float32 of {one.shape}: remove its file"
                )
            parts[one.name] = tensor
        return np.concatenate([parts[one.name].reshape(-1) for one in self.parameters])
