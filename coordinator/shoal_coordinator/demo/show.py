"""What the field does to a fleet, on purpose and in the middle of the run: each with what came of it."""

import asyncio

from shoal_codecs.wire.status import FleetView
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_coordinator.demo.processes import Children
from shoal_coordinator.demo.proxy import CuttableLink
from shoal_coordinator.demo.state import DemoState
from shoal_coordinator.operator import Operator

AWAY_S = 1.0
LINK_CUT_S = 3.0
RECOVERY_S = 45.0
AGENT_AT, LINK_AT, HUB_AT, BROKER_AT = 0.15, 0.35, 0.6, 0.8


class Show:
    """Kills an agent, cuts a link, kills a hub and the broker, and says how the rounds went on."""

    def __init__(
        self,
        *,
        operator: Operator,
        children: Children,
        broker: BrokerHandle | None,
        links: dict[str, CuttableLink],
        state: DemoState,
    ) -> None:
        self._operator = operator
        self._children = children
        self._broker = broker
        self._links = links
        self._state = state

    async def run(self) -> None:
        """Do it all, one after the other, spread over the rounds asked for."""
        devices = [row.name for row in self._require_view().devices if row.trust == "roster"]
        await self._reach(AGENT_AT)
        await self._kill_agent(devices[min(2, len(devices) - 1)])
        await self._reach(LINK_AT)
        for name, link in self._links.items():
            await self._cut_link(name, link)
        await self._reach(HUB_AT)
        hubs = [hub.name for hub in self._require_view().hubs]
        if hubs:
            await self._kill_hub(hubs[-1])
        await self._reach(BROKER_AT)
        if self._broker is not None:
            await self._kill_broker(self._broker)

    async def _kill_agent(self, device: str) -> None:
        before = self._require_view()
        await self._children.kill(device)
        self._state.happened("kill.agent", f"{device} killed with -9 in round {before.round}")
        await self._operator.until(lambda view: not _online(view, device), RECOVERY_S)
        await asyncio.sleep(AWAY_S)
        await self._children.restart(device)
        await self._operator.until(lambda view: _online(view, device), RECOVERY_S)
        after = await self._next_version()
        self._state.happened("back.agent", f"{device} is back from its own folder; {_went_on(before, after)}")

    async def _cut_link(self, device: str, link: CuttableLink) -> None:
        before = self._require_view()
        await link.cut()
        self._state.happened("cut.link", f"link of {device} cut for {LINK_CUT_S:.0f} s")
        await asyncio.sleep(LINK_CUT_S)
        await link.start()
        await self._operator.until(lambda view: _online(view, device), RECOVERY_S)
        after = await self._next_version()
        self._state.happened("back.link", f"{device} is connected again; {_went_on(before, after)}")

    async def _kill_hub(self, hub: str) -> None:
        before = self._require_view()
        await self._children.kill(hub)
        self._state.happened("kill.hub", f"{hub} killed with -9 in round {before.round}")
        await asyncio.sleep(AWAY_S)
        await self._children.restart(hub)
        after = await self._next_version()
        self._state.happened("back.hub", f"{hub} went on from its log; {_went_on(before, after)}")

    async def _kill_broker(self, broker: BrokerHandle) -> None:
        before = self._require_view()
        await broker.kill()
        self._state.happened(
            "kill.broker", f"the {broker.kind} broker killed with -9 in round {before.round}"
        )
        await asyncio.sleep(AWAY_S)
        await broker.restart()
        after = await self._next_version()
        online = sum(row.online for row in after.devices if row.trust == "roster")
        self._state.happened(
            "back.broker",
            f"everyone came back to the new broker ({online} devices); {_went_on(before, after)}",
        )

    async def _reach(self, share: float) -> None:
        version = self._state.first_version + round(self._state.rounds * share)
        await self._operator.until(lambda view: view.version >= version, RECOVERY_S)

    async def _next_version(self) -> FleetView:
        """Wait until a round that opened after now has committed."""
        present = self._require_view()
        goal = min(present.version + 2, self._state.goal)
        return await self._operator.until(lambda view: view.version >= goal, RECOVERY_S)

    def _require_view(self) -> FleetView:
        view = self._operator.view
        if view is None:
            raise RuntimeError("the show began before the fleet was seen")
        return view


def _online(view: FleetView, device: str) -> bool:
    return any(row.name == device and row.online for row in view.devices)


def _went_on(before: FleetView, after: FleetView) -> str:
    """Say in words what became of the rounds between two views."""
    rows = [row for row in after.rounds if row.round >= max(before.round, 1)]
    aborted = [row for row in rows if row.outcome == "aborted"]
    committed = [row for row in rows if row.outcome == "committed"]
    words = []
    if aborted:
        numbers = ", ".join(str(row.round) for row in aborted)
        words.append(f"round {numbers} aborted ({aborted[-1].reason})")
    if committed:
        fewest = min(row.devices for row in committed)
        first, last = committed[0].round, committed[-1].round
        span = f"rounds {first} to {last}" if last > first else f"round {first}"
        longest = max(row.seconds for row in committed)
        words.append(f"{span} committed with {fewest} devices or more, the longest in {longest:.1f} s")
    return "; ".join(words) or "no round was lost"
