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
    signs = ", ".join([*bundle.abilities, *(["private"] if bundle.private else [])]) or "nothing more"
    typer.echo(
        f"{output}: task {bundle.name}, {bundle.dimension:,} parameters, {output.stat().st_size:,} bytes. "
        f"Its gradients are those of automatic differentiation. It can do: {signs}."
    )
