"""What a device must not forget of mode ``single``: bundles not used yet, the round's secrets, bases opened.

Files only the owner reads. A bundle leaves the unused ones when it is written into a round's record, and the
record goes with the round: a mask key exists for one plan and not after it.
"""

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from shoal_codecs.secagg.single.bundles import OwnBundle
from shoal_codecs.secagg.single.device_messages import DeviceMemory
from shoal_codecs.secagg.single.errors import UnknownBundleError
from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.single import Prekey, prekey_id
from shoal_edge.errors import StoreError
from shoal_edge.files import disk_faults, remove_leftovers, write_durably

T = TypeVar("T")
_RECORD = 32 * 3 + 8


class Session(msgspec.Struct, frozen=True, array_like=True):
    """A round under way: the bundle it uses, everybody's ``prekeys`` and what the machine keeps."""

    plan_hash: bytes
    base: bytes
    bundle: OwnBundle
    prekeys: tuple[Prekey, ...]
    memory: DeviceMemory = DeviceMemory()


class _Unused(msgspec.Struct, frozen=True, array_like=True):
    bundles: tuple[OwnBundle, ...] = ()


class SingleStore:
    """The files below ``folder``; threads wait for each other.

    Raises:
        StoreError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._one_at_a_time = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            remove_leftovers(folder)
        except OSError as error:
            raise StoreError(f"cannot use {folder}: {error.strerror}; give the agent a folder") from error
        self.session = self._read("session.bin", Session)
        unused = (self._read("bundles.bin", _Unused) or _Unused()).bundles
        spent = self.session.bundle if self.session else None
        # A power cut between two writes leaves a spent bundle among the unused.
        self.bundles = tuple(bundle for bundle in unused if bundle != spent)
        self._opened = self._load_opened()

    def add_bundles(self, fresh: Sequence[OwnBundle]) -> None:
        """Keep fresh bundles; only then may their public halves be shown.

        Raises:
            StoreError: the disk does not take them.
        """
        with self._one_at_a_time:
            self._hold((*self.bundles, *fresh))

    def begin(self, plan: Plan, plan_hash: bytes, device: str, prekeys: tuple[Prekey, ...]) -> None:
        """Spend the bundle that the plan names on its round.

        Raises:
            UnknownBundleError: it is not here, or was used.
            StoreError: the disk does not take it.
        """
        with self._one_at_a_time:
            if self.session is not None and self.session.plan_hash == plan_hash:
                return
            bundle = self.bundle_of(plan, device)
            session = Session(plan_hash, plan.task + plan.base, bundle, prekeys)
            self._write("session.bin", session)
            self.session = session
            self._hold(tuple(one for one in self.bundles if one != bundle))

    def bundle_of(self, plan: Plan, device: str) -> OwnBundle:
        """Return the unused bundle that the plan names for ``device``.

        Raises:
            UnknownBundleError: it is not here, or was used.
        """
        place = plan.cohort.index(device)
        named = plan.single.prekeys[place] if plan.single else b""
        for bundle in self.bundles:
            if prekey_id(plan.fleet, device, bundle.prekey) == named:
                return bundle
        raise UnknownBundleError(
            "the plan names a key bundle that this device does not hold or has used: it has parked others"
        )

    def keep(self, memory: DeviceMemory) -> None:
        """Write down how far the round is; that masks on its base were opened stays for good.

        Raises:
            StoreError: the disk does not take it.
        """
        if self.session is None:
            raise StoreError("no round of mode 'single' to write down: report this as a defect")
        if memory.released:
            self._note_opened(self.session)
        session = msgspec.structs.replace(self.session, memory=memory)
        self._write("session.bin", session)
        self.session = session

    def forget(self, plan_hash: bytes) -> None:
        """Destroy the secrets of a round that is over.

        Raises:
            StoreError: the disk does not let go of them.
        """
        if self.session is None or self.session.plan_hash != plan_hash:
            return
        self.session = None
        try:
            (self._folder / "session.bin").unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove {error.filename}: {error.strerror}; mend the disk") from error

    def opened(self, base: bytes) -> bytes | None:
        """Return the hash of the plan whose masks were opened on ``base`` (task and model), or None."""
        return self._opened.get(base)

    # --- inside ---------------------------------------------------------------------------------

    def _hold(self, bundles: tuple[OwnBundle, ...]) -> None:
        self._write("bundles.bin", _Unused(bundles))
        self.bundles = bundles

    def _write(self, name: str, value: object) -> None:
        write_durably(self._folder / name, pack(value), private=True)

    def _read(self, name: str, kind: type[T]) -> T | None:
        path = self._folder / name
        try:
            return unpack(path.read_bytes(), kind)
        except FileNotFoundError:
            return None
        except (msgspec.ValidationError, WireError):
            # Keys that cannot be read are no loss: others are made. What they hid stays hidden, so they go.
            with disk_faults(path):
                path.unlink(missing_ok=True)
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}; mend the disk") from error

    def _note_opened(self, session: Session) -> None:
        if self._opened.get(session.base) == session.plan_hash:
            return
        path = self._folder / "opened.log"
        body = session.base + session.plan_hash
        try:
            with path.open("ab") as file:
                # What a power cut left of a record would shift this one out of reach.
                file.truncate(file.tell() - file.tell() % _RECORD)
                file.write(body + hashlib.sha256(body).digest()[:8])
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}; free some space") from error
        self._opened[session.base] = session.plan_hash

    def _load_opened(self) -> dict[bytes, bytes]:
        path = self._folder / "opened.log"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}; mend the disk") from error
        records = [data[start : start + _RECORD] for start in range(0, len(data), _RECORD)]
        return {one[:64]: one[64:96] for one in records if len(one) == _RECORD and _is_whole(one)}


def _is_whole(record: bytes) -> bool:
    return hashlib.sha256(record[:96]).digest()[:8] == record[96:]
