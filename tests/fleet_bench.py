"""A small fleet of real processes on a real Mosquitto, and an intruder who may write on every topic."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from brokers import running
from shoal_codecs.errors import ShoalError
from shoal_codecs.security.identity import load_identity
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import load_roster
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.messages import Delivery
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.wire.framing import decode_frame, decode_message
from shoal_codecs.wire.messages import AnyMessage, Message
from shoal_codecs.wire.status import FleetView
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.demo.broker import (
    BrokerHandle,
    broker_config_folder,
    free_port,
    loopback_configuration,
    start_mosquitto,
)
from shoal_coordinator.demo.fleet import FLEET, DemoFleet, lay_out
from shoal_coordinator.demo.processes import Children, Command
from shoal_coordinator.demo.state import DemoOptions
from shoal_coordinator.fleet_init import write_settings
from shoal_coordinator.operator import Operator, operator_session

M = TypeVar("M", bound=Message)
INTRUDER = "intruder"
ROUND_S = 40.0
START_S = 60.0
_LOOK_S = 0.02


@dataclass
class Heard:
    """One message as it crossed the broker; ``message`` is None where the bytes are none."""

    topic: str
    payload: bytes
    message: AnyMessage | None


@dataclass
class LiveFleet:
    """The processes, the broker, and what has crossed it since the start."""

    layout: DemoFleet
    broker: BrokerHandle
    children: Children
    operator: Operator
    intruder: Link
    heard: list[Heard] = field(default_factory=list)
    topics: Topics = field(default_factory=lambda: Topics(FLEET))

    # --- what the intruder does -----------------------------------------------------------------

    def post(self, name: str) -> Post:
        """Return the post office of a party, with its real key."""
        folder = self.layout.folders[name]
        roster = load_roster(folder / "roster.bin", folder / "authority.pub", FLEET)
        return Post(self.topics, load_identity(name, folder / "identity.key"), roster)

    async def throw(self, topic: str, *payloads: bytes, retain: bool = False) -> None:
        """Publish raw bytes."""
        for payload in payloads:
            await self.intruder.publish(topic, payload, retain=retain)

    async def say(self, name: str, topic: str, kind: type[Message], **fields: Any) -> bytes:
        """Publish a message as ``name`` would, signed with its key; return the frame."""
        post = self.post(name)
        message: Any = post.compose(kind, **fields)
        payload = post.encode(topic, message)
        await self.intruder.publish(topic, payload)
        return payload

    async def hear(self, delivery: Delivery) -> None:
        """Note what crosses the broker."""
        message = None
        with contextlib.suppress(ShoalError):
            message = decode_message(decode_frame(delivery.payload).content)
        self.heard.append(Heard(delivery.topic, delivery.payload, message))

    def all(self, kind: type[M], *, sender: str = "", on: str = "", since: int = 0) -> list[M]:
        """Return the messages of ``kind`` that crossed the broker after mark ``since``."""
        return [
            one.message
            for one in self.heard[since:]
            if isinstance(one.message, kind) and sender in {"", one.message.sender} and on in one.topic
        ]

    async def first(self, kind: type[M], *, sender: str = "", on: str = "", since: int = 0) -> M:
        """Wait for such a message."""
        await self.until(lambda: self.all(kind, sender=sender, on=on, since=since))
        return self.all(kind, sender=sender, on=on, since=since)[0]

    # --- what the fleet does --------------------------------------------------------------------

    @property
    def mark(self) -> int:
        """Where ``heard`` ends now."""
        return len(self.heard)

    @property
    def view(self) -> FleetView:
        """The newest picture of the fleet."""
        assert self.operator.view is not None
        return self.operator.view

    async def until(self, condition: Callable[[], Any], seconds: float = ROUND_S) -> None:
        """Wait until ``condition`` holds, all processes living."""
        async with asyncio.timeout(seconds):
            while not condition():
                self.children.check()
                await asyncio.sleep(_LOOK_S)

    async def ask(self, count: int = 1) -> int:
        """Ask for rounds; return the version they shall reach."""
        answer = await self.operator.command("rounds.run", count=count)
        target: int = answer.fields["target"]
        return target

    async def rounds(self, count: int = 1, *, devices: int = 0) -> FleetView:
        """Run ``count`` rounds that commit; with ``devices``, go on until one had that many."""
        for _ in range(15):
            target = await self.ask(count)
            view = await self.reach(target)
            row = view.rounds[-1]
            if row.devices >= devices:
                return view
        raise AssertionError(f"no round with {devices} devices: {view.rounds[-10:]}")

    async def reach(self, version: int) -> FleetView:
        """Wait until ``version`` is committed, all processes living."""
        await self.until(lambda: self.view.version >= version)
        return self.view

    async def online(self, name: str, *, online: bool = True) -> None:
        """Wait until the coordinator shows a device as online, or not."""
        await self.until(lambda: any(row.name == name and row.online == online for row in self.view.devices))

    async def logged(self, party: str, error: str, topic: str = "", since: int = 0) -> dict[str, Any]:
        """Wait until the log of ``party`` names ``error``; return that line."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [
                line
                for line in self.log(party, since)
                if error in {line.get("error"), line.get("fault")} and topic in str(line.get("topic", ""))
            ]
            return bool(found)

        try:
            await self.until(look, 20)
        except TimeoutError:
            raise AssertionError(f"{party} did not log {error} {topic}: {self.log(party, since)}") from None
        return found[0]

    async def lines_about(self, topic: str, party: str, since: int, count: int) -> list[dict[str, Any]]:
        """Wait until ``party`` has logged ``count`` lines about ``topic``; return them."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.log(party, since) if line.get("topic") == topic]

        await self.until(lambda: len(found()) >= count)
        return found()

    def log(self, party: str, since: int = 0) -> list[dict[str, Any]]:
        """Return the log lines of ``party`` from line ``since`` on."""
        lines = (self.layout.folders[party] / "log.jsonl").read_text(errors="replace").splitlines()[since:]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def lines(self, party: str) -> int:
        """Return how many log lines ``party`` has."""
        return len((self.layout.folders[party] / "log.jsonl").read_text(errors="replace").splitlines())

    # --- the processes --------------------------------------------------------------------------

    def freeze(self, name: str) -> None:
        """Stop a process where it is."""
        os.kill(self._pid(name), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let it go on."""
        os.kill(self._pid(name), signal.SIGCONT)

    def deny(self, rule: str) -> None:
        """Put ``rule`` before the broker's access rules, or take it away where it is empty."""
        acl = self.layout.folders["operator"].parent / "broker" / "test.acl"
        acl.write_text(_access_rules(rule))
        assert self.broker.pid is not None
        os.kill(self.broker.pid, signal.SIGHUP)

    def _pid(self, name: str) -> int:
        process = self.children._processes[name]
        assert process.returncode is None
        return process.pid


