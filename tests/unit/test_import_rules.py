"""The import rules of the architecture, read from the source and from a fresh interpreter."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal_coordinator.config import shipped

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "shoal_codecs": ROOT / "codecs" / "shoal_codecs",
    "shoal_coordinator": ROOT / "coordinator" / "shoal_coordinator",
    "shoal_edge": ROOT / "edge" / "shoal_edge",
}
MAY_NOT_IMPORT = {
    "shoal_codecs": {"shoal_coordinator", "shoal_edge"},
    "shoal_coordinator": {"shoal_edge"},
    "shoal_edge": {"shoal_coordinator"},
}
MQTT_CLIENTS = {"aiomqtt", "paho"}
HEAVY = {"numpy", "cryptography", "sqlalchemy", "alembic", "typer", "rich", "pydantic", "ai_edge_litert"}
LIGHT = ["wire", "security", "transport"]
# structlog takes rich along where it is installed; on a device it is not.
NOT_ON_A_DEVICE = ("rich", "typer", "sqlalchemy", "alembic", "pydantic")


def sources(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every import of a file, wherever it stands, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def breaches(paths: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for line, name in imports(path)
        if name.split(".")[0] in forbidden
    ]


def loaded_by(modules: list[str], *, absent: tuple[str, ...] = (), then: str = "") -> set[str]:
    """Return the top-level packages that a fresh interpreter holds after importing ``modules``.

    The packages ``absent`` cannot be imported in it. It runs ``then`` before it tells.
    """
    script = (
        "import importlib, json, sys\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"{then}\n"
        "print(json.dumps(sorted({name.split('.')[0] for name, one in sys.modules.items() if one})))"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(output.stdout))


def modules_of(package: str, *parts: str) -> list[str]:
    """Return the dotted names of every module of ``package`` below ``parts``."""
    folder = PACKAGES[package].joinpath(*parts)
    names = []
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(PACKAGES[package].parent).with_suffix("")
        names.append(".".join(part for part in relative.parts if part != "__init__"))
    return [name for name in names if not name.endswith("__main__")]


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_meet_on_the_wire_only(package: str) -> None:
    assert sources(package)
    assert breaches(sources(package), MAY_NOT_IMPORT[package]) == []


def test_imports_are_absolute() -> None:
    relative = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in PACKAGES
        for path in sources(package)
        for line, name in imports(path)
        if name.startswith(".")
    ]
    assert relative == []


def test_only_the_transport_imports_an_mqtt_client() -> None:
    transport = PACKAGES["shoal_codecs"] / "transport"
    others = [path for package in PACKAGES for path in sources(package) if transport not in path.parents]
    assert breaches(others, MQTT_CLIENTS) == []
    assert breaches(sorted(transport.rglob("*.py")), MQTT_CLIENTS)


def test_only_the_authoring_kit_imports_tensorflow_and_not_to_describe_a_model() -> None:
    kit = PACKAGES["shoal_coordinator"] / "authoring"
    others = [path for package in PACKAGES for path in sources(package) if kit not in path.parents]
    assert breaches(others, {"tensorflow"}) == []
    assert breaches(sorted(kit.rglob("*.py")), {"tensorflow"})
    assert loaded_by(["shoal_coordinator.authoring"], absent=("tensorflow",)) & HEAVY == set()


@pytest.mark.parametrize("part", LIGHT)
def test_what_every_party_speaks_with_is_light(part: str) -> None:
    assert loaded_by(modules_of("shoal_codecs", part), absent=NOT_ON_A_DEVICE) & HEAVY == set()


def test_an_idle_agent_is_light() -> None:
    """numpy and the training runtime belong to the process that a round starts."""
    agent = ["shoal_edge.cli", "shoal_edge.config", "shoal_edge.agent", "shoal_codecs.logs"]
    loaded = loaded_by(agent, absent=NOT_ON_A_DEVICE)
    assert loaded & HEAVY == set()
    assert {"shoal_edge", "shoal_codecs", "aiomqtt"} <= loaded


def test_the_worker_loads_what_training_needs_and_no_more() -> None:
    """Each library is memory that a small board has not got for the model."""
    loaded = loaded_by(["shoal_edge.worker", "shoal_edge.jobs.reporting"], absent=NOT_ON_A_DEVICE)
    assert loaded & {"structlog", "aiomqtt", "asyncio", "psutil", "torch", "ssl"} == set()
    assert {"numpy", "msgspec"} <= loaded


A_FIT = """
from shoal_codecs.wire.blob import digest_of
from shoal_edge.jobs.registry import load
from shoal_edge.jobs.state import WorkerState
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.system_random import SystemRandom
load("fit_and_report")
state = WorkerState()
ready = state.ready(digest_of(open(TASK, "rb").read()), TASK)
train, _ = state.examples(ready.bundle, DATA, b"")
ready.trainer.fit(train.x, train.y, FitOptions(epochs=1, learning_rate=0.01, batch_size=99), SystemRandom())
assert ready.trainer.runtime.partition(" ")[2]
"""


def test_a_fit_loads_no_ciphers_and_nothing_else_that_it_does_not_use() -> None:
    """They come with the report, when what the model took is free. ``secrets`` comes with numpy.random."""
    task, data = shipped("digits.task"), shipped("digits.npz")
    fit = f"TASK, DATA = {str(task)!r}, {str(data)!r}\n{A_FIT}"
    loaded = loaded_by(["shoal_edge.worker"], absent=NOT_ON_A_DEVICE, then=fit)
    ciphers = {"cryptography", "nacl", "_cffi_backend", "hashlib", "_hashlib", "secrets"}
    assert loaded & ciphers == set()
    assert loaded & {"logging", "concurrent", "email", "tomllib", "asyncio", "structlog", "aiomqtt"} == set()
    assert loaded & {"ai_edge_litert", "tflite_runtime"}
    # Tried out by the process that trains afterwards.
    tried = fit + "load('measure')\nfrom shoal_edge.probing import probe_models\n"
    tried += "probe_models(ready.bundle, ready.digest, train, state.settings, 60.0)\n"
    assert loaded_by(["shoal_edge.worker"], then=tried) & ciphers == set()
    report = loaded_by(["shoal_edge.jobs.reporting", "shoal_edge.shares"])
    assert {"cryptography", "nacl"} <= report
    assert report & {"hashlib", "_hashlib", "secrets", "logging", "concurrent"} == set()


def test_help_does_not_wait_for_what_it_does_not_use() -> None:
    loaded = loaded_by(["shoal_coordinator.cli", "shoal_coordinator.cli.commands"])
    assert loaded & {"numpy", "sqlalchemy", "alembic", "aiomqtt", "ai_edge_litert"} == set()


def test_the_hubs_process_loads_no_training() -> None:
    loaded = loaded_by(["shoal_coordinator.hub.service"])
    assert loaded & {"ai_edge_litert", "typer", "alembic"} == set()


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_importing_says_and_starts_nothing(package: str) -> None:
    script = (
        "import importlib, threading\n"
        f"importlib.import_module({package!r})\n"
        "assert threading.active_count() == 1"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
