"""``shoal privacy show``: what devices have spent and what is left, as a person reads it."""

import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shoal_codecs.wire.status import PrivacyRow
from shoal_coordinator.cli.operate import operator_on
from shoal_coordinator.cli.tables import privacy_line, used_style

BAR_WIDTH = 20
SHOWN_DIGEST = 8


async def show_privacy(config: Path, broker: str | None, device: str, *, as_json: bool) -> None:
    """Ask the coordinator for the budget and print it, of one ``device`` with every round it paid for.

    Raises:
        OperatorError: rounds add no noise, there is no such device, or nobody answered.
    """
    async with operator_on(config, broker) as operator:
        answer = await operator.command("privacy.show", device=device)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(answer.fields)) + b"\n")
        return
    Console().print(privacy_tables(answer.fields))


def privacy_tables(fields: dict[str, Any]) -> Group:
    """Return the picture of an answer to ``privacy.show``."""
    row = msgspec.convert(fields, PrivacyRow)
    parts: list[RenderableType] = [
        privacy_line(row),
        _words(row, fields["rounds"]),
        Text(),
        _devices(row, fields["devices"]),
    ]
    if fields["more"]:
        parts.append(Text(f" and {fields['more']} devices that have spent no more", style="dim"))
    if "charges" in fields:
        parts += [Text(), _charges(fields["charges"])]
    return Group(*parts)


def _words(row: PrivacyRow, rounds: int) -> Text:
    covered = (
        "nothing else derived from data leaves a device"
        if row.covers == "everything"
        else "what devices say of their data in clear, such as counts and health verdicts, is not covered"
    )
    return Text(
        f"planned for {rounds} rounds; all rounds so far cost {row.spent_by_task:.2f} together; {covered}",
        style="dim",
    )


def _devices(row: PrivacyRow, devices: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title="devices", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("spent", no_wrap=True)
    # The independent accountant knows no Skellam noise: a column of dashes would say nothing.
    checked = any(one["rdp"] is not None or one["pld"] is not None for one in devices)
    headings = ("epsilon", *(("by RDP", "by PLD") if checked else ()), "rounds", "left")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for one in devices:
        spent = one["epsilon"]
        style = used_style(spent, row.epsilon)
        bar = ProgressBar(row.epsilon, spent, BAR_WIDTH, complete_style=style, finished_style=style)
        table.add_row(
            Text(one["name"]),
            bar,
            Text(f"{spent:.3f}", style=style),
            *((_figure(one["rdp"]), _figure(one["pld"])) if checked else ()),
            str(one["rounds"]),
            _left(one),
        )
    return table


def _charges(charges: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title="rounds it was invited to", title_justify="left")
    # The mechanism, one for all rounds of a fleet, stands above; JSON has it, and the task, in full.
    for heading in ("round", "task", "noise", "charged", "state", "at"):
        table.add_column(heading, justify="right" if heading in {"round", "noise"} else "left", no_wrap=True)
    for one in charges:
        table.add_row(
            str(one["round"]),
            one["task"][:SHOWN_DIGEST],
            f"{one['noise']:.4g}",
            Text("yes") if one["charged"] else Text("no", style="dim"),
            one["state"],
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["at_ms"] / 1000)),
        )
    return table


def _left(one: dict[str, Any]) -> Text:
    if one["declines"]:
        return Text("declines: its own budget", style="red")
    return Text(str(one["rounds_left"])) if one["rounds_left"] else Text("none", style="red")


def _figure(epsilon: float | None) -> str:
    return "-" if epsilon is None else f"{epsilon:.3f}"
