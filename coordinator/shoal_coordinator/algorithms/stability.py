"""Whether a round is out of bounds: then its version is not kept.

Pure: what is known of earlier versions in, a fault in words out. The median bears with a minority of devices
that say what they like.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median

import msgspec

from shoal_codecs.settings import AtLeastOne, NotNegative
from shoal_coordinator.round_steps import Evaluation

_FEWEST = 5
_LEAST_LOSS = 0.2
"""Below this a loss is so small that its multiples mean nothing (nats, or squared error)."""


class StabilitySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a round's version is not kept; 0 switches a bound off.

    ``norm_limit`` is how many times the median norm of the last ``window`` mean updates a new one may have,
    ``loss_limit`` how many times the loss before it a version may have on the devices' held-out examples.
    """

    norm_limit: NotNegative = 10.0
    loss_limit: NotNegative = 5.0
    window: AtLeastOne = 20


class Stability:
    """What is known of earlier versions: ``norms`` of their mean updates, the last median ``loss``."""

    def __init__(self, settings: StabilitySettings) -> None:
        self._settings = settings
        self.norms: deque[float] = deque(maxlen=settings.window)
        self.loss: float | None = None

    def took(self, update_norm: float, loss: float | None) -> None:
        """Learn of a version that was kept; without a norm, or a ``loss``, it says nothing of that."""
        if update_norm > 0:
            self.norms.append(update_norm)
        if loss is not None and math.isfinite(loss):
            self.loss = loss

    def norm_fault(self, norm: float) -> str:
        """Return why a mean update of L2 ``norm`` is out of bounds, empty if it is not."""
        limit = self._settings.norm_limit
        if not math.isfinite(norm):
            return "the mean update is no number: lower rounds.learning_rate"
        if not limit or len(self.norms) < _FEWEST:
            return ""
        usual = median(self.norms)
        if norm <= limit * usual:
            return ""
        return (
            f"the mean update has a norm of {norm:.3g}, over {limit:g} times the usual {usual:.3g}: lower "
            "rounds.learning_rate, look at the devices, or raise rounds.stability.norm_limit"
        )

    def loss_fault(self, evaluations: Mapping[str, Evaluation]) -> str:
        """Return why a version that did so on devices is out of bounds, empty if it is not."""
        limit = self._settings.loss_limit
        found = middle_loss(evaluations)
        if found is None or not limit:
            return ""
        if not math.isfinite(found):
            return "the version answers no numbers on most devices: lower rounds.learning_rate"
        if self.loss is None or found <= limit * max(self.loss, _LEAST_LOSS):
            return ""
        return (
            f"the version has a loss of {found:.3g}, over {limit:g} times the {self.loss:.3g} before: lower "
            "rounds.learning_rate or server_learning_rate, send more of each update (rounds.kept_share, "
            "rounds.codec), or raise rounds.stability.loss_limit"
        )


def middle_loss(evaluations: Mapping[str, Evaluation]) -> float | None:
    """Return the median of the devices' mean losses, None where nobody evaluated.

    Not weighted by examples, which are a device's word too: with many of them one would be the mean.
    """
    losses = [one.loss_sum / one.examples for one in evaluations.values() if one.examples]
    return median(losses) if losses else None


def stability_of(settings: StabilitySettings, versions: Iterable[tuple[float, float | None]]) -> Stability:
    """Return what ``versions`` (update norm, median loss; oldest first) say."""
    known = Stability(settings)
    for norm, loss in versions:
        known.took(norm, loss)
    return known
