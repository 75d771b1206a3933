"""LiteRT's own aarch64 wheel under emulation, as ``scripts/aarch64-environment`` sets it up."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("SHOAL_AARCH64", TOP / ".peers" / "aarch64"))


def require_emulation() -> None:
    """Skip the test where there is no emulated machine."""
    if not (FOLDER / "complete").exists():
        pytest.skip("no emulated aarch64 here: run scripts/aarch64-environment")


def run_emulated(script: str, *arguments: str) -> dict[str, Any]:
    """Return what the Python ``script`` prints last there, JSON, with Shoal's packages on its path."""
    root = FOLDER / "root"
    qemu, python = (str(root / "usr/bin" / one) for one in ("qemu-aarch64-static", "python3.11"))
    packages = [str(TOP / one) for one in ("codecs", "coordinator", "edge")]
    done = subprocess.run(
        [qemu, "-cpu", "cortex-a72", "-L", str(root), python, "-c", script, *arguments],
        env={
            "PYTHONPATH": os.pathsep.join([str(FOLDER / "site"), *packages]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["machine"] == "aarch64"
    return told
