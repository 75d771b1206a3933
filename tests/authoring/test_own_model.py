"""The tutorial of one's own model, run as it is written."""

import json
from pathlib import Path

import pytest

from doc_blocks import Block, blocks, terminals
from shoal_coordinator.demo.broker import find_mosquitto, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial" / "your-own-model.md"


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "broker_config").symlink_to(ROOT / "broker_config")
    port = str(free_port())
    with terminals(tmp_path, change=lambda text: text.replace("18840", port)) as open_terminals:
        for block in blocks(TUTORIAL):
            open_terminals.run(block)
        view = json.loads(open_terminals.run(Block("shoal status -o json", 0)))
        printed = "\n".join(open_terminals.output)
    assert view["version"] == 12
    assert view["accuracy"] > 0.85
    (release,) = view["releases"]
    assert (release["state"], release["confirmed"]) == ("complete", 3)
    assert "170: 136 to train on, 34 held out" in printed
    assert "release tumours-1, model version 12, int8" in printed
