"""One rollout as the coordinator decides it: DRAFT -> CANARY -> ALL -> COMPLETE, or ABORTED, or WITHDRAWN.

A transition table, events and a clock in, actions out. Level-triggered: every tick compares where each device
stands with where it should, so that a lost order or report delays and never wedges.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from shoal_codecs.ota.health import UNTOLD
from shoal_codecs.wire.heartbeat import Reading
from shoal_coordinator.registry import DeviceView
from shoal_coordinator.release_errors import NoCanaryError, UnexpectedRolloutEventError
from shoal_coordinator.rollout_steps import (
    Announce,
    DeviceProgress,
    Order,
    Persist,
    PersistDevice,
    Reported,
    Restored,
    RolloutAction,
    RolloutEvent,
    RolloutRules,
    RolloutState,
    Seen,
    Started,
    Stop,
    Tick,
    Withdraw,
)

Actions = list[RolloutAction]
CONFIRMED, ROLLED_BACK, FAILED, OFFERED, MISSING = "confirmed", "rolled-back", "failed", "offered", "missing"
FAILURES = frozenset({ROLLED_BACK, "refused", MISSING})
SAID = frozenset({ROLLED_BACK, "refused", FAILED})
REPORTABLE = frozenset({"fetching", "installing", "testing", CONFIRMED, ROLLED_BACK, "refused", FAILED})
S = RolloutState


def choose_canaries(views: Iterable[DeviceView], count: int, min_examples: int) -> tuple[str, ...]:
    """Return the ``count`` devices of the roster that go first: online, with the most held-out examples.

    Those that keep their counts to themselves come last, for nobody knows whether they have enough.

    Raises:
        NoCanaryError: none has ``min_examples`` of them.
    """
    fit = [
        view
        for view in views
        if view.trusted and view.online and (view.number(Reading.HELD_OUT) >= min_examples or view.is_quiet)
    ]
    fit.sort(key=lambda view: (-view.number(Reading.HELD_OUT), view.name))
    if count > 0 and not fit:
        raise NoCanaryError(
            f"no device is online with {min_examples} held-out examples to judge a release by: "
            "wait for one, or lower releases.min_examples"
        )
    return tuple(view.name for view in fit[: max(count, 0)])


class Rollout:
    """The decisions of one rollout; ``state``, ``reason`` and ``devices`` are for reading only."""

    def __init__(
        self,
        release: str,
        devices: Iterable[str],
        canaries: Iterable[str],
        rules: RolloutRules,
        *,
        state: RolloutState = S.DRAFT,
        reason: str = "",
        progress: Mapping[str, DeviceProgress] | None = None,
    ) -> None:
        self.release = release
        self.canaries = tuple(canaries)
        self.rules = rules
        self.state = state
        self.reason = reason
        names = dict.fromkeys((*self.canaries, *devices))
        self.devices = {name: (progress or {}).get(name, DeviceProgress()) for name in names}

    def handle(self, event: RolloutEvent, now_ms: int) -> Actions:
        """Return what is to be done, in order, because of ``event``.

        Raises:
            UnexpectedRolloutEventError: the table has no such event in this state.
        """
        try:
            step = self._table[self.state, type(event)]
        except KeyError:
            raise UnexpectedRolloutEventError(
                f"{type(event).__name__} has no place in a release that is {self.state}"
            ) from None
        if isinstance(event, Reported | Seen) and event.device not in self.devices:
            return []
        return step(self, event, now_ms)

    def count(self, *states: str) -> int:
        """Return how many devices are in one of ``states``."""
        return sum(one.state in states for one in self.devices.values())

    # Every step below takes the event its table row names.

    def _start(self, _event: Any, _now_ms: int) -> Actions:
        if not self.canaries:
            return self._to_all("without a canary")
        names = ", ".join(self.canaries)
        return self._enter(S.CANARY, f"release {self.release} goes to {names} first")

    def _reported(self, event: Reported, now_ms: int) -> Actions:
        if event.state not in REPORTABLE or (self.state is S.CANARY and event.device not in self.canaries):
            return []
        before = self.devices[event.device]
        if self._is_final(before) and before.state != MISSING:
            return []
        self._note(
            event.device,
            state=event.state,
            reason=event.reason,
            candidate=event.candidate,
            replaced=event.replaced,
            heard_ms=now_ms,
        )
        news: Actions = [PersistDevice(event.device)] if before.state != event.state else []
        if news and event.state in SAID:
            text = f"{event.device} {event.state} release {self.release}: {event.reason}"
            news.append(Announce(f"release.device-{event.state}", text))
        return [*news, *self._advance()]

    def _reported_after_stop(self, event: Reported, now_ms: int) -> Actions:
        """Keep how it ended; a device still at work has not heard that it is over."""
        actions = self._reported(event, now_ms)
        if event.state in {"fetching", "installing", "testing"}:
            actions.append(Stop(event.device, self.reason))
        return actions

    def _seen(self, event: Seen, now_ms: int) -> Actions:
        """Order again where a confirmed device runs something else: its disk was replaced, or restored."""
        one = self.devices[event.device]
        settled = now_ms - one.heard_ms > 2 * self.rules.resend_ms
        if one.state != CONFIRMED or event.release == self.release or event.working or not settled:
            return []
        return self._order(event.device, now_ms, retried=0)

    def _tick(self, event: Tick, now_ms: int) -> Actions:
        actions: Actions = []
        wanted = self.canaries if self.state is S.CANARY else tuple(self.devices)
        for name in wanted:
            actions += self._look_after(name, now_ms, online=name in event.online)
        return [*actions, *self._advance()]

    def _look_after(self, name: str, now_ms: int, *, online: bool) -> Actions:
        one = self.devices[name]
        if self._is_final(one):
            return []
        if not online and self.state is not S.CANARY:
            # An absent device is no failure; it is ordered when it is back.
            self._note(name, heard_ms=now_ms, ordered_ms=0)
            return []
        if not one.heard_ms:
            self._note(name, heard_ms=now_ms)
        elif now_ms - one.heard_ms >= self.rules.report_ms:
            self._note(name, state=MISSING, reason=f"no word for {self.rules.report_ms / 1000:g} s")
            return [PersistDevice(name)]
        if not online or (one.ordered_ms and now_ms - one.ordered_ms < self.rules.resend_ms):
            return []
        return self._order(name, now_ms, retried=one.retried + (one.state == FAILED))

    def _order(self, name: str, now_ms: int, *, retried: int) -> Actions:
        one = self.devices[name]
        begin = one.state in {"", FAILED, CONFIRMED}
        self._note(
            name,
            state=OFFERED if begin else one.state,
            ordered_ms=now_ms,
            heard_ms=now_ms if begin else self.devices[name].heard_ms,
            retried=retried,
        )
        return [*([PersistDevice(name)] if begin else []), Order(name)]

    def _advance(self) -> Actions:
        """Move the stage on where its devices allow it, or abort."""
        if self.state is S.CANARY:
            return self._advance_canary()
        if self.state is not S.ALL:
            return []
        failed = [name for name, one in self.devices.items() if self._has_failed(one)]
        if len(failed) > self.rules.failure_share * len(self.devices):
            return self._abort(
                f"{len(failed)} of {len(self.devices)} devices failed: {self._why(failed[-1])}"
            )
        if all(self._is_final(one) for one in self.devices.values()):
            confirmed = self.count(CONFIRMED)
            return self._enter(
                S.COMPLETE, f"release {self.release} runs on {confirmed} of {len(self.devices)} devices"
            )
        return []

    def _advance_canary(self) -> Actions:
        for name in self.canaries:
            one = self.devices[name]
            if self._has_failed(one):
                return self._abort(f"canary {self._why(name)}")
            told = one.candidate != UNTOLD
            if one.state == CONFIRMED and told and one.candidate[0] < self.rules.min_examples:
                return self._abort(
                    f"canary {name} judged by {one.candidate[0]} examples, "
                    f"{self.rules.min_examples} are needed"
                )
        if all(self.devices[name].state == CONFIRMED for name in self.canaries):
            return self._to_all(f"confirmed by {', '.join(self.canaries)}")
        return []

    def _to_all(self, why: str) -> Actions:
        return self._enter(S.ALL, f"release {self.release} goes to everybody, {why}")

    def _withdraw(self, event: Withdraw, _now_ms: int) -> Actions:
        return self._stop(S.WITHDRAWN, event.reason)

    def _abort(self, reason: str) -> Actions:
        return self._stop(S.ABORTED, reason)

    def _stop(self, state: RolloutState, reason: str) -> Actions:
        self.reason = reason
        actions = self._enter(state, f"release {self.release} {state}: {reason}")
        under_way = [name for name, one in self.devices.items() if one.state and not self._is_final(one)]
        return [*actions, *(Stop(name, reason) for name in under_way)]

    def _nothing(self, _event: Any, _now_ms: int) -> Actions:
        return []

    def _enter(self, state: RolloutState, text: str) -> Actions:
        self.state = state
        return [Persist(), Announce(f"release.{state}", text)]

    def _note(self, name: str, **changes: Any) -> None:
        self.devices[name] = msgspec.structs.replace(self.devices[name], **changes)

    def _is_final(self, one: DeviceProgress) -> bool:
        return one.state == CONFIRMED or self._has_failed(one)

    def _has_failed(self, one: DeviceProgress) -> bool:
        return one.state in FAILURES or (one.state == FAILED and one.retried >= self.rules.retries)

    def _why(self, name: str) -> str:
        one = self.devices[name]
        return f"{name} {one.state}: {one.reason}"

    _table: ClassVar[dict[tuple[RolloutState, type], Callable[..., Actions]]] = {
        (S.DRAFT, Started): _start,
        (S.DRAFT, Restored): _start,
        (S.DRAFT, Withdraw): _withdraw,
        (S.DRAFT, Reported): _nothing,
        (S.DRAFT, Seen): _nothing,
        (S.DRAFT, Tick): _nothing,
        (S.CANARY, Reported): _reported,
        (S.CANARY, Tick): _tick,
        (S.CANARY, Seen): _nothing,
        (S.CANARY, Withdraw): _withdraw,
        (S.CANARY, Restored): _nothing,
        (S.ALL, Reported): _reported,
        (S.ALL, Tick): _tick,
        (S.ALL, Seen): _seen,
        (S.ALL, Withdraw): _withdraw,
        (S.ALL, Restored): _nothing,
        (S.COMPLETE, Reported): _reported,
        (S.COMPLETE, Tick): _tick,
        (S.COMPLETE, Seen): _seen,
        (S.COMPLETE, Withdraw): _withdraw,
        (S.COMPLETE, Restored): _nothing,
        (S.ABORTED, Reported): _reported_after_stop,
        (S.ABORTED, Tick): _nothing,
        (S.ABORTED, Seen): _nothing,
        (S.ABORTED, Restored): _nothing,
        (S.WITHDRAWN, Reported): _reported_after_stop,
        (S.WITHDRAWN, Tick): _nothing,
        (S.WITHDRAWN, Seen): _nothing,
        (S.WITHDRAWN, Restored): _nothing,
    }

    @classmethod
    def expected(cls, state: RolloutState) -> frozenset[type]:
        """Return the kinds of event that the table lists for ``state``."""
        return frozenset(kind for at, kind in cls._table if at is state)
