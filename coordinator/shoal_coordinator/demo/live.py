"""The demo's screen: rounds, accuracy, devices, bytes and events while they happen."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shoal_codecs.wire.status import DeviceRow, FleetView
from shoal_coordinator.demo.state import DemoEvent, DemoState

_BARS = " ▁▂▃▄▅▆▇█"
_PHASES = {"training": "green", "fetching": "cyan", "checking": "cyan", "reporting": "blue"}
_EVENTS_SHOWN = 9
_SPARKS = 56
_DEVICES_SHOWN = 40
# The head, the borders of three panels, the rows about the model, and the line where the cursor stands.
_FIXED_LINES = 12
# Borders and the column of times.
_EVENT_MARGIN = 12
PLAIN_EVERY = 5
_MEASURE = Console()


def sparkline(values: list[float], low: float = 0.0, high: float = 1.0) -> str:
    """Return ``values`` between ``low`` and ``high`` as one row of block characters."""
    top = len(_BARS) - 1
    return "".join(_BARS[max(0, min(top, round((v - low) / (high - low) * top)))] for v in values)


def screen(state: DemoState, width: int, height: int) -> Group:
    """Return the whole picture of ``state`` for a terminal of ``width`` columns and ``height`` lines."""
    view = state.view
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(ratio=3)
    head.add_column(justify="right", ratio=2)
    head.add_row(
        Text.assemble(("Shoal ", "bold cyan"), (state.stage, "bold")),
        Text(f"{state.broker_kind} broker   {state.elapsed:5.1f} s", style="dim"),
    )
    parts: list[Panel | Table] = [head]
    if view is not None:
        parts += [_rounds(view, state), _devices(view)]
    lines = height - _FIXED_LINES - (-(-len(view.devices[:_DEVICES_SHOWN]) // 2) if view else 0)
    parts.append(_events(newest_that_fit(state.events[-_EVENTS_SHOWN:], width - _EVENT_MARGIN, lines)))
    return Group(*parts)


def _rounds(view: FleetView, state: DemoState) -> Panel:
    rows = [row for row in view.rounds if row.outcome == "committed"]
    recent = rows[-_SPARKS:]
    last = rows[-1] if rows else None
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    done, wanted = view.version - state.first_version, state.rounds
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=wanted, completed=min(done, wanted), width=40), f"{done} of {wanted}")
    table.add_row("rounds", bar)
    table.add_row(
        "accuracy",
        Text.assemble(
            (f"{view.accuracy:6.1%}  ", "bold green"), (sparkline([row.accuracy for row in recent]), "green")
        ),
    )
    if last:
        table.add_row(
            "a round",
            f"{last.devices} devices, {last.seconds:.2f} s, each {last.up_bytes:,.0f} bytes up, "
            f"{last.down_bytes:,.0f} down (fp32 {4 * view.parameters:,})",
        )
    hubs = ", ".join(f"{hub.name} {'up' if hub.online else 'DOWN'}" for hub in view.hubs)
    table.add_row("mode", f"{view.mode}, {view.codec}, {view.algorithm}" + (f", {hubs}" if hubs else ""))
    return Panel(table, border_style="dim", title="model", title_align="left")


def _devices(view: FleetView) -> Panel:
    table = Table.grid(padding=(0, 3), expand=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    cells = [_device(row) for row in view.devices[:_DEVICES_SHOWN]]
    half = -(-len(cells) // 2)
    for index in range(half):
        right = cells[index + half] if index + half < len(cells) else Text()
        table.add_row(cells[index], right)
    return Panel(
        table, border_style="dim", title="devices: what each does, examples, release", title_align="left"
    )


def _device(row: DeviceRow) -> Text:
    text = Text()
    text.append("● " if row.online else "○ ", style="green" if row.online else "red")
    text.append(f"{row.name:<11}")
    phase = row.phase or "idle"
    text.append(f"{phase if row.online else 'offline':<10}", style=_PHASES.get(phase, "dim"))
    text.append(f"{row.examples:>4}  ", style="dim")
    text.append(f"v{row.release_version}" if row.release_version >= 0 else "-", style="magenta")
    if row.updater and row.updater not in {"idle", "confirmed"}:
        text.append(f" {row.updater}", style="yellow")
    return text


def newest_that_fit(events: list[DemoEvent], columns: int, lines: int) -> list[DemoEvent]:
    """Return the newest of ``events`` that fill ``lines`` of ``columns``; the last one always."""
    fit = len(events)
    for event in reversed(events):
        lines -= len(Text(event.text).wrap(_MEASURE, max(1, columns)))
        if lines < 0:
            break
        fit -= 1
    return events[min(fit, max(0, len(events) - 1)) :]


def _events(events: list[DemoEvent]) -> Panel:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim")
    table.add_column()
    for event in events:
        table.add_row(f"{event.at:.1f} s", Text(event.text, style=_event_style(event.kind)))
    return Panel(table, border_style="dim", title="events", title_align="left")


def _event_style(kind: str) -> str:
    if kind.startswith(("kill", "cut")):
        return "red"
    if kind.startswith(("back", "release.complete")):
        return "green"
    return "yellow" if kind.startswith("release") else ""


class PlainProgress:
    """Progress for a log file: a line per event and every few rounds."""

    def __init__(self, console: Console, state: DemoState) -> None:
        self._console = console
        self._state = state
        self._events = 0
        self._version = -1

    def update(self) -> None:
        """Print what is new."""
        for event in self._state.events[self._events :]:
            self._console.print(f"{event.at:6.1f} s  {event.text}", highlight=False, soft_wrap=True)
        self._events = len(self._state.events)
        view = self._state.view
        if view is None or view.version <= self._version or view.version % PLAIN_EVERY:
            return
        self._version = view.version
        row = next((row for row in reversed(view.rounds) if row.version == view.version), None)
        if row:
            self._console.print(
                f"{self._state.elapsed:6.1f} s  version {row.version}: accuracy {row.accuracy:.1%}, "
                f"{row.devices} devices, {row.seconds:.2f} s, {row.up_bytes:,.0f} bytes up and "
                f"{row.down_bytes:,.0f} down a device",
                highlight=False,
                soft_wrap=True,
            )


class LiveProgress:
    """Progress for a terminal: the screen, drawn again a few times a second."""

    def __init__(self, live: Live, state: DemoState) -> None:
        self._live = live
        self._state = state

    def update(self) -> None:
        """Draw the present state."""
        self._live.update(screen(self._state, *self._live.console.size))


@contextmanager
def progress(console: Console, state: DemoState) -> Iterator[PlainProgress | LiveProgress]:
    """Show ``state`` as fits ``console``: a live screen on a terminal, lines otherwise."""
    if console.is_terminal:
        with Live(
            screen(state, *console.size), console=console, refresh_per_second=8, transient=False
        ) as live:
            yield LiveProgress(live, state)
    else:
        plain = PlainProgress(console, state)
        yield plain
        plain.update()
