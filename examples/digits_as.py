"""Write the same digits in the form of each kind of source, with the settings that read it.

    python examples/digits_as.py csv device/           # or npz, mnist, images, buffer
    shoal-edge data check --data-dir device/

What a device's own programs have to write is what one of these functions writes.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from shoal_edge.buffer import open_buffer

Array = npt.NDArray[Any]


def as_npz(folder: Path, x: Array, y: Array) -> str:
    """An archive of the arrays x and y."""
    np.savez_compressed(folder / "examples.npz", x=x, y=y)
    return ""


def as_csv(folder: Path, x: Array, y: Array) -> str:
    """A table with a head line, one row for each example."""
    with (folder / "digits.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*(f"p{number}" for number in range(64)), "digit"])
        table.writerows(
            [*row, label] for row, label in zip(x.reshape(-1, 64).tolist(), y.tolist(), strict=True)
        )
    return '[data]\nkind = "csv"\npath = "digits.csv"\nlabel_column = "digit"\n'


def as_mnist(folder: Path, x: Array, y: Array) -> str:
    """IDX files under the names that MNIST has."""
    for name, values in (("images-idx3-ubyte", x.reshape(-1, 8, 8)), ("labels-idx1-ubyte", y)):
        header = bytes([0, 0, 0x08, values.ndim]) + b"".join(side.to_bytes(4, "big") for side in values.shape)
        (folder / f"train-{name}").write_bytes(header + values.astype(np.uint8).tobytes())
    return '[data]\nkind = "mnist"\npath = "."\n'


def as_images(folder: Path, x: Array, y: Array) -> str:
    """One folder for each label; values 0 to 16 as bytes, so that nothing has to be scaled."""
    for number, (pixels, label) in enumerate(zip(x.reshape(-1, 8, 8), y.tolist(), strict=True)):
        place = folder / "images" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number:05}.png")
    return '[data]\nkind = "images"\npath = "images"\nimage_size = [8, 8, 1]\n'


def as_buffer(folder: Path, x: Array, y: Array) -> str:
    """A rolling buffer, as a sensor's process fills it."""
    with open_buffer(folder / "buffer", shape=x.shape[1:], dtype="uint8", capacity_examples=2000) as buffer:
        for pixels, label in zip(x, y.tolist(), strict=True):
            buffer.append(pixels, label)
    return '[data]\nkind = "buffer"\npath = "buffer"\n'


FORMS: dict[str, Callable[[Path, Array, Array], str]] = {
    "npz": as_npz,
    "csv": as_csv,
    "mnist": as_mnist,
    "images": as_images,
    "buffer": as_buffer,
}


def main() -> None:
    """Write the digits that the command line asks for."""
    parser = argparse.ArgumentParser(description="Write the same digits in the form of each kind of source.")
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--digits", type=Path, required=True, metavar="FILE.npz", help="arrays x and y")
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    with np.load(options.digits) as archive:
        x, y = archive["x"][: options.count], archive["y"][: options.count]
    options.folder.mkdir(parents=True, exist_ok=True)
    settings = FORMS[options.form](options.folder, x, y)
    with (options.folder / "config.toml").open("a") as file:
        file.write(settings)


if __name__ == "__main__":
    main()
