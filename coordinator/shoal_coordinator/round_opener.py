"""When a round begins: whom it invites, what it waits for, and why it does not begin."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from shoal_codecs.wire.single import Prekey
from shoal_coordinator.hub_desk import HubDesk
from shoal_coordinator.organs import Organs
from shoal_coordinator.round_parts import Outcome
from shoal_coordinator.round_runner import RoundRunner
from shoal_coordinator.selection import GIVE_ROSTER, NotEnoughDevicesError

LATE_LOOK_MS = 500


class RoundOpener:
    """Opens rounds as they fall due.

    ``enqueue`` puts work on the coordinator's queue, ``finished`` is told of rounds that end unopened,
    ``changed`` when something else is waited for.
    """

    def __init__(
        self,
        organs: Organs,
        runner: RoundRunner,
        hubs: HubDesk,
        enqueue: Callable[[Callable[[], Awaitable[None]]], None],
        finished: Callable[[Outcome], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        self._organs = organs
        self._runner = runner
        self._hubs = hubs
        self._enqueue = enqueue
        self._finished = finished
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None
        self._ask_again_ms = 0

    @property
    def _single(self) -> bool:
        return self._organs.opening.settings.mode == "single"

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    async def consider(self) -> None:
        """Begin a round if one is due and can begin; else see to it that this is looked at again."""
        reason = self._organs.opening.reason
        await self._consider()
        if self._organs.opening.reason != reason:
            self._changed()

    async def _consider(self) -> None:
        organs = self._organs
        if self._runner.machine is not None or not organs.link.is_connected:
            return
        wait_ms = organs.schedule.wait_ms(organs.models.newest.number, organs.clock_ms())
        if wait_ms is None:
            return
        if wait_ms > 0:
            self._look_again(wait_ms)
            return
        try:
            used_up = await self._excused()
            ended, spent = organs.ledger.last_number, organs.privacy.spent()
            # They would have the first turns, for ever, and no round would open with the others.
            unbundled = organs.prekeys.unbundled() if self._single else frozenset[str]()
            choose = partial(
                organs.fleet.cohort,
                ended,
                spent,
                used_up,
                narrowest=organs.levels.narrowest,
                unbundled=unbundled,
            )
            cohort, level = organs.levels.cohort(choose, organs.ledger.upcoming)
        except NotEnoughDevicesError as error:
            if await self._waits_for_nobody_new(str(error)):
                return
        else:
            if await self._opened(cohort, level):
                return
        patience_ms = organs.opening.patience_ms()
        if patience_ms > 0:
            self._look_again(patience_ms)
        else:
            number = await organs.ledger.take_number()
            await self._not_opened(number, organs.opening.give_up())

    async def _opened(self, cohort: tuple[str, ...], level: int) -> bool:
        """Open a round with ``cohort`` if hubs, key bundles and the base allow it; return whether."""
        organs = self._organs
        promises, chosen = self._hubs.promises(), cohort
        prekeys: dict[str, Prekey] = {}
        if self._single:
            prekeys = organs.prekeys.choose(cohort)
            cohort = tuple(prekeys)
        if not self._base_is_free() or not self._one_roster():
            return False
        settings = organs.bytes.settings_for(cohort)
        variants = organs.levels.variants(cohort, level, organs.fleet.percent, settings.codec)
        plan = organs.opening.plan(organs.ledger.upcoming, cohort, promises, prekeys, settings, variants)
        if plan is None:
            return False
        await organs.ledger.take_number()
        # Also who has a key bundle that is none: the places of others would go to it for ever.
        organs.fleet.chosen(chosen)
        organs.bytes.days.opened(organs.clock_ms())
        organs.announcer.event(
            "round.opened",
            f"round {plan.round} opened with {len(cohort)} devices",
            round=plan.round,
            # The one that devices train on; the log's context still has the round before.
            version=organs.models.newest.number,
            devices=len(cohort),
        )
        kept = tuple(promises[hub.hub] for hub in plan.hubs) if plan.mode == "hubs" else ()
        organs.prekeys.spend(prekeys)
        bundles = tuple(prekeys[device] for device in plan.cohort) if plan.mode == "single" else ()
        await self._runner.open(plan, kept, bundles)
        return True

    async def _excused(self) -> frozenset[str]:
        """Return whom not to invite: whose bytes of the day are used up, who works on a late report."""
        organs = self._organs
        used_up = frozenset(organs.bytes.spent(organs.roster.names("device"), organs.clock_ms()))
        if organs.late is None:
            return used_up
        await organs.late.forget_old(organs.models.newest.number, organs.clock_ms())
        return used_up | organs.late.busy

    async def _waits_for_nobody_new(self, too_few: str) -> bool:
        """Return whether there is nobody new to wait for: others are at work, or nobody can pay.

        ``too_few`` says how many lack.
        """
        organs = self._organs
        if organs.late is not None and organs.late.busy:
            organs.opening.reason = "devices are at work on reports to earlier rounds"
            # Each report that comes frees a device.
            self._look_again(LATE_LOOK_MS)
            return True
        organs.opening.block(too_few)
        over = organs.privacy.over()
        if over:
            await self._budget_spent(over)
        return bool(over)

    async def _budget_spent(self, reason: str) -> None:
        """End the rounds: nobody who may come online can pay for another."""
        organs = self._organs
        organs.schedule.stop(organs.models.newest.number)
        await organs.ledger.save_target(organs.schedule.target, reason)
        organs.announcer.event("privacy.spent", reason)
        await self._not_opened(await organs.ledger.take_number(), reason)

    def _base_is_free(self) -> bool:
        """Whether every hub has given up every earlier plan on the newest version; asks those that lack."""
        organs = self._organs
        task, base = organs.models.task.digest, organs.models.newest.digest
        missing = organs.certificates.missing(task, base)
        if not missing:
            return True
        now_ms = organs.clock_ms()
        if now_ms >= self._ask_again_ms:
            self._ask_again_ms = now_ms + organs.timings.resend_ms
            self._hubs.ask_certificates(missing)
        (number, _), hubs = next(iter(missing.items()))
        organs.opening.block(
            f"{', '.join(hubs)} has not certified that round {number} on this version is never released: "
            "start that hub, or make this version the last word on it with `shoal rounds skip`"
        )
        return False

    def _one_roster(self) -> bool:
        """Whether every hub that is there goes by the coordinator's roster, in mode ``hubs``."""
        organs = self._organs
        differing = self._hubs.differing() if organs.opening.settings.mode == "hubs" else ""
        if differing:
            organs.opening.block(f"parties go by other rosters ({differing}): {GIVE_ROSTER}")
        return not differing

    def _look_again(self, wait_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(wait_ms / 1000, self._enqueue, self.consider)

    async def _not_opened(self, number: int, reason: str) -> None:
        outcome = Outcome(round=number, plan_hash=b"", reason=reason)
        await self._organs.ledger.close(outcome)
        await self._finished(outcome)
