"""How a fleet's view looks on a terminal."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from shoal_codecs.wire.status import DeviceRow, FleetView, PrivacyRow, RoundRow

LAST_ROUNDS = 5
# With less, the columns of a device's resources are left out.
WIDE = 110
OLD_S = 90.0
"""Three heartbeats, as they are by default: each makes a new picture."""
HALF_SPENT, NEARLY_SPENT = 0.5, 0.9


def status_tables(view: FleetView, width: int) -> Group:
    """Return the whole picture of ``view`` for a terminal of ``width`` columns."""
    devices = _devices(view, wide=width >= WIDE)
    rounds = rounds_table(
        view.rounds[-LAST_ROUNDS:], with_epsilon=view.privacy is not None, title="last rounds"
    )
    return Group(_head(view), Text(), devices, *_troubles(view), Text(), rounds, *_releases(view))


def newest_accuracy(view: FleetView) -> str:
    """Return the newest accuracy: counted, or told by a round with noise of the version it began with."""
    noised = _noised(view.rounds)
    if is_evaluated(view):
        return f"accuracy {view.accuracy:.1%}"
    if not noised:
        return "accuracy not told" if view.privacy is not None or view.version else "nothing trained yet"
    version = max(noised)
    return f"accuracy {noised[version]} of version {version}"


def is_evaluated(view: FleetView) -> bool:
    """Return whether any example was evaluated with the newest version, and told of in clear."""
    return any(row.version == view.version and row.examples for row in view.rounds)


def status_as_json(view: FleetView) -> dict[str, Any]:
    """Return ``view`` for a program, with None for what nobody has measured."""
    fields: dict[str, Any] = msgspec.to_builtins(view)
    if not is_evaluated(view):
        fields["accuracy"] = None
    fields["rounds"] = [round_as_json(row) for row in view.rounds]
    return fields


def round_as_json(row: RoundRow) -> dict[str, Any]:
    """Return ``row`` for a program; where no example was evaluated, accuracy and loss are None."""
    fields: dict[str, Any] = msgspec.to_builtins(row)
    if not row.examples:
        fields |= {"accuracy": None, "loss": None}
    return fields


def _head(view: FleetView) -> Text:
    head = Text()
    head.append(f"fleet {view.fleet}", style="bold cyan")
    head.append(f"   version {view.version}", style="bold")
    head.append(f" ({view.digest[:12]}), {newest_accuracy(view)}")
    head.append(f"   mode {view.mode}, codec {view.codec}, algorithm {view.algorithm}\n")
    head.append(f"round {view.round} {view.phase}, target version {max(view.target, view.version)}")
    wait_s = view.next_ms / 1000 - time.time()
    head.append(f", the next not for {wait_s:.0f} s\n" if wait_s > 1 else "\n")
    age_s = time.time() - view.taken_ms / 1000
    if age_s > OLD_S:
        # The broker keeps the last picture, whoever drew it is gone or not.
        head.append(
            f"told {age_s:.0f} s ago, and nothing since: is the coordinator running?\n", style="yellow"
        )
    if view.waits_for:
        head.append(f"waits: {view.waits_for}\n", style="yellow")
    if view.stopped and view.target <= view.version:
        head.append(f"no rounds follow{'' if view.phase == 'idle' else ' this one'}: ", style="yellow")
        head.append(f"{view.stopped}\n", style="yellow")
    for hub in view.hubs:
        head.append("● " if hub.online else "○ ", style="green" if hub.online else "red")
        head.append(f"{hub.name}  ")
        if hub.other_roster:
            head.append(f"({hub.other_roster}, the coordinator's is {view.roster})  ", style="yellow")
    if view.refused:
        refused = ", ".join(f"{count} {name}" for name, count in sorted(view.refused.items()))
        head.append(f"refused: {refused}", style="yellow")
    if view.privacy is not None:
        head.append("\n")
        head.append_text(privacy_line(view.privacy))
    head.rstrip()
    return head


def _noised(rows: Sequence[RoundRow]) -> dict[int, str]:
    """Return by version what rounds with noise told of its accuracy, with the error that the noise adds."""
    return {
        row.version - 1: f"{row.told['accuracy'][0]:.0%} ±{row.told['accuracy'][1]:.0%}"
        for row in rows
        if row.version > 0 and "accuracy" in row.told
    }


def privacy_line(row: PrivacyRow) -> Text:
    """Return the budget in one line: what is spent, what is left, and what it covers."""
    line = Text("privacy  ", style="bold")
    line.append(f"epsilon {row.spent:.2f} of {row.epsilon:g} spent", style=used_style(row.spent, row.epsilon))
    line.append(f" (delta {row.delta:g}, {row.mechanism}), rounds left: {row.rounds_left}, covers ")
    line.append(row.covers, style="green" if row.covers == "everything" else "yellow")
    if row.warning:
        line.append(f"\n{row.warning}", style="yellow")
    return line


def used_style(spent: float, budget: float) -> str:
    """Return the colour of a budget of which ``spent`` is used up."""
    share = spent / budget if budget > 0 else 1.0
    return "red" if share >= NEARLY_SPENT else "yellow" if share >= HALF_SPENT else "green"


def _devices(view: FleetView, *, wide: bool) -> Table:
    table = Table(box=None, padding=(0, 1), title="devices", title_justify="left")
    for heading in ("", "name", "phase"):
        table.add_column(heading, no_wrap=True)
    table.add_column("model", justify="right", no_wrap=True)
    table.add_column("release", overflow="fold")
    table.add_column("examples", justify="right", no_wrap=True)
    for heading in ("memory free", "sent", "received") if wide else ():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("seen", justify="right", no_wrap=True)
    for row in view.devices:
        table.add_row(*_device(row, view, wide=wide))
    return table


def _device(row: DeviceRow, view: FleetView, *, wide: bool) -> tuple[Text | str, ...]:
    dot = Text("●", style="green") if row.online else Text("○", style="red")
    name = Text(row.name)
    if row.trust == "guest":
        name.append(" (guest)", style="yellow")
    seen = (view.taken_ms - row.last_seen_ms) / 1000 if row.last_seen_ms else -1
    age = (time.time() * 1000 - view.taken_ms) / 1000
    resources = (
        f"{row.memory_available_mib:,} MiB" if row.memory_available_mib else "-",
        f"{row.sent_bytes / 1e3:,.0f} kB",
        f"{row.received_bytes / 1e3:,.0f} kB",
    )
    return (
        dot,
        name,
        # Text, for what a device says may look like markup.
        Text((row.phase or "idle") if row.online else "offline"),
        f"v{row.model_version}" if row.model_version >= 0 else "-",
        Text(f"{row.release} (v{row.release_version})" if row.release else "-"),
        f"{row.examples} + {row.held_out}" if row.examples >= 0 else "not told",
        *(resources if wide else ()),
        f"{max(0.0, seen + age):.0f} s ago" if seen >= 0 else "never",
    )


def _troubles(view: FleetView) -> list[Text]:
    """Return the devices' troubles, once each with everybody who has it."""
    found: list[tuple[Text, list[str]]] = []
    for row in view.devices:
        trouble = _trouble(row, view)
        if not trouble:
            continue
        alike = next((names for words, names in found if words == trouble), None)
        if alike is None:
            found.append((trouble, [row.name]))
        else:
            alike.append(row.name)
    # Below the table, for in a column of it a sentence would be one word wide.
    return [Text(f" {', '.join(names)}: ").append_text(trouble) for trouble, names in found]


