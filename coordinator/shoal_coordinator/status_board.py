"""The retained picture of the fleet: on change, and at most twice a second."""

import asyncio
from collections.abc import Callable

import structlog

from shoal_codecs.transport.errors import PacketTooLargeError, PublishRefusedError
from shoal_codecs.transport.retained import RetainedShelf
from shoal_codecs.wire.messages import CoordinatorStatus
from shoal_codecs.wire.status import FleetView, HubRow, encode_view
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.organs import Organs
from shoal_coordinator.round_runner import RoundRunner

log = structlog.get_logger()


class StatusBoard:
    """Publishes what ``look`` sees after ``changed`` was called, at most once in ``shortest_s`` seconds."""

    def __init__(
        self,
        topic: str,
        announcer: Announcer,
        shelf: RetainedShelf,
        look: Callable[[], FleetView],
        shortest_s: float,
    ) -> None:
        self._topic = topic
        self._announcer = announcer
        self._shelf = shelf
        self._look = look
        self._shortest_s = shortest_s
        self._dirty = asyncio.Event()

    def changed(self) -> None:
        """Note that the picture is not true any more."""
        self._dirty.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            payload = self._announcer.encoded(self._topic, CoordinatorStatus, view=encode_view(self._look()))
            try:
                await self._shelf.put(self._topic, payload)
            except (PacketTooLargeError, PublishRefusedError) as error:
                # A picture that cannot be shown is no reason to stop the rounds it would show.
                log.warning("status not published", remedy=str(error))
            await asyncio.sleep(self._shortest_s)


def fleet_view(organs: Organs, runner: RoundRunner, hubs: tuple[HubRow, ...]) -> FleetView:
    """Return the whole picture of this moment."""
    plan, settings = runner.plan, organs.opening.settings
    due = runner.machine is None and organs.schedule.target > organs.models.newest.number
    now_ms = organs.clock_ms()
    rows, newest = tuple(organs.ledger.rows), organs.models.newest
    made = [row for row in rows if row.outcome == "committed" and row.version == newest.number]
    return FleetView(
        fleet=organs.roster.fleet,
        taken_ms=now_ms,
        mode=settings.mode,
        codec=settings.codec,
        algorithm=organs.server.algorithm.name,
        phase=runner.phase,
        round=plan.round if plan is not None else organs.ledger.last_number,
        target=organs.schedule.target,
        version=newest.number,
        digest=newest.digest.hex(),
        parameters=organs.dimension,
        accuracy=made[-1].accuracy if made else 0.0,
        devices=organs.fleet.rows(),
        hubs=hubs if settings.mode == "hubs" else (),
        rounds=rows,
        releases=organs.releases.rows() if organs.releases is not None else (),
        refused=dict(organs.post.refused),
        privacy=organs.privacy.row(organs.fleet.registry.views()),
        stopped=organs.ledger.stopped,
        waits_for=organs.opening.reason if due else "",
        next_ms=organs.schedule.failing_until_ms(now_ms) if due else 0,
        roster=organs.roster.serial,
    )
