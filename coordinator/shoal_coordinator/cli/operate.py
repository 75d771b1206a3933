"""What an operator does over the broker: look, and send signed commands."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live

from shoal_codecs.logs import configure_logs
from shoal_codecs.settings import SettingsError, load_settings
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.wire.messages import CoordinatorEvent, OperatorAnswer
from shoal_codecs.wire.status import FleetView, ReleaseRow, RoundRow
from shoal_coordinator.cli.tables import (
    newest_accuracy,
    round_as_json,
    rounds_table,
    status_as_json,
    status_tables,
)
from shoal_coordinator.operator import NoBrokerError, Operator, OperatorError, operator_session

ANSWER_S = 8.0
LONGEST_S = 86_400.0
ENDED = frozenset({"complete", "aborted", "withdrawn"})


class OperatorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who the operator is and where the broker."""

    name: str = "operator"
    fleet: str = "demo"
    folder: str = ""
    prefix: str = ""
    link: LinkSettings = LinkSettings()


async def show_status(config: Path, broker: str | None, *, watch: bool, as_json: bool) -> None:
    """Print the newest view of the fleet, or go on showing it.

    Raises:
        NoBrokerError: there is no connection to the broker.
        OperatorError: no coordinator speaks on it.
    """
    async with operator_on(config, broker) as operator:
        try:
            view = await operator.until(lambda _: True, ANSWER_S)
        except NoBrokerError:
            raise
        except OperatorError:
            raise OperatorError(
                f"no coordinator has spoken within {ANSWER_S:.0f} s on {operator.place}: is it running, "
                "and is this its broker?"
            ) from None
        if as_json:
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(status_as_json(view))) + b"\n")
            return
        console = Console()
        if not watch:
            console.print(status_tables(view, console.width))
            return
        with Live(status_tables(view, console.width), console=console, auto_refresh=False) as live:
            while True:
                if operator.view is not None:
                    live.update(status_tables(operator.view, console.width), refresh=True)
                await asyncio.sleep(0.5)


async def send_command(
    config: Path, broker: str | None, action: str, arguments: dict[str, Any], *, wait: bool = False
) -> None:
    """Send one command and print the answer; ``wait`` until what was asked for has happened.

    Raises:
        OperatorError: it was refused, nobody answered, or it did not come true.
    """
    async with operator_on(config, broker) as operator:
        answer = await operator.command(action, **arguments)
        sys.stdout.write(f"{answer.text or 'done'}\n")
        sys.stdout.flush()
        if wait:
            operator.on_event.append(_tell)
        if wait and "target" in answer.fields:
            await _until_version(operator, answer)
        elif wait and "taken_back" in answer.fields:
            # The picture that follows the answer is most often of the same millisecond.
            await operator.until(
                lambda view: view.phase == "idle" and view.taken_ms >= answer.sent_ms, LONGEST_S
            )
        elif wait and "release" in answer.fields:
            await _until_released(operator, answer.fields["release"])


async def list_rounds(config: Path, broker: str | None, *, as_json: bool) -> None:
    """Print the rounds that ended.

    Raises:
        OperatorError: nobody answered.
    """
    async with operator_on(config, broker) as operator:
        answer = await operator.command("rounds.list")
    rows = msgspec.convert(answer.fields["rounds"], list[RoundRow])
    if as_json:
        sys.stdout.buffer.write(
            msgspec.json.format(msgspec.json.encode([round_as_json(row) for row in rows])) + b"\n"
        )
        return
    Console().print(rounds_table(rows, with_epsilon=any(row.epsilon is not None for row in rows)))


async def _until_version(operator: Operator, answer: OperatorAnswer) -> None:
    target: int = answer.fields["target"]

    def ended(view: FleetView) -> bool:
        # A picture from before the answer has the target from before, too.
        taken_back = view.target < target and view.taken_ms > answer.sent_ms
        return view.version >= target or (taken_back and view.phase == "idle")

    view = await operator.until(ended, LONGEST_S)
    if view.version < target:
        raise OperatorError(
            f"the rounds until version {target} were taken back, version {view.version} is the last: "
            f"{view.stopped}"
        )
    sys.stdout.write(f"version {view.version}, {newest_accuracy(view)}\n")


async def _until_released(operator: Operator, release: str) -> None:
    def row(view: FleetView) -> ReleaseRow | None:
        return next((row for row in view.releases if row.release == release and row.state in ENDED), None)

    ended = row(await operator.until(lambda view: row(view) is not None, LONGEST_S))
    if ended is None:
        return
    if ended.state != "complete":
        raise OperatorError(f"release {release} {ended.state}: {ended.reason}")
    # The last event may come after the picture that ends the wait.
    sys.stdout.write(f"version {ended.version} runs on {ended.confirmed} of {ended.devices} devices\n")


def _tell(event: CoordinatorEvent) -> None:
    if event.kind.startswith(("round.", "rounds.", "release.", "bytes.")):
        sys.stdout.write(f"  {event.text}\n")
        sys.stdout.flush()


@asynccontextmanager
async def operator_on(config: Path, broker: str | None) -> AsyncIterator[Operator]:
    """Connect as the operator whose settings are at ``config``.

    Raises:
        SettingsError: they are missing, or cannot be used.
    """
    configure_logs("error")
    settings = _settings(config, broker)
    folder = Path(settings.folder) if settings.folder else config.parent
    async with operator_session(
        folder, settings.fleet, settings.link, name=settings.name, prefix=settings.prefix
    ) as operator:
        yield operator


def _settings(config: Path, broker: str | None) -> OperatorSettings:
    if not config.is_file():
        raise SettingsError(f"no settings at {config}: name the operator's with --config FOLDER/config.toml")
    settings = load_settings(OperatorSettings, config, overrides={"link.url": broker})
    return msgspec.structs.replace(settings, link=settings.link.beside(config.parent))
