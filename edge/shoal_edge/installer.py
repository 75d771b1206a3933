"""Two slots and one pointer: the power may go at any instruction, what comes up is whole, old or new.

    slots/A/{model.tflite, signature, manifest}    slots/B/{...}    slots/active -> A

A slot is written while the pointer is on the other, its manifest last, every file and folder on disk before
the next step; the pointer moves by one rename. A slot counts only if the publisher signed its manifest and
the artefact's digest is the one it names.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from blake3 import blake3

from shoal_codecs.durable import sync_folder
from shoal_codecs.ota.errors import OtaError
from shoal_codecs.ota.manifest import Artefact, ArtefactKind, Manifest
from shoal_edge.files import remove_leftovers
from shoal_edge.release_errors import (
    ActiveSlotError,
    CorruptArtefactError,
    DamagedSlotError,
    DiskFullError,
    SlotWriteError,
)

SLOTS = ("A", "B")
ARTEFACT, MANIFEST, SIGNATURE = "model.tflite", "manifest", "signature"
POINTER = "active"
RESERVE_BYTES = 4 * 1024 * 1024
_PIECE = 256 * 1024

Opener = Callable[[bytes, bytes], Manifest]


@dataclass(frozen=True, slots=True)
class Installed:
    """A whole slot: its name, its verified manifest and the file that runs."""

    slot: str
    manifest: Manifest
    kind: ArtefactKind
    path: Path


class Installer:
    """The slots under ``folder``; ``opener`` verifies a manifest and its signature, whatever its date.

    ``free_bytes`` says how much room a folder has.
    """

    def __init__(
        self,
        folder: Path,
        opener: Opener,
        kinds: tuple[ArtefactKind, ...] = ("int8", "float32"),
        *,
        free_bytes: Callable[[Path], int] | None = None,
    ) -> None:
        self._folder = folder / "slots"
        self._open = opener
        self._kinds = kinds
        self._free_bytes = free_bytes or (lambda path: shutil.disk_usage(path).free)

    @property
    def active_slot(self) -> str:
        """The slot the pointer is on, empty for none."""
        try:
            slot = (self._folder / POINTER).readlink().name
        except OSError:
            return ""
        return slot if slot in SLOTS else ""

    @property
    def idle_slot(self) -> str:
        """The slot a new release goes to."""
        return "B" if self.active_slot == "A" else "A"

    def active(self) -> Installed | None:
        """Return the release that runs, verified, or None where none does.

        Raises:
            DamagedSlotError: the pointer is on a slot that is not whole.
        """
        slot = self.active_slot
        return self.inspect(slot) if slot else None

    def inspect(self, slot: str) -> Installed:
        """Return what ``slot`` holds, every byte verified.

        Raises:
            DamagedSlotError: not what a signed manifest describes.
        """
        place = self._folder / slot
        try:
            manifest = self._open((place / MANIFEST).read_bytes(), (place / SIGNATURE).read_bytes())
            artefact = manifest.artefact(self._kinds)
            digest, size = _digest_file(place / ARTEFACT)
        except OSError as error:
            raise DamagedSlotError(
                f"slot {slot} is not whole ({error.strerror}): install a release"
            ) from error
        except OtaError as error:
            raise DamagedSlotError(f"slot {slot}: {error}") from error
        if (digest, size) != (artefact.blob.digest, artefact.blob.size):
            raise DamagedSlotError(f"the artefact in slot {slot} was changed on disk: install a release")
        return Installed(slot, manifest, artefact.kind, place / ARTEFACT)

    def tasks(self) -> frozenset[bytes]:
        """Return the tasks (digests) of what the slots hold, as far as their manifests can be read."""
        found = set()
        for slot in SLOTS:
            place = self._folder / slot
            with contextlib.suppress(OSError, OtaError):
                found.add(self._open((place / MANIFEST).read_bytes(), (place / SIGNATURE).read_bytes()).task)
        return frozenset(found)

    def write(self, slot: str, source: Path, artefact: Artefact, manifest: bytes, signature: bytes) -> None:
        """Fill the idle ``slot`` with the artefact at ``source`` and its description.

        Raises:
            ActiveSlotError: ``slot`` is in use.
            DiskFullError, SlotWriteError: the disk does not take it; the slot is empty then.
            CorruptArtefactError: ``source`` is not the artefact described; the slot is empty then.
        """
        if slot == self.active_slot:
            raise ActiveSlotError(f"slot {slot} is in use: report this as a defect")
        place = self._folder / slot
        try:
            place.mkdir(parents=True, exist_ok=True)
            sync_folder(self._folder)
            self._check_room(artefact.blob.size + len(manifest))
            self.clear(slot)
            _copy(source, place / ARTEFACT, artefact)
            _write(place / SIGNATURE, signature)
            sync_folder(place)
            # The manifest makes the slot whole, so everything else is on disk before it.
            _write(place / MANIFEST, manifest)
            sync_folder(place)
        except OSError as error:
            self._clear_quietly(slot)
            _fail(slot, error)
        except CorruptArtefactError:
            self._clear_quietly(slot)
            raise

    def clear(self, slot: str) -> None:
        """Empty the idle ``slot``, its manifest first, so that it never looks whole.

        Raises:
            ActiveSlotError: ``slot`` is in use.
            SlotWriteError: the folder cannot be written.
        """
        if slot == self.active_slot:
            raise ActiveSlotError(f"slot {slot} is in use: report this as a defect")
        place = self._folder / slot
        if not place.is_dir():
            return
        try:
            (place / MANIFEST).unlink(missing_ok=True)
            sync_folder(place)
            for name in (SIGNATURE, ARTEFACT):
                (place / name).unlink(missing_ok=True)
        except OSError as error:
            _fail(slot, error)

    def switch(self, slot: str) -> Installed:
        """Put the pointer on ``slot``, which must be whole; harmless where it is already.

        Raises:
            DamagedSlotError: the slot is not whole; the pointer stays.
            SlotWriteError, DiskFullError: the pointer cannot be moved.
        """
        installed = self.inspect(slot)
        if self.active_slot == slot:
            return installed
        fresh = self._folder / f"{POINTER}.new"
        try:
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(slot)
            fresh.replace(self._folder / POINTER)
            sync_folder(self._folder)
        except OSError as error:
            _fail(slot, error)
        return installed

    def go_back(self, slot: str, fallback: str) -> None:
        """Leave ``slot`` for ``fallback`` ("" for none) and empty it; harmless where that is done.

        Raises:
            SlotWriteError, DiskFullError: the pointer cannot be moved.
        """
        if self.active_slot == slot:
            self._switch_or_detach(fallback)
        self.clear(slot)

    def recover(self) -> Installed | None:
        """Return what runs after a start; a damaged slot gives way to the other one if that is whole."""
        if self._folder.is_dir():
            remove_leftovers(self._folder)
        try:
            return self.active()
        except DamagedSlotError:
            other = self.idle_slot
        return self._switch_or_detach(other)

    def _switch_or_detach(self, slot: str) -> Installed | None:
        """Put the pointer on ``slot`` if it is whole, else take it away: no release is better than half."""
        try:
            if slot:
                return self.switch(slot)
        except DamagedSlotError:
            pass
        try:
            (self._folder / POINTER).unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as error:
            _fail(slot, error)
        return None

    def _check_room(self, wanted: int) -> None:
        free = self._free_bytes(self._folder)
        if free < wanted + RESERVE_BYTES:
            raise DiskFullError(
                f"{wanted} bytes are needed and {RESERVE_BYTES} kept in reserve, {free} are free: "
                f"make room where {self._folder} is"
            )

    def _clear_quietly(self, slot: str) -> None:
        try:
            self.clear(slot)
        except SlotWriteError:
            # The slot has no manifest or a wrong one; either way nothing switches to it.
            return


def _copy(source: Path, target: Path, artefact: Artefact) -> None:
    """Copy piece by piece and hash what is written, so that what was checked is what is kept."""
    hasher, size = blake3(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(_PIECE):
            hasher.update(piece)
            size += len(piece)
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())
    if (hasher.digest(), size) != (artefact.blob.digest, artefact.blob.size):
        raise CorruptArtefactError(
            f"the {artefact.kind} artefact fetched is not the one the manifest names: fetch it again"
        )


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _digest_file(path: Path) -> tuple[bytes, int]:
    hasher, size = blake3(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
            size += len(piece)
    return hasher.digest(), size


def _fail(slot: str, error: OSError) -> NoReturn:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        raise DiskFullError(f"the disk filled up while slot {slot} was written: make room") from error
    raise SlotWriteError(f"cannot write slot {slot}: {error.strerror}; mend the disk") from error