def _trouble(row: DeviceRow, view: FleetView) -> Text:
    """Return what is wrong with a device: its last error, and what it declines rounds for."""
    trouble = Text(row.last_error, style="red")
    if row.other_roster:
        words = f"goes by {row.other_roster}, the coordinator's is {view.roster}"
        trouble.append(f"{'; ' if row.last_error else ''}{words}", style="yellow")
    if row.declined:
        # What it declines for is most often what it gives as its last error, too.
        reason = "" if row.declined_for == row.last_error else f" ({row.declined_for})"
        words = f"declined {row.declined} in a row{reason}"
        if row.rests_until > view.round:
            words += f", asked again after round {row.rests_until}"
        trouble.append(f"{'; ' if trouble else ''}{words}", style="yellow")
    return trouble


def rounds_table(rows: Sequence[RoundRow], *, with_epsilon: bool, title: str = "rounds") -> Group:
    """Return a table of finished rounds; ``with_epsilon`` shows what each version has cost."""
    if not rows:
        return Group(Text(f"{title}: none has ended yet", style="italic"))
    table = Table(box=None, padding=(0, 1), title=title, title_justify="left")
    # Bytes are counted with evaluations, which there are none of under noise.
    with_bytes = any(row.up_bytes or row.down_bytes for row in rows)
    headings = ["round", "outcome", "version", "devices", "accuracy", "seconds"]
    headings += ["bytes up", "bytes down"] if with_bytes else []
    headings += ["epsilon"] if with_epsilon else []
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "outcome" else "right", no_wrap=True)
    noised = _noised(rows)
    for row in rows:
        if row.outcome == "committed":
            table.add_row(
                str(row.round),
                Text("committed", style="green"),
                str(row.version),
                str(row.devices),
                # Where noise is added nobody counts hits in clear: the next round tells of this version.
                f"{row.accuracy:.1%}" if row.examples else noised.get(row.version, "-"),
                f"{row.seconds:.2f}",
                *([f"{row.up_bytes or 0:,.0f}", f"{row.down_bytes or 0:,.0f}"] if with_bytes else []),
                *(["-" if row.epsilon is None else f"{row.epsilon:.2f}"] if with_epsilon else []),
            )
        else:
            table.add_row(str(row.round), Text("aborted", style="yellow"))
    # Below the table, as the devices' troubles are.
    reasons = {row.reason: row.round for row in rows if row.outcome != "committed"}
    words = [Text(f" round {number} aborted: {reason}", style="yellow") for reason, number in reasons.items()]
    return Group(table, *words)


def _releases(view: FleetView) -> list[Table | Text]:
    if not view.releases:
        return []
    table = Table(box=None, padding=(0, 1), title="releases", title_justify="left")
    for heading in ("release", "version", "state", "confirmed", "rolled back", "accuracy"):
        table.add_column(heading, overflow="fold")
    for row in view.releases:
        table.add_row(
            Text(row.release),
            str(row.version),
            row.state,
            f"{row.confirmed} of {row.devices}",
            str(row.rolled_back),
            f"{row.accuracy:.1%}" if row.accuracy else "-",
        )
    reasons = [Text(f" {row.release} {row.state}: {row.reason}") for row in view.releases if row.reason]
    return [Text(), table, *reasons]
