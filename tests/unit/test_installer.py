"""Slots: whatever instruction is the last before the power goes, what comes up is whole, old or new."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from shoal_codecs.ota.manifest import Artefact, Manifest, Provenance, open_manifest, sign_manifest
from shoal_codecs.security.identity import Identity
from shoal_codecs.wire.blob import describe
from shoal_edge.installer import Installed, Installer
from shoal_edge.release_errors import (
    ActiveSlotError,
    CorruptArtefactError,
    DamagedSlotError,
    DiskFullError,
    SlotWriteError,
)

PUBLISHER = Identity("publisher", bytes(32))
DIED = 77
TRACED = ("installer.py", "files.py")


class Release:
    """A signed release whose artefact lies in a file."""

    def __init__(self, folder: Path, version: int, kind: Any = "int8", task: bytes = bytes(32)) -> None:
        data = bytes([version]) * 300_000
        self.path = folder / f"blob-{version}"
        self.path.write_bytes(data)
        self.artefact = Artefact(kind, describe(data))
        self.name = f"r{version}"
        self.manifest, self.signature = sign_manifest(
            Manifest(
                fleet="meadow",
                release=self.name,
                version=version,
                model=bytes(32),
                parent=b"",
                task=task,
                artefacts=(self.artefact,),
                provenance=Provenance(),
                created_ms=1,
                expires_ms=2,
            ),
            PUBLISHER,
        )

    def write(self, installer: Installer, slot: str) -> None:
        installer.write(slot, self.path, self.artefact, self.manifest, self.signature)


def installer_in(folder: Path, **options: Any) -> Installer:
    def opened(data: bytes, signature: bytes) -> Manifest:
        return open_manifest(data, signature, PUBLISHER.public, "meadow", None)

    return Installer(folder, opened, **options)


def running(installer: Installer) -> str:
    active = installer.active()
    return active.manifest.release if active else ""


@pytest.fixture
def two(tmp_path: Path) -> tuple[Release, Release]:
    return Release(tmp_path, 1), Release(tmp_path, 2)


def test_the_tasks_of_both_slots_are_told_be_an_artefact_damaged(tmp_path: Path) -> None:
    installer = installer_in(tmp_path)
    assert installer.tasks() == frozenset()
    for version, slot in ((1, "A"), (2, "B")):
        Release(tmp_path, version, task=bytes([version]) * 32).write(installer, slot)
        installer.switch(slot)
    assert installer.tasks() == {b"\1" * 32, b"\2" * 32}
    (tmp_path / "slots" / "A" / "model.tflite").write_bytes(b"damaged")
    (tmp_path / "slots" / "B" / "manifest").write_bytes(b"damaged")
    assert installer.tasks() == {b"\1" * 32}


def test_a_release_goes_in_and_the_next_takes_over(tmp_path: Path, two: tuple[Release, Release]) -> None:
    installer = installer_in(tmp_path)
    assert installer.active() is None
    for release, slot in zip(two, ("A", "B"), strict=True):
        assert installer.idle_slot == slot
        release.write(installer, slot)
        found = installer.switch(slot)
        assert found.path.read_bytes() == release.path.read_bytes()
        assert running(installer_in(tmp_path)) == release.name
    installer.go_back("B", "A")
    assert running(installer) == "r1"
    with pytest.raises(DamagedSlotError):
        installer.switch("B")


def test_without_a_fallback_nothing_runs(tmp_path: Path, two: tuple[Release, Release]) -> None:
    installer = installer_in(tmp_path)
    two[0].write(installer, "A")
    installer.switch("A")
    installer.go_back("A", "")
    assert installer.active() is None
    installer.go_back("A", "")


def die_at(line: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a child that dies at the given line it executes; return whether it got that far."""
    with warnings.catch_warnings():
        # Threads of other tests may be alive; the child leaves without touching what they hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _run_and_die(line, work)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, DIED}
    return code == DIED


def _run_and_die(line: int, work: Callable[[], object]) -> NoReturn:
    left = line

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(TRACED):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os._exit(DIED)
        return count

    sys.settrace(count)
    try:
        work()
    except BaseException:  # noqa: BLE001 - the child must never return into the test runner
        os._exit(1)
    os._exit(0)


def every_death(work: Callable[[], object]) -> Iterator[int]:
    line = 0
    while die_at(line, work):
        yield line
        line += 1
    assert line > 30, "the tracer saw nothing: the test would prove nothing"


def install(folder: Path, release: Release) -> Installed:
    installer = installer_in(folder)
    slot = installer.idle_slot
    release.write(installer, slot)
    return installer.switch(slot)


