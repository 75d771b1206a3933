"""The demo's result: one dictionary for ``--report``, one table for a person."""

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from shoal_codecs.wire.status import FleetView, ReleaseRow
from shoal_coordinator.demo.state import DemoState

FP32_BYTES = 4


def build_report(state: DemoState, view: FleetView, seconds_total: float) -> dict[str, Any]:
    """Return the report of a finished demo.

    ``*_per_device_round`` are means over devices and rounds of this run, what a device fetches for its
    first round included. ``*_per_device_total`` is everything since the agents started, the releases
    after the last round too.
    """
    rows = [row for row in view.rounds if row.outcome == "committed" and row.version > state.first_version]
    devices = [row for row in view.devices if row.trust == "roster"]
    releases = [release for release in view.releases if release.release in state.releases]
    deployed = final_release(releases)
    return {
        "broker": state.broker_kind,
        "mode": view.mode,
        "codec": view.codec,
        "algorithm": view.algorithm,
        "devices": state.options.devices,
        "rounds": len(rows),
        "accuracy": {
            "centralised": round(state.centralised, 4),
            "federated": round(rows[-1].accuracy if rows else 0.0, 4),
            "deployed": round(deployed.accuracy if deployed else 0.0, 4),
            "by_round": {str(row.version): round(row.accuracy, 4) for row in rows},
        },
        "bytes": {
            "up_per_device_round": _mean([row.up_bytes for row in rows]),
            "down_per_device_round": _mean([row.down_bytes for row in rows]),
            "fp32_per_device_round": FP32_BYTES * view.parameters,
            "up_per_device_total": _mean([row.sent_bytes for row in devices]),
            "down_per_device_total": _mean([row.received_bytes for row in devices]),
        },
        "seconds": {
            "total": round(seconds_total, 2),
            "per_round_median": round(median(row.seconds for row in rows), 3) if rows else 0.0,
        },
        "deployed": {
            "version": deployed.version if deployed else -1,
            "devices_confirmed": deployed.confirmed if deployed else 0,
            "devices_rolled_back": sum(release.rolled_back for release in releases),
        },
        "releases": [
            {
                "release": row.release,
                "version": row.version,
                "state": row.state,
                "confirmed": row.confirmed,
                "rolled_back": row.rolled_back,
                "accuracy": round(row.accuracy, 4),
                "reason": row.reason,
            }
            for row in releases
        ],
        "events": [{"at": e.at, "kind": e.kind, "text": e.text} for e in state.events],
        "model": {"parameters": view.parameters, "digest": view.digest},
    }


def _mean(values: Sequence[float]) -> float:
    return round(fmean(values), 1) if values else 0.0


def final_release(releases: list[ReleaseRow]) -> ReleaseRow | None:
    """Return the newest of ``releases`` that reached the whole fleet."""
    complete = [row for row in releases if row.state == "complete"]
    return complete[-1] if complete else None


def show_report(report: dict[str, Any], view: FleetView) -> Group:
    """Return the closing tables."""
    accuracy, traffic = report["accuracy"], report["bytes"]
    fp32 = traffic["fp32_per_device_round"]
    table = Table(title="What came of it", title_justify="left", show_header=False, box=None, padding=(0, 1))
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "accuracy",
        f"{accuracy['federated']:.1%} federated   {accuracy['deployed']:.1%} int8 on the devices   "
        f"{accuracy['centralised']:.1%} centralised",
    )
    for label, key in (("up", "up_per_device_round"), ("down", "down_per_device_round")):
        size = traffic[key]
        times = f"{fp32 / size:.1f} times less than fp32" if size else ""
        table.add_row(f"bytes {label}", f"{size:,.0f} a device and round   {times} ({fp32:,})")
    table.add_row(
        "in all",
        f"{traffic['up_per_device_total'] / 1e3:,.0f} kB up, "
        f"{traffic['down_per_device_total'] / 1e3:,.0f} kB down a device: "
        "the task, every round, every release",
    )
    seconds = report["seconds"]
    table.add_row(
        "time",
        f"{seconds['per_round_median']:.2f} s a round (median of {report['rounds']})   "
        f"{seconds['total']:.0f} s in all",
    )
    model = report["model"]
    table.add_row("model", f"{model['parameters']:,} parameters   digest {model['digest'][:16]}")
    for release in report["releases"]:
        bad = release["state"] != "complete"
        text = f"{release['release']}: {release['state']}, {release['confirmed']} confirmed"
        text += f", {release['rolled_back']} rolled back" if release["rolled_back"] else ""
        table.add_row("release", Text(text, style="yellow" if bad else "green"))
    return Group(table, Text(), _who_holds_what(view))


def _who_holds_what(view: FleetView) -> Table:
    title = "Who runs what, and bytes since its agent started"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for heading in ("device", "release", "version", "examples", "held out", "sent", "received"):
        names = heading in {"device", "release"}
        table.add_column(heading, justify="left" if names else "right", no_wrap=names)
    for row in view.devices:
        table.add_row(
            row.name,
            row.release or "none",
            str(row.release_version) if row.release_version >= 0 else "-",
            str(row.examples),
            str(row.held_out),
            f"{row.sent_bytes / 1e3:,.0f} kB",
            f"{row.received_bytes / 1e3:,.0f} kB",
        )
    return table


def show_next(commands: list[str]) -> Text:
    """Return the commands to try next, each on a line of its own."""
    text = Text("Try next\n", style="bold")
    for command in commands:
        text.append(f"  {command}\n", style="cyan")
    return text
