"""Releases of the coordinator: made, signed, put on the broker, ordered, followed to their end.

Called from the coordinator's one queue, so nothing here happens twice at once, and nothing waits for the
broker. What is announced is stored before.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from shoal_codecs.ota.errors import InvalidCountsError
from shoal_codecs.ota.health import UNTOLD
from shoal_codecs.ota.manifest import Manifest
from shoal_codecs.security.identity import Identity
from shoal_codecs.transport.blobs import BlobPublisher
from shoal_codecs.wire.blob import BlobRef
from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.messages import InstallReport, ReleaseOrder, ReleaseWithdrawn
from shoal_codecs.wire.packing import unpack
from shoal_codecs.wire.status import ReleaseRow
from shoal_codecs.wire.topics import check_name
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.registry import DeviceView, Registry
from shoal_coordinator.release_errors import ReleaseEndedError, ReleaseExistsError, UnknownReleaseError
from shoal_coordinator.release_making import Recipe, make_release
from shoal_coordinator.rollout import CONFIRMED, ROLLED_BACK, Rollout, choose_canaries
from shoal_coordinator.rollout_steps import (
    RUNNING,
    STOPPED,
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
from shoal_coordinator.store import ReleaseDeviceRecord, ReleaseRecord, Store

SHOWN_ROWS = 50
MOST_EXAMPLES = 1 << 40
WORKING = frozenset({"fetching", "installing", "testing"})


@dataclass(slots=True)
class _Release:
    record: ReleaseRecord
    manifest: Manifest
    rollout: Rollout

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        return tuple(artefact.blob for artefact in self.manifest.artefacts)


class ReleaseService:
    """Every release of one coordinator; ``publisher`` signs them, ``load`` goes on with those of before.

    ``on_change`` is called when what ``rows`` returns has changed; ``clock_ms`` gives milliseconds since
    the epoch.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        rules: RolloutRules,
        publisher: Identity,
        announcer: Announcer,
        blobs: BlobPublisher,
        store: Store,
        registry: Registry,
        clock_ms: Callable[[], int],
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        self._recipe = recipe
        self._rules = rules
        self._publisher = publisher
        self._announcer = announcer
        self._blobs = blobs
        self._store = store
        self._registry = registry
        self._clock_ms = clock_ms
        self.on_change = on_change
        self._releases: dict[str, _Release] = {}
        self._published: dict[str, BlobRef] = {}
        self._broker_turn = asyncio.Lock()

    async def load(self) -> None:
        """Read what is stored, put the chunks of what goes on back on the broker, and go on."""
        for record in await self._store.releases():
            stored = await self._store.release_devices(record.release)
            progress = {
                one.device: DeviceProgress(one.state, one.reason, one.candidate, one.replaced)
                for one in stored
            }
            self._add(record, progress)
        for earlier in self._live()[:-1]:
            # The process ended between two steps of ``create``.
            await self._handle(earlier, Withdraw(f"superseded by {self._live()[-1].record.release}"))
        for release in self._live():
            self._publish(release)
            await self._handle(release, Restored())

    async def create(self, version: int, name: str, canaries: int, *, allow_older: bool = False) -> str:
        """Make a release of ``version`` and return its name; it replaces one that is still going out.

        Raises:
            ReleaseExistsError: the name is taken.
            InvalidNameError: no usable name.
            NoCanaryError: no device can go first.
            UnknownVersionError: no such version.
            ShoalError: the artefact cannot be made.
        """
        release = check_name(name) if name else self._free_name(version)
        if release in self._releases:
            raise ReleaseExistsError(f"{release} exists already: choose another name")
        stored = await self._store.version(version)
        first = choose_canaries(self._registry.views(), canaries, self._rules.min_examples)
        now_ms = self._clock_ms()
        manifest, data, signature = await make_release(
            self._recipe,
            self._store,
            self._publisher,
            stored,
            release,
            allow_older=allow_older,
            now_ms=now_ms,
        )
        record = ReleaseRecord(
            release=release,
            version=version,
            state=RolloutState.DRAFT.value,
            manifest=data,
            signature=signature,
            canaries=first,
            created_ms=now_ms,
            changed_ms=now_ms,
        )
        await self._store.save_release(record)
        for earlier in list(self._releases.values()):
            if earlier.rollout.state in RUNNING:
                await self._handle(earlier, Withdraw(f"superseded by {release}"))
        made = self._add(record, {}, manifest)
        self._publish(made)
        await self._handle(made, Started())
        await self._handle(made, self._tick_event())
        return release

    async def withdraw(self, release: str, reason: str) -> None:
        """Stop a release; what is installed keeps running.

        Raises:
            UnknownReleaseError: there is none of that name.
            ReleaseEndedError: it was stopped before.
        """
        found = self._releases.get(release)
        if found is None:
            raise UnknownReleaseError(f"no release is called {release[:64]!r}: see 'shoal status'")
        if found.rollout.state in STOPPED:
            raise ReleaseEndedError(f"{release} is {found.rollout.state} already")
        await self._handle(found, Withdraw(reason))

    async def handle_report(self, device: str, report: InstallReport) -> None:
        """Take a device's word on an installation.

        Raises:
            UnknownReleaseError: on a release that was never made here.
            InvalidCountsError: counts that no evaluation can give.
        """
        found = self._releases.get(report.release)
        if found is None:
            raise UnknownReleaseError(
                f"{device} reports on {report.release[:64]!r}, which was never made here"
            )
        _check_score(report.candidate)
        _check_score(report.replaced)
        event = Reported(device, report.state[:32], report.reason[:300], report.candidate, report.replaced)
        await self._handle(found, event)
        if found.rollout.state in RUNNING:
            await self._handle(found, self._tick_event())

    async def device_seen(self, view: DeviceView) -> None:
        """Compare a device with what it should run and send what is missing."""
        if not view.trusted or not view.complete:
            return
        working = view.text(Reading.UPDATER) in WORKING
        for found in self._live():
            await self._handle(found, Seen(view.name, view.text(Reading.RELEASE), working))

    async def tick(self, now_ms: int) -> None:
        """Let time pass: order what is due, give up on who is missing."""
        del now_ms
        for found in self._live():
            await self._handle(found, self._tick_event())

    async def blob_wanted(self, digest: bytes) -> None:
        """Publish a release's blob again, if it is one."""
        for found in self._live():
            if any(ref.digest == digest for ref in found.blobs):
                self._publish(found)

    def rows(self) -> tuple[ReleaseRow, ...]:
        """Return the newest releases for a status view, oldest first."""
        return tuple(_row(found) for found in list(self._releases.values())[-SHOWN_ROWS:])

    # --- inside ---------------------------------------------------------------------------------

    def _add(
        self, record: ReleaseRecord, progress: dict[str, DeviceProgress], manifest: Manifest | None = None
    ) -> _Release:
        roster = [view.name for view in self._registry.views() if view.trusted]
        rollout = Rollout(
            record.release,
            roster,
            record.canaries,
            self._rules,
            state=RolloutState(record.state),
            reason=record.reason,
            progress=progress,
        )
        opened = manifest or unpack(record.manifest, Manifest)
        found = self._releases[record.release] = _Release(record, opened, rollout)
        return found

    def _live(self) -> list[_Release]:
        """Return the releases that devices are ordered to: those going out, else what all should run."""
        running = [
            one for one in self._releases.values() if one.rollout.state in {RolloutState.DRAFT, *RUNNING}
        ]
        if running:
            return running
        complete = [one for one in self._releases.values() if one.rollout.state is RolloutState.COMPLETE]
        return complete[-1:]

    def _tick_event(self) -> Tick:
        return Tick(frozenset(view.name for view in self._registry.views() if view.online))

    async def _handle(self, found: _Release, event: RolloutEvent) -> None:
        actions = found.rollout.handle(event, self._clock_ms())
        for action in actions:
            await self._perform(found, action)
        if actions:
            self.on_change()

    async def _perform(self, found: _Release, action: RolloutAction) -> None:
        record, rollout = found.record, found.rollout
        match action:
            case Persist():
                await self._persist(found)
            case PersistDevice(device=device):
                one = rollout.devices[device]
                await self._store.save_release_device(
                    ReleaseDeviceRecord(
                        release=record.release,
                        device=device,
                        state=one.state,
                        reason=one.reason,
                        candidate=one.candidate,
                        replaced=one.replaced,
                        changed_ms=self._clock_ms(),
                    )
                )
            case Order(device=device):
                self._announcer.device(
                    device,
                    ReleaseOrder,
                    release=record.release,
                    manifest=record.manifest,
                    signature=record.signature,
                )
            case Stop(device=device, reason=reason):
                self._announcer.device(device, ReleaseWithdrawn, release=record.release, reason=reason)
            case Announce(kind=kind, text=text):
                self._announcer.event(kind, text, release=record.release, version=record.version)

    async def _persist(self, found: _Release) -> None:
        rollout, old = found.rollout, found.record
        found.record = ReleaseRecord(
            release=old.release,
            version=old.version,
            state=rollout.state.value,
            manifest=old.manifest,
            signature=old.signature,
            canaries=rollout.canaries,
            created_ms=old.created_ms,
            changed_ms=self._clock_ms(),
            reason=rollout.reason,
        )
        await self._store.save_release(found.record)
        if rollout.state in {RolloutState.COMPLETE, *STOPPED}:
            self._clear_unused()

    def _publish(self, found: _Release) -> None:
        """Put the release's chunks on the broker, again where they are there."""
        for ref in found.blobs:
            self._published[ref.name] = ref
            self._announcer.spawn(partial(self._in_turn, self._blobs.publish, ref), f"release {ref.name}")

    def _clear_unused(self) -> None:
        """Take chunks off the broker that no release needs any more."""
        complete = [one for one in self._releases.values() if one.rollout.state is RolloutState.COMPLETE]
        # What all devices run stays: it is what they fall back to if a newer release is stopped.
        used = {ref.name for one in (*self._live(), *complete[-1:]) for ref in one.blobs}
        for name in self._published.keys() - used:
            self._announcer.spawn(partial(self._in_turn, self._blobs.clear, self._published.pop(name)))

    async def _in_turn(self, work: Callable[[BlobRef], Awaitable[None]], ref: BlobRef) -> None:
        """Publish or clear one blob after the other: the last word on a blob is the one that stays."""
        async with self._broker_turn:
            await work(ref)

    def _free_name(self, version: int) -> str:
        """Return a name for a release of ``version`` that none has yet."""
        number = 1
        while (name := f"v{version}-{number}") in self._releases:
            number += 1
        return name


def _row(found: _Release) -> ReleaseRow:
    rollout = found.rollout
    judged = CONFIRMED if rollout.count(CONFIRMED) else ROLLED_BACK
    devices = rollout.devices.values()
    scores = [one.candidate for one in devices if one.state == judged and one.candidate != UNTOLD]
    examples = sum(score[0] for score in scores)
    return ReleaseRow(
        release=found.record.release,
        version=found.record.version,
        state=rollout.state.value,
        devices=len(rollout.devices),
        confirmed=rollout.count(CONFIRMED),
        rolled_back=rollout.count(ROLLED_BACK),
        accuracy=sum(score[1] for score in scores) / examples if examples else 0.0,
        reason=rollout.reason,
    )


def _check_score(score: tuple[int, int]) -> None:
    if score != UNTOLD and not 0 <= score[1] <= score[0] <= MOST_EXAMPLES:
        raise InvalidCountsError(f"{score[1]} right of {score[0]} examples: no evaluation gives that")
