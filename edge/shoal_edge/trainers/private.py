"""DP-SGD on examples: what a step of ``train_private`` is given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shoal_codecs.wire.task import Parameter, split_weights
from shoal_edge.trainers.base import ExamplePrivacy
from shoal_edge.trainers.errors import InvalidFitSettingsError

if TYPE_CHECKING:
    from shoal_codecs.privacy.gaussian import GaussianNoise

NOISE_PREFIX = "noise_"
# float32 finds a length off by a few parts in a million: what is clipped stays under the promised bound.
_MARGIN = 1 - 1e-5


class PrivateSteps:
    """The further inputs of ``train_private``: a clip norm and fresh noise for each step.

    ``noise`` gives standard normal numbers; what is added to a sum of clipped gradients has
    ``privacy.noise * privacy.clip`` times theirs.

    Raises:
        InvalidFitSettingsError: clip or noise that is no positive number.
    """

    def __init__(
        self, privacy: ExamplePrivacy, parameters: tuple[Parameter, ...], noise: GaussianNoise | None = None
    ) -> None:
        if not (0 < privacy.clip < math.inf and 0 < privacy.noise < math.inf):
            raise InvalidFitSettingsError(
                f"example clip {privacy.clip} and noise {privacy.noise}: both must be above zero; correct "
                "the round's plan"
            )
        # A trainer that adds no noise needs no cipher: evaluation and self-tests run without one.
        from shoal_codecs.privacy.gaussian import GaussianNoise  # noqa: PLC0415

        self._deviation = privacy.noise * privacy.clip
        self._clip = np.array([privacy.clip * _MARGIN], np.float32)
        self._parameters = parameters
        self._dimension = sum(one.size for one in parameters)
        self._noise = noise or GaussianNoise()

    def inputs(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return clip and noise of one step; no two steps share noise."""
        drawn = (self._noise.draw(self._dimension) * self._deviation).astype(np.float32)
        return {"clip": self._clip, **noise_inputs(drawn, self._parameters)}


def noise_inputs(
    vector: npt.NDArray[np.float32], parameters: tuple[Parameter, ...]
) -> dict[str, npt.NDArray[np.float32]]:
    """Return ``vector`` (D,) as the noise inputs of ``train_private``."""
    parts = split_weights(vector, parameters)
    return {NOISE_PREFIX + name: part for name, part in parts.items()}
