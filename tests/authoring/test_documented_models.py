"""The models that the reference of the kit shows are authored as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shoal_codecs.wire.task import decode_task
from shoal_coordinator.cli.commands import app

# A converter takes its time on a busy machine.
pytestmark = pytest.mark.timeout(400)
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "model-kit.md"
MODELS = re.findall(r"^```python model\n(.*?)^```$", REFERENCE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(MODELS)))
def test_a_model_of_the_reference_is_authored(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bolts.py").write_text(MODELS[number])
    done = CliRunner().invoke(app, ["author", "bolts.py", "-o", "bolts.task"])
    assert done.exit_code == 0, done.output
    decode_task(Path("bolts.task").read_bytes())
    if number == 0:
        shown = re.sub(r"[\d,]+ bytes", "N bytes", REFERENCE.read_text())
        assert re.sub(r"[\d,]+ bytes", "N bytes", done.output.strip()) in shown
