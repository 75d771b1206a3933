"""What the coordinator keeps of a round of mode ``single``: a file for each word, whole or not there."""

import shutil
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from shoal_codecs.secagg.single.device_messages import Split
from shoal_codecs.secagg.single.opening_records import Answer
from shoal_codecs.secagg.single.server_messages import (
    KeepAnswer,
    KeepAsked,
    KeepConsent,
    KeepMembers,
    KeepShares,
    KeepSplit,
    PublishedShares,
    ServerMemory,
)
from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.single import Prekey
from shoal_coordinator.plain import write_whole

log = structlog.get_logger()
T = TypeVar("T")
KeepAction = KeepShares | KeepMembers | KeepSplit | KeepConsent | KeepAnswer | KeepAsked


class SingleFiles:
    """The files of one round below ``folder``; blocking, so run in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, prekeys: tuple[Prekey, ...]) -> None:
        """Keep the bundles of the plan."""
        write_whole(self._folder / "prekeys", pack(prekeys))

    def prekeys(self) -> tuple[Prekey, ...]:
        """Return the bundles of the plan; none where they cannot be read any more."""
        return self._read(self._folder / "prekeys", tuple[Prekey, ...]) or ()

    def keep(self, action: KeepAction) -> None:
        """Make what the machine says durable."""
        match action:
            case KeepShares(device, shares):
                write_whole(self._folder / "shares" / device, pack(shares))
            case KeepMembers(members):
                write_whole(self._folder / "members", pack(members))
            case KeepSplit(split):
                write_whole(self._folder / "split", pack(split))
            case KeepConsent(device, signature):
                write_whole(self._folder / "consents" / device, pack(signature))
            case KeepAnswer(device, answer):
                write_whole(self._folder / "answers" / device, pack(answer))
            case KeepAsked():
                write_whole(self._folder / "asked", pack(True))  # noqa: FBT003 - a file that is there

    def memory(self) -> ServerMemory:
        """Return what was kept; a damaged word counts as one that never came."""
        return ServerMemory(
            shares=self._all("shares", PublishedShares),
            members=self._read(self._folder / "members", bytes) or b"",
            split=self._read(self._folder / "split", Split),
            asked=(self._folder / "asked").exists(),
            consents=self._all("consents", bytes),
            answers=self._all("answers", Answer),
        )

    def clear(self) -> None:
        """Throw it all away: the round has ended."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _all(self, kind: str, of: type[T]) -> dict[str, T]:
        folder = self._folder / kind
        paths = sorted(folder.glob("[!.]*")) if folder.is_dir() else []
        found = {path.name: self._read(path, of) for path in paths}
        return {name: value for name, value in found.items() if value is not None}

    def _read(self, path: Path, kind: type[T]) -> T | None:
        try:
            return unpack(path.read_bytes(), kind)
        except FileNotFoundError:
            return None
        except (OSError, WireError, msgspec.ValidationError) as error:
            log.warning("stored word unusable", path=str(path), error=type(error).__name__)
            return None
