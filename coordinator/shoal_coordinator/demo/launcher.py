"""``shoal demo``: starts a whole fleet as real processes, trains it, hurts it, releases to it, stops it."""

import asyncio
import json
import shlex
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from shoal_codecs.errors import ShoalError
from shoal_codecs.lifecycle import until_stopped
from shoal_codecs.logs import configure_logs
from shoal_codecs.transport.errors import BrokerUnreachableError
from shoal_codecs.transport.settings import BrokerAddress, LinkSettings, parse_broker_url
from shoal_codecs.wire.messages import CoordinatorEvent
from shoal_codecs.wire.status import FleetView
from shoal_coordinator.demo.baseline import centralised_accuracy
from shoal_coordinator.demo.broker import BrokerHandle, Kind, start_broker
from shoal_coordinator.demo.fleet import FLEET, HUBS, DemoFleet, lay_out
from shoal_coordinator.demo.live import LiveProgress, PlainProgress, progress
from shoal_coordinator.demo.preview import preview_line
from shoal_coordinator.demo.processes import Children
from shoal_coordinator.demo.proxy import CuttableLink
from shoal_coordinator.demo.releases import release_everything, release_half_way
from shoal_coordinator.demo.report import build_report, show_next, show_report
from shoal_coordinator.demo.show import Show
from shoal_coordinator.demo.state import DemoOptions, DemoState
from shoal_coordinator.operator import Operator, operator_session

# The launcher itself says how a release ended.
_SHOWN_EVENTS = frozenset(
    {"broker.refilled", "round.aborted", "release.canary", "release.all", "release.device-rolled-back"}
)
PLAIN_COLUMNS = 110
START_S = 60.0
ANSWER_S = 5.0
SCREEN_S = 0.15
TRAIN_S = 600.0


def main(options: DemoOptions) -> int:
    """Run the demo and return the exit code; 130 after Ctrl-C.

    Raises:
        ShoalError: something that the person can mend, in words.
    """
    configure_logs("error")
    return asyncio.run(_run(options))


async def _run(options: DemoOptions) -> int:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_COLUMNS)
    stopped = asyncio.create_task(until_stopped(stop_on_stdin_eof=False))
    demo = asyncio.create_task(_demo(options, console))
    await asyncio.wait({stopped, demo}, return_when=asyncio.FIRST_COMPLETED)
    if demo.done():
        stopped.cancel()
        return demo.result()
    demo.cancel()
    await asyncio.wait({demo})
    console.print("Stopped; everything this demo started has ended.")
    return 130


