"""Whether a round can begin now: who would take part, what the hubs offer, and what the plan would be."""

import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import structlog
from msgspec.structs import replace

from shoal_codecs.privacy.promise import judge_scale
from shoal_codecs.security.identity import Identity
from shoal_codecs.security.roster import Roster
from shoal_codecs.wire.blob import BlobRef
from shoal_codecs.wire.hubs import HubPromise
from shoal_codecs.wire.plan import HubOffer, Plan
from shoal_codecs.wire.single import Prekey
from shoal_coordinator.chains import ModelVersion
from shoal_coordinator.models import ModelShelf
from shoal_coordinator.plain import plain_offer
from shoal_coordinator.planning import PlanSettings, make_plan
from shoal_coordinator.round_errors import CohortTooSmallError, MissingOfferError

_UNSHOWN = bytes(32)
LONGEST_PATIENCE_MS = 300_000

log = structlog.get_logger()


class Opening:
    """Makes plans; ``reason`` says why none can be made now.

    ``clip_norm`` gives that of rounds that begin with a version, ``rate`` what share of the devices' learning
    rate they have. ``control`` gives the fleet's control at a version, for SCAFFOLD alone.
    """

    def __init__(
        self,
        settings: PlanSettings,
        identity: Identity,
        roster: Roster,
        models: ModelShelf,
        dimension: int,
        *,
        clip_norm: Callable[[int], float],
        rate: Callable[[int], float] = lambda _version: 1.0,
        control: Callable[[ModelVersion], BlobRef] | None = None,
        gather_ms: int,
        clock_ms: Callable[[], int],
    ) -> None:
        self.settings = settings
        self._identity = identity
        self._roster = roster
        self._models = models
        self._dimension = dimension
        self._clip_norm = clip_norm
        self._rate = rate
        self._control = control
        self._gather_ms = gather_ms
        self._clock_ms = clock_ms
        self._blocked_since_ms: int | None = None
        self._given_up = 0
        self._warned = ""
        self.reason = ""

    def plan(
        self,
        number: int,
        cohort: Sequence[str],
        promises: Mapping[str, HubPromise],
        prekeys: Mapping[str, Prekey] = MappingProxyType({}),
        settings: PlanSettings | None = None,
        variants: bytes = b"",
    ) -> Plan | None:
        """Return the plan of round ``number``, None while too few devices or hubs are there.

        ``settings`` are this round's own, where a budget of bytes asks for another codec. In mode ``hubs``
        the plan is a draft: the nonces that the hubs have promised are still to be shown. In mode ``single``
        everybody of ``cohort`` has a key bundle among ``prekeys``. ``variants`` are what they train, by name.

        Raises:
            InvalidRoundPlanError: settings from which no plan can be made.
        """
        names: tuple[str, ...] = self._roster.names("hub")
        offers = {name: HubOffer(name, one.key, _UNSHOWN, _UNSHOWN) for name, one in promises.items()}
        if self.settings.mode in {"plain", "single"}:
            names = (self._identity.name,)
            offers = {self._identity.name: plain_offer(self._identity, os.urandom(32))}
        now_ms, version = self._clock_ms(), self._models.newest.number
        common = settings or self.settings
        try:
            plan = make_plan(
                replace(
                    common,
                    clip_norm=self._clip_norm(version),
                    learning_rate=common.learning_rate * self._rate(version),
                ),
                number=number,
                task=self._models.task.digest,
                base=self._models.newest.digest,
                roster=self._roster.digest,
                dimension=self._dimension,
                cohort=cohort,
                offers=offers,
                hubs=names,
                now_ms=now_ms,
                prekeys=prekeys,
                variants=variants,
                correction=self._control(self._models.newest).digest if self._control else b"",
                source=step.digest if (step := self._models.last_step) else b"",
            )
        except (CohortTooSmallError, MissingOfferError) as error:
            self.block(str(error))
            return None
        self._blocked_since_ms, self._given_up, self.reason = None, 0, ""
        self._warn(judge_scale(plan))
        return plan

    def _warn(self, warning: str) -> None:
        """Say once what is doubtful about plans like these."""
        if warning and warning != self._warned:
            self._warned = warning
            log.warning("plan doubtful", remedy=warning)

    def block(self, reason: str) -> None:
        """Note that no plan can be made now, and why."""
        self.reason = reason
        if self._blocked_since_ms is None:
            self._blocked_since_ms = self._clock_ms()

    def patience_ms(self) -> int:
        """Return how long to go on waiting, quietly, before the round is given up and said so.

        Twice as long each time: it costs a number and a row among the rounds, and the fleet's picture says
        all the while what is waited for.
        """
        patience_ms = min(self._gather_ms << min(self._given_up, 16), LONGEST_PATIENCE_MS)
        if self._blocked_since_ms is None:
            return patience_ms
        return max(0, self._blocked_since_ms + patience_ms - self._clock_ms())

    def give_up(self) -> str:
        """Begin to wait anew and return why no plan could be made."""
        self._blocked_since_ms = None
        self._given_up += 1
        return self.reason