def test_power_cut_at_every_line_of_an_installation(tmp_path: Path, two: tuple[Release, Release]) -> None:
    folder = tmp_path / "device"
    folder.mkdir()
    old, new = two
    install(folder, old)
    outcomes = set()
    for _ in every_death(lambda: install(folder, new)):
        installer = installer_in(folder)
        recovered = installer.recover()
        assert recovered is not None
        name = recovered.manifest.release
        assert name in {old.name, new.name}
        assert recovered.path.read_bytes() == (old if name == old.name else new).path.read_bytes()
        outcomes.add(name)
        if name == new.name:
            # Put it back by the same means: the installation goes on as if nothing had happened.
            install(folder, old)
    assert outcomes == {old.name, new.name}
    assert install(folder, new).manifest.release == new.name


def test_power_cut_at_every_line_of_going_back(tmp_path: Path, two: tuple[Release, Release]) -> None:
    folder = tmp_path / "device"
    folder.mkdir()
    old, new = two
    installer = installer_in(folder)
    old.write(installer, "A")
    installer.switch("A")

    def leave() -> None:
        installer_in(folder).go_back("B", "A")

    def prepare() -> None:
        new.write(installer, "B")
        installer.switch("B")

    prepare()
    for _ in every_death(leave):
        assert running(installer_in(folder)) in {old.name, new.name}
        installer_in(folder).recover()
        leave()
        assert running(installer_in(folder)) == old.name
        prepare()


def test_power_cut_at_every_line_of_the_first_installation(
    tmp_path: Path, two: tuple[Release, Release]
) -> None:
    folder = tmp_path / "device"
    folder.mkdir()
    for _ in every_death(lambda: install(folder, two[0])):
        recovered = installer_in(folder).recover()
        assert recovered is None or recovered.manifest.release == two[0].name
        installer_in(folder).go_back("A", "")


def test_the_slot_in_use_is_never_written(tmp_path: Path, two: tuple[Release, Release]) -> None:
    installer = installer_in(tmp_path)
    install(tmp_path, two[0])
    with pytest.raises(ActiveSlotError):
        two[1].write(installer, "A")
    with pytest.raises(ActiveSlotError):
        installer.clear("A")
    assert running(installer) == "r1"


def test_a_corrupted_artefact_leaves_the_slot_empty(tmp_path: Path, two: tuple[Release, Release]) -> None:
    install(tmp_path, two[0])
    installer = installer_in(tmp_path)
    two[1].path.write_bytes(b"x" * 300_000)
    with pytest.raises(CorruptArtefactError):
        two[1].write(installer, "B")
    with pytest.raises(DamagedSlotError):
        installer.switch("B")
    assert running(installer) == "r1"


def test_a_full_disk_is_said_and_the_active_slot_stays(tmp_path: Path, two: tuple[Release, Release]) -> None:
    install(tmp_path, two[0])
    with pytest.raises(DiskFullError, match="make room"):
        two[1].write(installer_in(tmp_path, free_bytes=lambda _: 1000), "B")
    assert running(installer_in(tmp_path)) == "r1"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, two: tuple[Release, Release]) -> None:
    install(tmp_path, two[0])
    (tmp_path / "slots" / "B").write_bytes(b"a file where the slot should be")
    with pytest.raises(SlotWriteError):
        two[1].write(installer_in(tmp_path), "B")
    assert running(installer_in(tmp_path)) == "r1"


@pytest.mark.parametrize("victim", ["model.tflite", "manifest", "signature"])
def test_a_slot_changed_on_disk_gives_way_to_the_other(
    tmp_path: Path, two: tuple[Release, Release], victim: str
) -> None:
    install(tmp_path, two[0])
    install(tmp_path, two[1])
    path = tmp_path / "slots" / "B" / victim
    path.write_bytes(b"\x01" + path.read_bytes()[1:-1] + b"\x07")
    installer = installer_in(tmp_path)
    with pytest.raises(DamagedSlotError):
        installer.active()
    recovered = installer.recover()
    assert recovered is not None
    assert recovered.manifest.release == "r1"
    (tmp_path / "slots" / "A" / "manifest").unlink()
    assert installer.recover() is None
    assert installer.active_slot == ""


def test_only_a_kind_that_this_device_runs_counts(tmp_path: Path) -> None:
    release = Release(tmp_path, 3, kind="float32")
    installer = installer_in(tmp_path, kinds=("int8",))
    release.write(installer, "A")
    with pytest.raises(DamagedSlotError):
        installer.switch("A")
