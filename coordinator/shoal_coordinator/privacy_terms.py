"""From the operator's budget to the noise of every plan, before the first round."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import msgspec

from shoal_codecs.privacy.budget import default_delta, judge_fleet, noise_for, refuse_unless_kept
from shoal_codecs.privacy.charge import Charge, price_of
from shoal_codecs.privacy.plan_noise import clip_levels
from shoal_codecs.settings import changed_keys
from shoal_codecs.wire.plan import SHARED_MODES, CodecPlan, PrivacyPlan
from shoal_coordinator.config import PrivacySettings
from shoal_coordinator.round_errors import InvalidRoundPlanError

Mechanism = Literal["skellam", "central", "local-gaussian", "local-laplace"]
CLIP_BIT_SHARE = 0.25
METRIC_SHARE = 0.25
"""Levels of a further coordinate, as a share of the clip norm's: both together cost a tenth more noise."""
_FLOAT_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyTerms:
    """What every round of a coordinator promises.

    ``rounds`` of them keep (``epsilon``, ``delta``) for each device. ``multiplier`` is the noise that the
    operator wants in units of the clip norm, 0 for as little as keeps the budget. ``corrupt_share`` of a
    cohort adds no noise that counts. ``warning`` says what is doubtful about a fleet as small as this.
    """

    mechanism: Mechanism
    epsilon: float
    delta: float
    rounds: int
    multiplier: float = 0.0
    corrupt_share: float = 0.2
    adaptive_clip: bool = False
    metrics: bool = False
    warning: str = ""

    def part(self, codec: CodecPlan, cohort: int) -> PrivacyPlan:
        """Return the privacy part of a plan with this codec for ``cohort`` devices.

        Raises:
            BudgetExceededError: the noise that the operator wants does not last for ``rounds``.
            BudgetUnreachableError: no noise does.
        """
        corrupt = math.ceil(self.corrupt_share * cohort - _FLOAT_SLACK) if self._in_ring else 0
        return msgspec.structs.replace(_part(self, _essence(codec)), corrupt=corrupt)

    def charge(self, codec: CodecPlan) -> Charge:
        """Return what one round with this codec costs a device."""
        return price_of(codec, _part(self, _essence(codec)))

    @property
    def _in_ring(self) -> bool:
        return self.mechanism == "skellam"

    def _with_noise(self, codec: CodecPlan, noise: float) -> PrivacyPlan:
        reach = clip_levels(codec) if self._in_ring else 0.0
        return PrivacyPlan(
            mechanism=self.mechanism,
            noise=noise,
            corrupt=0,
            delta=self.delta,
            clip_bit=round(CLIP_BIT_SHARE * reach) if self.adaptive_clip else 0,
            metric_levels=round(METRIC_SHARE * reach) if self.metrics else 0,
        )


@lru_cache(maxsize=64)
def _part(terms: PrivacyTerms, codec: CodecPlan) -> PrivacyPlan:
    """Return the part without its corrupt devices; the noise is found once for all rounds alike."""
    if terms.multiplier:
        noise = terms.multiplier
        if terms.mechanism == "skellam":
            noise = (terms.multiplier * clip_levels(codec)) ** 2
        part = terms._with_noise(codec, noise)  # noqa: SLF001 - of this module
        refuse_unless_kept(price_of(codec, part), terms.rounds, terms.epsilon, terms.delta)
        return part
    # In units of the clip norm first: so is the search as quick for a wide ring as for a narrow one.
    unit = clip_levels(codec) ** 2 if terms.mechanism == "skellam" else 1.0

    def price(noise: float) -> Charge:
        return price_of(codec, terms._with_noise(codec, noise * unit))  # noqa: SLF001 - of this module

    found = noise_for(price, terms.epsilon, terms.delta, terms.rounds)
    return terms._with_noise(codec, found * unit)  # noqa: SLF001 - of this module


def _essence(codec: CodecPlan) -> CodecPlan:
    """Return ``codec`` without what differs from round to round and changes no price."""
    return msgspec.structs.replace(codec, ring_bits=0, source=b"", clip_norm=1.0)


def make_terms(settings: PrivacySettings, mode: str, fleet: int, cohort: int) -> PrivacyTerms | None:
    """Return the terms that ``settings`` ask for in ``mode``, None where they want no noise.

    ``fleet`` devices are enrolled, ``cohort`` of them wanted in a round.

    Raises:
        InvalidRoundPlanError: a mechanism that the mode does not have, none where other keys ask for noise,
            or numbers that are no budget.
        FleetTooSmallError: so few devices that the model would learn nothing.
        PrivacyNumberError: no devices at all.
    """
    if settings.mechanism == "none":
        if keys := changed_keys(settings):
            # Whoever sets a budget must not take rounds without noise for rounds that keep it.
            raise InvalidRoundPlanError(
                f"rounds.privacy.{', rounds.privacy.'.join(keys)} without noise protects nobody: set "
                "rounds.privacy.mechanism to 'auto', or take that out"
            )
        return None
    shared = mode in SHARED_MODES
    automatic: Mechanism = "skellam" if shared else "central"
    mechanism: Mechanism = automatic if settings.mechanism == "auto" else settings.mechanism
    if (mechanism == "skellam") != shared:
        raise InvalidRoundPlanError(
            f"mechanism {mechanism!r} does not work in mode {mode!r}: set rounds.privacy.mechanism to 'auto'"
        )
    if (settings.adaptive_clip or settings.metrics) and mechanism != "skellam":
        raise InvalidRoundPlanError(
            "the clip bit and the metrics are coordinates of the ring: they need mechanism 'skellam'; set "
            "rounds.privacy.adaptive_clip and metrics to false"
        )
    delta = settings.delta or default_delta(fleet)
    sound = 0 < settings.epsilon < math.inf and 0 < delta < 1 and settings.rounds >= 1
    if not (sound and 0 <= settings.corrupt_share < 1 and 0 <= settings.noise_multiplier < math.inf):
        raise InvalidRoundPlanError(
            "rounds.privacy makes no budget: epsilon and rounds must be positive, delta, corrupt_share and "
            "noise_multiplier small and not negative"
        )
    return PrivacyTerms(
        mechanism=mechanism,
        epsilon=settings.epsilon,
        delta=delta,
        rounds=settings.rounds,
        multiplier=settings.noise_multiplier,
        corrupt_share=settings.corrupt_share,
        adaptive_clip=settings.adaptive_clip,
        metrics=settings.metrics,
        warning=judge_fleet(cohort, settings.epsilon, allow_small=settings.allow_small_fleet),
    )
