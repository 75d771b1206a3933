"""The LiteRT interpreter, under whichever name it is installed."""

import importlib
import importlib.util
from typing import Any

from shoal_edge.trainers.errors import MissingRuntimeError, UnusableModelError

RUNTIMES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
_SMALLEST_MODEL = 8


def interpreter_class() -> Any:
    """Return the Interpreter class of the first runtime that is installed.

    Raises:
        MissingRuntimeError: none is.
    """
    faults = []
    for name in RUNTIMES:
        try:
            return importlib.import_module(name).Interpreter
        except ImportError as error:
            faults.append(f"{name}: {error}")
    raise MissingRuntimeError(
        "no LiteRT interpreter: install shoal[edge], which brings ai-edge-litert, or on armv7 "
        f"tflite-runtime ({'; '.join(faults)})"
    )


def has_interpreter() -> bool:
    """Return whether an interpreter is installed, without loading it."""
    return any(importlib.util.find_spec(name.partition(".")[0]) for name in RUNTIMES)


def runtime_name() -> str:
    """Return the installed interpreter's distribution and version."""
    package: str = interpreter_class().__module__.partition(".")[0]
    # Its own word: distributions' records are read with the libraries of mail.
    found = getattr(importlib.import_module(package), "__version__", "")
    return f"{package.replace('_', '-')} {found}".strip()


def open_model(model: bytes, threads: int = 1) -> Any:
    """Return an interpreter of ``threads`` threads for ``model``, a .tflite file's bytes.

    The interpreter verifies the flatbuffer's structure, not its sense: only bytes whose digest was
    checked belong here.

    Raises:
        MissingRuntimeError: no interpreter is installed.
        UnusableModelError: damaged, or with operators this interpreter lacks.
    """
    kind = interpreter_class()
    if len(model) < _SMALLEST_MODEL or model[4:8] != b"TFL3":
        raise UnusableModelError(f"{len(model)} bytes that are no .tflite file (TFL3): fetch the file again")
    try:
        return kind(model_content=model, num_threads=threads)
    except (ValueError, RuntimeError) as error:
        raise UnusableModelError(
            f"the interpreter refuses the model ({error}): fetch the file again, or update the agent"
        ) from error