def change_settings(path: Path, **changes: Any) -> None:
    """Change a settings file; a mapping changes keys of that table."""
    tree = tomllib.loads(path.read_text())
    for key, value in changes.items():
        tree[key] = tree.get(key, {}) | value if isinstance(value, dict) else value
    write_settings(path, tree)


@contextlib.asynccontextmanager
async def live_fleet(
    folder: Path,
    options: DemoOptions,
    *,
    prepare: Callable[[DemoFleet], None] = lambda _: None,
    start: Callable[[Command], bool] = lambda _: True,
) -> AsyncIterator[LiveFleet]:
    """Start the demo's parties; ``prepare`` may change their settings, ``start`` choose among them."""
    port, place = free_port(), folder / "broker"
    place.mkdir(parents=True)
    (place / "test.acl").write_text(_access_rules())
    configuration = "\n".join(
        f"acl_file {place / 'test.acl'}" if line.startswith("acl_file") else line
        for line in loopback_configuration(place.resolve(), port).splitlines()
    )
    broker = await start_mosquitto(place, port, configuration=configuration + "\n")
    children = Children()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(broker.stop)
        stack.push_async_callback(children.stop)
        layout = lay_out(folder, options, broker.url)
        began_ms = int(time.time() * 1000)
        commands = layout.commands({})
        prepare(layout)
        for command in commands:
            if start(command):
                await children.start(command)
        operator = await stack.enter_async_context(
            operator_session(layout.operator, FLEET, LinkSettings(url=broker.url))
        )
        made: list[LiveFleet] = []

        async def listen(link: Link) -> None:
            made.append(LiveFleet(layout, broker, children, operator, link))
            await link.subscribe("shoal/#", made[0].hear)

        await stack.enter_async_context(
            running(broker.url, INTRUDER, prepare=listen, max_packet_bytes=4_000_000)
        )
        fleet = made[0]

        def present() -> bool:
            view = operator.view
            return (
                view is not None
                and view.taken_ms > began_ms
                and sum(row.online and row.examples != 0 for row in view.devices) == options.devices
                and all(hub.online for hub in view.hubs)
            )

        await fleet.until(present, START_S)
        yield fleet


def _access_rules(first: str = "") -> str:
    rules = (broker_config_folder() / "fleet.acl").read_text()
    return f"{rules}\nuser {INTRUDER}\ntopic readwrite #\n{first}\n"
