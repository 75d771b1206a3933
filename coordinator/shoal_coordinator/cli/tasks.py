"""``shoal task``: the tasks that come with Shoal, and what a task file holds."""

import typer
from rich.console import Console
from rich.table import Table

from shoal_codecs.wire.task import TaskBundle, decode_task
from shoal_coordinator.tasks import shipped_task, shipped_tasks, task_path
from shoal_coordinator.tasks.errors import UnreadableTaskError


def list_tasks() -> None:
    """Print the tasks that come with Shoal, one a line."""
    table = Table(box=None, header_style="bold")
    for title in ("task", "input", "learns", "parameters", "bytes"):
        table.add_column(title, justify="right" if title in {"parameters", "bytes"} else "left")
    for name in shipped_tasks():
        data = shipped_task(name).read_bytes()
        bundle = decode_task(data)
        table.add_row(name, _input(bundle), _target(bundle), f"{bundle.dimension:,}", f"{len(data):,}")
    Console().print(table)


def show_task(task: str) -> None:
    """Print what a task, by name or as a file, takes, holds and does by default.

    Raises:
        UnknownTaskError, UnreadableTaskError, InvalidTaskError: there is no such task, or it is none.
    """
    path = task_path(task)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableTaskError(f"cannot read {path} ({error.strerror}): name a task file") from error
    bundle = decode_task(data, path)
    preset = bundle.defaults
    abilities = [*bundle.abilities, *(["private"] if bundle.private else [])]
    rows = {
        "name": bundle.name,
        "file": f"{path}, {len(data):,} bytes",
        "input": f"{_input(bundle)} within {bundle.input.minimum:g} and {bundle.input.maximum:g}",
        "learns": _target(bundle),
        "parameters": f"{bundle.dimension:,} in {len(bundle.parameters)} tensors",
        "by default": f"{preset.epochs} epochs, rate {preset.learning_rate:g}, batch {preset.batch_size}",
        "can do": ", ".join(abilities) or "nothing more",
        "stays on devices": ", ".join(bundle.local) or "nothing",
        "narrower": ", ".join(f"{one.share:g} ({one.dimension:,})" for one in bundle.variants) or "none",
    }
    for title, value in rows.items():
        typer.echo(f"{title:20}{value}")


def _input(bundle: TaskBundle) -> str:
    return f"{' x '.join(map(str, bundle.input.shape))} {bundle.input.dtype}"


def _target(bundle: TaskBundle) -> str:
    if bundle.target.kind == "label":
        return f"{len(bundle.labels):,} labels"
    return f"values {' x '.join(map(str, bundle.target.shape)) or '1'}"
