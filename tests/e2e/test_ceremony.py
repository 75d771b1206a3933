"""The enrolment without moving private keys, run as it is written."""

from pathlib import Path

import pytest

from doc_blocks import blocks, terminals
from shoal_codecs.security.identity import load_identity
from shoal_codecs.security.roster import load_roster

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "enrol-by-ceremony.md"
PARTIES = {
    "coordinator": "coordinator",
    "operator": "operator",
    "hub-1": "hub",
    "hub-2": "hub",
    "device-01": "device",
    "device-02": "device",
    "device-03": "device",
}


@pytest.mark.timeout(120)
def test_every_party_ends_with_its_own_key_and_one_roster(tmp_path: Path) -> None:
    with terminals(tmp_path) as shell:
        for block in blocks(HOW_TO):
            shell.run(block)
    digests = set()
    for name, role in PARTIES.items():
        folder = tmp_path / name
        roster = load_roster(folder / "roster.bin", folder / "authority.pub", "harbour")
        digests.add(roster.digest)
        assert roster.role(name) == role
        assert roster.party(name).key == load_identity(name, folder / "identity.key").public
    assert len(digests) == 1
    publisher = load_identity("publisher", tmp_path / "coordinator" / "publisher.key")
    assert roster.sole("publisher").key == publisher.public
    assert roster.party("hub-2").operator == "University"
