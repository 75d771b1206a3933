"""The reference of errors names every error there is and none that is not."""

import ast
import re
from pathlib import Path

from shoal_codecs.wire.errors import WireError

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference" / "errors.md"


def errors_of_the_code() -> dict[str, str]:
    """Every error class by name, with the name of what it derives from."""
    found = {}
    for package in ("codecs/shoal_codecs", "coordinator/shoal_coordinator", "edge/shoal_edge"):
        for module in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(module.read_text())):
                # A loss of this name derives from nothing.
                if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and node.bases:
                    found[node.name] = ast.unparse(node.bases[0])
    return found


def errors_of_the_reference() -> set[str]:
    return set(re.findall(r"`(\w+Error)`", REFERENCE.read_text()))


def test_every_error_is_in_the_reference() -> None:
    assert set(errors_of_the_code()) - errors_of_the_reference() == set()


def test_the_reference_names_no_error_that_is_not_there() -> None:
    assert errors_of_the_reference() - set(errors_of_the_code()) == set()


def test_every_error_is_a_shoal_error() -> None:
    found = errors_of_the_code()
    for name, base in found.items():
        while base in found and base != "ShoalError":
            base = found[base]  # noqa: PLW2901 - up to the root
        assert name == "ShoalError" or base == "ShoalError", f"{name} derives from {base}"
    assert WireError.__name__ in found


def test_every_row_says_what_to_do() -> None:
    for line in REFERENCE.read_text().splitlines():
        if line.startswith("| ") and "Error`" in line:
            *_, remedy = line.strip("| ").split(" | ")
            assert len(remedy) > 5, line
            assert "Error`" not in remedy, line
