#!/usr/bin/env python3
"""Make the demo's data of scikit-learn's digits; the same bytes each time.

    pip install -e '.[authoring]' && scripts/digits_data.py

writes into coordinator/shoal_coordinator/demo/data/ (or the folder named as first argument):

    digits.npz               1,697 examples that are split among devices
    digits_calibration.npz   100 examples that never go to a device and stand for public data

The task is authored of coordinator/shoal_coordinator/tasks/digits.py by ``shoal author``.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

FOLDER = Path(__file__).parents[1] / "coordinator/shoal_coordinator/demo/data"
SOURCE = (
    "scikit-learn load_digits: test set of UCI 'Optical Recognition of Handwritten Digits', "
    "E. Alpaydin and C. Kaynak, https://doi.org/10.24432/C50P49, licence CC BY 4.0"
)
SEED = 2024
LABELS = 10
CALIBRATION_PER_LABEL = 10


def main(folder: Path) -> None:
    """Write both files and print their sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    x, y = digits.data.astype(np.uint8), digits.target.astype(np.uint8)
    order = np.random.default_rng(SEED).permutation(len(x))
    public = np.concatenate([order[y[order] == label][:CALIBRATION_PER_LABEL] for label in range(LABELS)])
    private = np.setdiff1d(order, public)
    for name, chosen in (("digits.npz", private), ("digits_calibration.npz", public)):
        path = folder / name
        np.savez_compressed(path, x=x[chosen], y=y[chosen], source=np.array(SOURCE))
        print(f"{path.stat().st_size:8,} {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
