"""From a model file, a Python program that ends with ``task = Task(...)``, to a task file."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shoal_codecs.durable import replace_whole
from shoal_codecs.wire.task import TaskBundle, encode_task
from shoal_coordinator.authoring.errors import (
    AuthoringError,
    MissingAuthoringExtraError,
    ModelFileError,
    TaskWriteError,
)
from shoal_coordinator.authoring.task import Task

_NEEDED = "tensorflow"


def load_description(path: Path) -> Task:
    """Run the model file at ``path`` and return its ``task``.

    Raises:
        ModelFileError: unreadable, it fails, or it defines no task.
        MissingAuthoringExtraError: it needs TensorFlow, which is not installed.
        AuthoringError: what the file describes cannot be.
    """
    try:
        defined = runpy.run_path(str(path), run_name="__shoal_author__")
    except AuthoringError:
        raise
    except OSError as error:
        raise ModelFileError(
            f"cannot read {error.filename or path} ({error.strerror}): name a file"
        ) from error
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == _NEEDED:
            raise _missing() from error
        raise ModelFileError(f"{path} needs {error.name}, which is not installed: install it") from error
    except (Exception, SystemExit) as error:
        where = f"{path} fails: {type(error).__name__}: {error}"
        raise ModelFileError(f"{where}; run it with python to see where") from error
    task = defined.get("task")
    if not isinstance(task, Task):
        raise ModelFileError(
            f"{path} defines no task: let it end with task = Task(...) from shoal_coordinator.authoring"
        )
    return task


def _missing() -> MissingAuthoringExtraError:
    return MissingAuthoringExtraError(
        "authoring needs TensorFlow, which is not installed here: on a workstation, "
        "pip install 'shoal[coordinator,authoring]'"
    )


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep back what native libraries print on standard error; where they fail, it is shown."""
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except AuthoringError:
            raise
        except BaseException:
            kept.seek(0)
            os.write(shown, kept.read())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)


def author_file(model: Path, output: Path) -> TaskBundle:
    """Author what the file ``model`` describes and write it to ``output``, once everything was checked.

    Raises:
        MissingAuthoringExtraError: TensorFlow is not installed.
        TaskWriteError: the output cannot be written.
        AuthoringError: the description cannot be authored; nothing is written.
    """
    # Before TensorFlow is loaded: what matters comes as an error, and nothing looks for a graphics card.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    description = load_description(model)
    if importlib.util.find_spec(_NEEDED) is None:
        raise _missing()
    with _quiet_libraries():
        from shoal_coordinator.authoring.author import author  # noqa: PLC0415 - loads TensorFlow

        bundle = author(description)
    try:
        replace_whole(output, encode_task(bundle), output.with_name(f"{output.name}.part"))
    except OSError as error:
        raise TaskWriteError(f"cannot write {output} ({error.strerror}): choose another place") from error
    return bundle