async def _demo(options: DemoOptions, console: Console) -> int:
    folder = options.data_dir or Path("shoal-data") / datetime.now(UTC).strftime("demo-%Y%m%d-%H%M%S")
    state = DemoState(options, folder)
    async with AsyncExitStack() as stack:
        # Last in, first out: the children say farewell while the broker is still there.
        broker = await _broker(options, folder, state, stack)
        fleet = lay_out(folder, options, state.broker_url)
        children = Children()
        stack.push_async_callback(children.stop)
        links = await _cuttable(fleet, state, stack)
        for command in fleet.commands({name: link.port for name, link in links.items()}):
            await children.start(command)
        operator = await stack.enter_async_context(
            operator_session(fleet.operator, FLEET, LinkSettings(url=state.broker_url))
        )
        watch = _Watch(state, children)
        operator.on_view.append(watch.view)
        operator.on_event.append(watch.event)
        with progress(console, state) as screen:
            drawing = asyncio.create_task(watch.run(screen))
            story = asyncio.create_task(_story(fleet, operator, children, broker, links, state))
            try:
                await asyncio.wait({drawing, story}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # Also after Ctrl-C: nobody may watch the children while they are being stopped.
                drawing.cancel()
                story.cancel()
                await asyncio.wait({drawing, story})
            # A child that ended by itself explains better than the wait that it made vain.
            if not drawing.cancelled():
                drawing.result()
            view = story.result()
            state.stage = "done"
            screen.update()
    report = build_report(state, view, state.elapsed)
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print()
    console.print(show_report(report, view))
    console.print()
    # Whole lines, so that they can be copied.
    console.print(show_next(_next_commands(fleet, folder)), soft_wrap=True)
    return 0


async def _broker(
    options: DemoOptions, folder: Path, state: DemoState, stack: AsyncExitStack
) -> BrokerHandle | None:
    """Start the broker asked for, or take the one whose URL was given and which answers.

    Raises:
        TransportError: the URL is none, nothing answers there, or the demo's own broker did not start.
    """
    if "://" in options.broker:
        await _answers(parse_broker_url(options.broker))
        state.broker_kind, state.broker_url = "given", options.broker
        return None
    broker = await start_broker(folder / "broker", kind=broker_kind(options.broker), port=options.port)
    stack.push_async_callback(broker.stop)
    state.broker_kind, state.broker_url = broker.kind, broker.url
    state.happened("broker", f"{broker.kind} broker on {broker.url}")
    return broker


async def _answers(address: BrokerAddress) -> None:
    """Look once for somebody at ``address``: parties would go on trying, and say so in their logs only."""
    where = f"{address.host}:{address.port}"
    try:
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except TimeoutError:
        raise BrokerUnreachableError(
            f"no answer from {where} within {ANSWER_S:.0f} s: check the network, the firewall and the port"
        ) from None
    except OSError as error:
        raise BrokerUnreachableError(
            f"nothing listens at {where} ({error.strerror or error}): start the broker or correct its URL"
        ) from None
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _cuttable(fleet: DemoFleet, state: DemoState, stack: AsyncExitStack) -> dict[str, CuttableLink]:
    """Put a relay that can be cut before one device, unless the run is calm."""
    if state.options.calm:
        return {}
    address = parse_broker_url(state.broker_url)
    link = CuttableLink(address.host, address.port)
    await link.start()
    stack.push_async_callback(link.cut)
    return {fleet.devices[min(6, len(fleet.devices) - 1)]: link}


async def _story(
    fleet: DemoFleet,
    operator: Operator,
    children: Children,
    broker: BrokerHandle | None,
    links: dict[str, CuttableLink],
    state: DemoState,
) -> FleetView:
    """The demo from the first connection to the last confirmed device."""
    options = state.options
    view = await operator.until(lambda view: _present(view, state), START_S)
    state.first_version = view.version
    goal = state.goal = max(view.target, view.version + options.rounds)
    hubs = f", {len(view.hubs)} hubs" if view.hubs else ""
    text = f"{options.devices} devices{hubs} and the coordinator are connected"
    if view.target > view.version:
        text += f"; the run before was stopped on its way to version {view.target}, which comes first"
    state.happened("start", text)
    state.stage = "training"
    baseline = asyncio.create_task(centralised_accuracy(fleet.task, fleet.shards, goal, options.seed))
    if goal > view.target:
        await operator.command("rounds.run", count=goal - max(view.target, view.version))
    if options.mode == "hubs":
        await operator.until(lambda view: view.version >= min(goal, state.first_version + 2), TRAIN_S)
        await _show_preview(fleet, state)
    work: list[Coroutine[Any, Any, object]] = [
        release_half_way(operator, state),
        operator.until(lambda view: view.version >= goal, TRAIN_S),
    ]
    if not options.calm:
        work.append(Show(operator=operator, children=children, broker=broker, links=links, state=state).run())
    await _together(work)
    state.stage = "releasing"
    view = await release_everything(operator, state)
    state.centralised = await baseline
    return view


async def _show_preview(fleet: DemoFleet, state: DemoState) -> None:
    device, hub = fleet.devices[0], HUBS[0]
    logs = fleet.folders[device] / "log.jsonl", fleet.folders[hub] / "log.jsonl"
    line = await asyncio.to_thread(preview_line, *logs, device, hub)
    if line:
        state.happened("preview", line)


async def _together(work: list[Coroutine[Any, Any, object]]) -> None:
    """Do it all at once; the first fault ends the rest and is raised as itself."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        for done in asyncio.as_completed(tasks):
            await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def broker_kind(name: str) -> Kind | Literal[""]:
    """Return the kind of broker an option names.

    Raises:
        UnknownBrokerError: it is neither a kind nor a URL.
    """
    match name:
        case "" | "mosquitto" | "embedded":
            return name
        case _:
            raise UnknownBrokerError(
                f"{name!r} is no broker: say mosquitto, embedded, or a URL such as mqtt://127.0.0.1:1883"
            )


def _present(view: FleetView, state: DemoState) -> bool:
    """Return whether everybody is there; a view of an earlier run, still retained, does not count."""
    if view.taken_ms < state.started_ms:
        return False
    there = [row for row in view.devices if row.trust == "roster" and row.online and row.examples]
    return len(there) == state.options.devices and all(hub.online for hub in view.hubs)


def _next_commands(fleet: DemoFleet, folder: Path) -> list[str]:
    script = Path(sys.argv[0])
    shoal, edge = _as_typed(script), _as_typed(script.with_name("shoal-edge"))
    operator = _as_typed(fleet.operator / "config.toml")
    return [
        f"{edge} predict --config {_as_typed(fleet.config_of(fleet.devices[0]))}",
        f"{shoal} demo --data-dir {_as_typed(folder)}  # goes on from the stored model",
        f"{shoal} status --config {operator}  # while that goes on",
    ]


def _as_typed(path: Path) -> str:
    """Return ``path`` as one would type it here, from the working folder where it lies below that."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


class UnknownBrokerError(ShoalError):
    """``--broker`` names no broker."""


class _Watch:
    """Keeps the screen fresh and notices children that ended by themselves."""

    def __init__(self, state: DemoState, children: Children) -> None:
        self._state = state
        self._children = children

    def view(self, view: FleetView) -> None:
        self._state.view = view

    def event(self, event: CoordinatorEvent) -> None:
        if event.kind in _SHOWN_EVENTS:
            self._state.happened(event.kind, event.text)

    async def run(self, screen: LiveProgress | PlainProgress) -> None:
        while True:
            self._children.check()
            screen.update()
            await asyncio.sleep(SCREEN_S)
