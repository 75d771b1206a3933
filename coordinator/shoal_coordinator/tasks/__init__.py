"""The tasks that come with Shoal: ``NAME.py`` describes one, ``shoal author`` made ``NAME.task`` of it."""

from pathlib import Path

from shoal_coordinator.tasks.errors import UnknownTaskError

FOLDER = Path(__file__).parent
_SUFFIX = ".task"


def shipped_tasks() -> tuple[str, ...]:
    """Return the names of the tasks that come with Shoal, as settings and commands take them."""
    return tuple(sorted(path.stem.replace("_", "-") for path in FOLDER.glob(f"*{_SUFFIX}")))


def shipped_task(name: str) -> Path:
    """Return the path of the task file ``name``, such as ``mnist-2nn``.

    Raises:
        UnknownTaskError: none of that name comes with Shoal.
    """
    if name not in shipped_tasks():
        raise UnknownTaskError(
            f"no task {name!r} comes with Shoal: take one of {', '.join(shipped_tasks())}, or a file's path"
        )
    return FOLDER / f"{name.replace('-', '_')}{_SUFFIX}"


def task_path(setting: str) -> Path:
    """Return the task file that a setting means: the name of a task that comes with Shoal, or a file's path.

    What looks like a path (a separator or a suffix in it), or is a file that exists, is one.

    Raises:
        UnknownTaskError: a bare name that is neither.
    """
    path = Path(setting)
    if path.suffix or len(path.parts) > 1 or path.exists():
        return path
    return shipped_task(setting)
