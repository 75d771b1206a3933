"""The tutorial, run as it is written."""

import json
from pathlib import Path

import pytest

from doc_blocks import Block, blocks, terminals
from shoal_coordinator.demo.broker import find_mosquitto, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial" / "first-fleet.md"


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    for name in ("examples", "broker_config"):
        (tmp_path / name).symlink_to(ROOT / name)
    port = str(free_port())
    with terminals(tmp_path, change=lambda text: text.replace("18830", port)) as open_terminals:
        for block in blocks(TUTORIAL):
            open_terminals.run(block)
        status = open_terminals.run(Block("shoal status -o json", 0))
        printed = "\n".join(open_terminals.output)
    view = json.loads(status)
    devices = {row["name"]: row for row in view["devices"]}
    assert {name: row["trust"] for name, row in devices.items()} == {
        **{f"device-0{number}": "roster" for number in (1, 2, 3)},
        "pump-17": "guest",
    }
    assert all(row["online"] for row in [*devices.values(), *view["hubs"]])
    assert [row["outcome"] for row in view["rounds"]] == ["committed"] * 10
    assert view["version"] == 10
    assert view["accuracy"] > 0.6
    (release,) = view["releases"]
    assert (release["state"], release["confirmed"], release["version"]) == ("complete", 3, 10)
    assert "release first-light, model version 10, int8" in printed
    assert "pump-17 (guest)" in printed, printed
    # Ctrl-C ended each of ours in order; the foreign device and the broker have ways of their own.
    codes = open_terminals.codes()
    ours = {name: code for name, code in codes.items() if name not in {"broker", "pump-17"}}
    assert ours == dict.fromkeys(ours, 0), open_terminals.logs()
    assert None not in codes.values()
