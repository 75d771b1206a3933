"""The tasks that come with Shoal: ``NAME.py`` describes one, ``shoal author`` made ``NAME.task`` of it."""

from pathlib import Path

FOLDER = Path(__file__).parent


def shipped_task(name: str) -> Path:
    """Return the path of the task file ``name``, without its suffix."""
    return FOLDER / f"{name}.task"
