"""The devices as the coordinator hears them: who came and went, what they hold, whom to invite."""

import random
from collections.abc import Collection
from dataclasses import replace

from shoal_codecs.updates.slices import FULL
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.status import DeviceRow
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.declines import Declines
from shoal_coordinator.registry import DeviceView, Registry
from shoal_coordinator.selection import SelectionRules, able, select
from shoal_coordinator.store import Store
from shoal_coordinator.turns import Turns

_KEPT = (Reading.EXAMPLES, Reading.HELD_OUT, Reading.METRICS, Reading.WIDTH)
_KEY = "device-readings"
ASK_MS = 5_000


class FleetDesk:
    """The registry, its events, and what of it outlives a restart of the coordinator.

    Telemetry comes seldom; how many examples a device has is kept, so that a restarted coordinator need not
    wait for the next full heartbeat of everybody.
    """

    def __init__(
        self,
        registry: Registry,
        rules: SelectionRules,
        store: Store,
        announcer: Announcer,
        rng: random.Random,
    ) -> None:
        self.registry = registry
        self._rules = rules
        self._store = store
        self._announcer = announcer
        self._rng = rng
        self._turns = Turns()
        self._able: frozenset[str] = frozenset()
        self._kept: dict[str, dict[int, int | str]] = {}
        self._versions: dict[bytes, int] = {}
        self._asked_ms: dict[str, int] = {}
        self._declines = Declines()

    async def load(self) -> None:
        """Take up what an earlier process knew."""
        stored = await self._store.get_record(_KEY, dict[str, dict[int, int | str]]) or {}
        for name, readings in stored.items():
            for reading in _KEPT:
                if reading in readings:
                    self.registry.note(name, reading, readings[reading])
            self._kept[name] = readings

    def know_version(self, model_id: bytes, number: int) -> None:
        """Learn which version a model id belongs to, for status views."""
        self._versions[model_id] = number

    def hear_status(self, message: wire.DeviceStatus, now_ms: int) -> tuple[bool, bool]:
        """Take a status or a Will; return whether the device came or went, and whether it started again."""
        before = self.registry.view(message.sender)
        session = before.session if before is not None else b""
        changed = self.registry.hear_status(message, now_ms)
        if changed:
            self._say(message.sender, online=message.online)
        restarted = message.online and bool(session) and message.session != session
        if restarted:
            self._declines.forget(message.sender)
        return changed, restarted

    async def hear_heartbeat(self, message: wire.Heartbeat, now_ms: int) -> DeviceView | None:
        """Take a heartbeat and return the device's view, None for one guest too many."""
        if self.registry.hear_heartbeat(message, now_ms):
            self._say(message.sender, online=True)
        view = self.registry.view(message.sender)
        if view is not None and view.trusted:
            await self._keep(view)
        return view

    def evaluated(self, message: wire.Evaluated) -> None:
        """Note what an evaluation proves, before the next heartbeat says it."""
        self.registry.note(message.sender, Reading.MODEL, message.model_id)
        if message.sent or message.received:
            self.registry.note(message.sender, Reading.SENT, message.sent)
            self.registry.note(message.sender, Reading.RECEIVED, message.received)

    def installed(self, message: wire.InstallReport) -> None:
        """Note that a device runs a release, before its next heartbeat says it."""
        if message.state == "confirmed":
            self.registry.note(message.sender, Reading.RELEASE, message.release)
            self.registry.note(message.sender, Reading.RELEASE_VERSION, message.version)

    def silent(self, now_ms: int) -> list[str]:
        """Return the devices that missed their heartbeats and count as offline from now on."""
        gone = self.registry.silent(now_ms)
        for name in gone:
            self._say(name, online=False)
        return gone

    def inquire(self, now_ms: int) -> None:
        """Ask devices of which something is unknown to tell everything: level-triggered, seldom."""
        for view in self.registry.views():
            if not view.trusted or not view.online or view.complete:
                continue
            if now_ms - self._asked_ms.get(view.name, 0) >= ASK_MS:
                self._asked_ms[view.name] = now_ms
                self._announcer.device(view.name, wire.HeartbeatWanted)

    def cohort(
        self,
        ended_round: int,
        spent: Collection[str] = (),
        used_up: Collection[str] = (),
        least_percent: int = FULL,
        *,
        narrowest: int = FULL,
        unbundled: Collection[str] = (),
    ) -> tuple[str, ...]:
        """Return whom to invite to the next round; ``ended_round`` is the last that ended.

        Those who have ``spent`` their privacy budget, or ``used_up`` their bytes of the day, are not asked,
        nor those that do not take ``least_percent`` of the model's width, nor, in mode ``single``, those
        that are ``unbundled``. No round asks for less of the width than ``narrowest``.

        Raises:
            NotEnoughDevicesError: fewer can take part than the floor.
        """
        views, resting = self.registry.views(), self._declines.resting(ended_round)
        # Whoever is in no round now has no turn that a pass could wait for.
        self._able = able(
            views,
            replace(self._rules, least_percent=narrowest),
            ended_round=ended_round,
            excused={*resting, *spent, *used_up, *unbundled},
        )
        return select(
            views,
            replace(self._rules, least_percent=least_percent),
            ended_round=ended_round,
            turns=self._turns,
            resting=resting,
            spent=spent,
            used_up=used_up,
            unbundled=unbundled,
            rng=self._rng,
        )

    def percent(self, device: str) -> int:
        """Return how many per cent of a model's width a device takes; 0: it has yet to measure."""
        view = self.registry.view(device)
        known = view is not None and isinstance(view.readings.get(Reading.WIDTH), int)
        return view.number(Reading.WIDTH) if view is not None and known else FULL

    def chosen(self, cohort: tuple[str, ...]) -> None:
        """Note that a round was opened for a ``cohort`` as it was returned last."""
        self._turns.taken(cohort, self._able)

    def replied(self, device: str, number: int, *, accepted: bool, reason: str = "") -> None:
        """Note an answer to round ``number``: who declines again and again is asked less often."""
        if not accepted:
            self._declines.declined(device, number, reason)

    def has_declined(self, device: str) -> bool:
        """Return whether a device did not want to take part in the last round that it was asked to."""
        return self._declines.of(device).times > 0

    def took_part(self, devices: tuple[str, ...]) -> None:
        """Note whose reports made a version."""
        for device in devices:
            self._declines.forget(device)

    def rows(self) -> tuple[DeviceRow, ...]:
        """Return every device for a status view."""
        return tuple(self._row(view) for view in self.registry.views())

    def _row(self, view: DeviceView) -> DeviceRow:
        release = view.text(Reading.RELEASE)
        declined = self._declines.of(view.name)
        return DeviceRow(
            name=view.name,
            trust="roster" if view.trusted else "guest",
            online=view.online,
            phase=view.phase,
            round=view.number(Reading.ROUND),
            model_version=self._versions.get(view.model_id, -1),
            release=release,
            release_version=view.number(Reading.RELEASE_VERSION) if release else -1,
            updater=view.text(Reading.UPDATER),
            examples=-1 if view.is_quiet else view.number(Reading.EXAMPLES),
            held_out=-1 if view.is_quiet else view.number(Reading.HELD_OUT),
            memory_available_mib=view.number(Reading.MEMORY_AVAILABLE),
            sent_bytes=view.number(Reading.SENT),
            received_bytes=view.number(Reading.RECEIVED),
            last_seen_ms=view.last_seen_ms,
            last_error=view.text(Reading.LAST_ERROR),
            board=view.text(Reading.BOARD),
            declined=declined.times,
            declined_for=declined.reason,
            rests_until=declined.rests_until,
            other_roster=view.other_roster,
        )

    async def _keep(self, view: DeviceView) -> None:
        now = {
            int(key): value
            for key in _KEPT
            if isinstance(value := view.readings.get(key), int | str) and not isinstance(value, bool)
        }
        if (now or view.complete) and self._kept.get(view.name, {}) != now:
            self._kept[view.name] = now
            await self._store.set_value(_KEY, pack(self._kept))

    def _say(self, name: str, *, online: bool) -> None:
        word = "online" if online else "offline"
        self._announcer.event(f"device.{word}", f"{name} is {word}", device=name)
