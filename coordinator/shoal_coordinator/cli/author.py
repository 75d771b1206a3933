"""``shoal author``: a model's description becomes a task file."""

from pathlib import Path

import typer

from shoal_coordinator.authoring.files import author_file


def author_model(model: Path, output: Path) -> None:
    """Author ``model``, write ``output`` and say what it holds.

    Raises:
        AuthoringError: nothing was written; the text says why, and what to do.
    """
    bundle = author_file(model, output)
    signs = ", ".join([*bundle.abilities, *(["private"] if bundle.private else [])])
    more = f" Training takes {signs}, too." if signs else ""
    typer.echo(
        f"{output}: task {bundle.name}, {bundle.dimension:,} parameters, {output.stat().st_size:,} bytes. "
        f"Its gradients are those of automatic differentiation.{more}"
    )
