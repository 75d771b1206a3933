"""The coordinator's copy of every device's privacy ledger: for planning and display.

The device's own ledger is the one that counts. A device is charged here before its invitation is sent, so
that whatever it sends was paid for. Only its own signed word lifts the charge: that it takes no part, said
before any that it does, or that nothing of a report has left it. So the copy is never below what was sent.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import structlog

from shoal_codecs.privacy.budget import rounds_within
from shoal_codecs.privacy.charge import Charge, charge_of
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.plan import Plan
from shoal_coordinator.privacy_terms import PrivacyTerms
from shoal_coordinator.store import PrivatePlanRecord, Store

INVITED, ACCEPTED, DECLINED = "invited", "accepted", "declined"
# What a device's state may become: that it takes part is taken back only where nothing was sent.
_FOLLOWS = {ACCEPTED: frozenset({INVITED, DECLINED}), DECLINED: frozenset({INVITED})}
_UNSENT = frozenset({INVITED, ACCEPTED})
Kinds = tuple[tuple[int, int], ...]
"""How many rounds of each kind of charge; the same for devices that took part alike."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Spent:
    """What a version has cost: ``epsilon`` the most any device spent, ``task_epsilon`` all its rounds."""

    epsilon: float
    task_epsilon: float
    delta: float


class PrivacyBook:
    """What each device has spent; ``terms`` are None where rounds add no noise, and nothing is charged.

    ``charge`` is what the next round costs a device.
    """

    def __init__(
        self,
        store: Store,
        task: bytes,
        clock_ms: Callable[[], int],
        terms: PrivacyTerms | None = None,
        charge: Charge | None = None,
    ) -> None:
        self.terms = terms
        self._store = store
        self._task = task
        self._clock_ms = clock_ms
        self._charge = charge or Charge()
        self._plans: dict[bytes, PrivatePlanRecord] = {}
        self._states: dict[str, dict[bytes, str]] = {}
        self._charges: list[Charge] = []
        self._kinds: dict[bytes, int] = {}
        self._totals: dict[Kinds, Charge] = {}
        self._left: dict[Kinds, int] = {}
        self._alikes: dict[str, Kinds] = {}
        self._unprivate = False

    async def load(self) -> None:
        """Read what earlier processes wrote."""
        for plan in await self._store.private_plans():
            self._know(plan)
        for one in await self._store.participations():
            self._note(one.device, one.plan_hash, one.state)
        self._unprivate = any(
            version.number and version.epsilon is None for version in await self._store.versions()
        )

    # --- what happens ---------------------------------------------------------------------------

    async def invited(self, plan: Plan, plan_hash: bytes, devices: Sequence[str]) -> None:
        """Charge ``devices`` for ``plan``, durably, before they are invited; each is charged once."""
        if plan.privacy is None:
            return
        news = [device for device in devices if plan_hash not in self._states.get(device, {})]
        if not news:
            return
        record = self._plans.get(plan_hash) or PrivatePlanRecord(
            plan_hash=plan_hash,
            task=plan.task,
            round=plan.round,
            mechanism=plan.privacy.mechanism,
            noise=plan.privacy.noise,
            charge=pack(charge_of(plan)),
            at_ms=self._clock_ms(),
        )
        await self._store.save_participations(record, news, INVITED)
        self._know(record)
        for device in news:
            self._note(device, plan_hash, INVITED)

    async def replied(self, device: str, plan_hash: bytes, *, accepted: bool, unsent: bool = False) -> None:
        """Note a device's own word on a plan it was invited to; ``unsent`` that nothing has left it."""
        if unsent and not accepted:
            await self._become(device, plan_hash, DECLINED, after=_UNSENT)
        else:
            await self._become(device, plan_hash, ACCEPTED if accepted else DECLINED)

    def find(self, number: int, plan_id: bytes) -> bytes:
        """Return the hash of the plan with noise that a reply is about, empty where there is none."""
        return next(
            (
                plan.plan_hash
                for plan in reversed(self._plans.values())
                if plan_id and plan.round == number and plan.plan_hash.startswith(plan_id)
            ),
            b"",
        )

    async def took_part(self, plan_hash: bytes, devices: Iterable[str]) -> None:
        """Note whose reports are in a sum."""
        for device in devices:
            await self._become(device, plan_hash, ACCEPTED)

    def committed(self, plan_hash: bytes) -> Spent | None:
        """Return what the version that this plan makes has cost, None where noise was missing once.

        A version that is skipped has no plan (``plan_hash`` is empty): it tells nothing and costs nothing.
        """
        self._unprivate = self._unprivate or bool(plan_hash and plan_hash not in self._plans)
        if self._unprivate or self.terms is None:
            return None
        return Spent(self.largest(), self.task_epsilon(), self.terms.delta)

    # --- what it means --------------------------------------------------------------------------

    @property
    def devices(self) -> tuple[str, ...]:
        """Everybody who was ever charged."""
        return tuple(sorted(self._states))

    def states(self, device: str) -> list[tuple[PrivatePlanRecord, str]]:
        """Return every plan that ``device`` was invited to and how it stands to it, oldest first."""
        found = self._states.get(device, {})
        return [(plan, found[plan.plan_hash]) for plan in self._plans.values() if plan.plan_hash in found]

    def history(self, device: str) -> tuple[tuple[str, float, int], ...]:
        """Return (mechanism, noise, rounds) of what ``device`` is charged for."""
        counted = Counter(
            (plan.mechanism, plan.noise) for plan, state in self.states(device) if state != DECLINED
        )
        return tuple((mechanism, noise, count) for (mechanism, noise), count in sorted(counted.items()))

    def rounds(self, device: str) -> int:
        """Return the number of rounds that ``device`` is charged for."""
        return sum(count for _, count in self._alike(device))

    def epsilon(self, device: str) -> float:
        """Return what ``device`` has spent, over all tasks of this coordinator."""
        return self._epsilon(self._alike(device))

    def largest(self) -> float:
        """Return the most that any device has spent."""
        return max((self._epsilon(kinds) for kinds in set(map(self._alike, self._states))), default=0.0)

    def task_epsilon(self) -> float:
        """Return what all rounds of the present task cost together: a bound for every device."""
        counted = Counter(
            self._kinds[plan.charge] for plan in self._plans.values() if plan.task == self._task
        )
        return self._epsilon(tuple(sorted(counted.items())))

    def left(self, device: str) -> int:
        """Return how many rounds more ``device`` can pay for."""
        terms = self.terms
        if terms is None:
            return 0
        kinds = self._alike(device)
        if kinds not in self._left:
            self._left[kinds] = rounds_within(self._charge, terms.epsilon, terms.delta, self._total(kinds))
        return self._left[kinds]

    def out_of_budget(self, devices: Collection[str]) -> frozenset[str]:
        """Return which of ``devices`` cannot pay for another round."""
        if self.terms is None:
            return frozenset()
        return frozenset(device for device in devices if not self.left(device))

    def rounds_left(self, devices: Collection[str], cohort: int) -> int:
        """Return how many rounds of ``cohort`` devices can still be filled from ``devices``.

        The largest R for which each device takes part in at most R and in as many as it can pay for, and
        together in R times ``cohort``: such rounds can be filled by always taking those with the most left.
        """
        left = sorted(map(self.left, devices), reverse=True)
        low, high = 0, sum(left) // max(cohort, 1)
        while low < high:
            middle = (low + high + 1) // 2
            enough = sum(min(one, middle) for one in left) >= middle * cohort
            low, high = (middle, high) if enough else (low, middle - 1)
        return low

    # --- inside ---------------------------------------------------------------------------------

    def _know(self, plan: PrivatePlanRecord) -> None:
        if plan.charge not in self._kinds:
            self._kinds[plan.charge] = len(self._charges)
            self._charges.append(unpack(plan.charge, Charge))
        self._plans[plan.plan_hash] = plan

    async def _become(
        self, device: str, plan_hash: bytes, state: str, after: frozenset[str] = frozenset()
    ) -> None:
        now = self._states.get(device, {}).get(plan_hash, "")
        if now not in (after or _FOLLOWS[state]):
            return
        await self._store.save_participations(self._plans[plan_hash], (device,), state)
        self._note(device, plan_hash, state)

    def _note(self, device: str, plan_hash: bytes, state: str) -> None:
        self._states.setdefault(device, {})[plan_hash] = state
        self._alikes.pop(device, None)

    def _alike(self, device: str) -> Kinds:
        if device not in self._alikes:
            found = self._states.get(device, {})
            counted = Counter(
                self._kinds[self._plans[plan].charge] for plan, state in found.items() if state != DECLINED
            )
            self._alikes[device] = tuple(sorted(counted.items()))
        return self._alikes[device]

    def _total(self, kinds: Kinds) -> Charge:
        if kinds not in self._totals:
            total = Charge()
            for kind, count in kinds:
                total += self._charges[kind].times(count)
            self._totals[kinds] = total
        return self._totals[kinds]

    def _epsilon(self, kinds: Kinds) -> float:
        if self.terms is None or not kinds:
            return 0.0
        return self._total(kinds).epsilon(self.terms.delta)
