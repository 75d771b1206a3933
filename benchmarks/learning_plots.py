"""Pictures of the curves in the results of ``learning.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

Picture = tuple[str, dict[str, str], float, tuple[float, float]]
PICTURES: dict[str, Picture] = {
    "learning-mnist-2nn.png": (
        "MNIST, 2NN, B=10, E=1, 10 of 100 devices a round",
        {
            "mnist-2nn-iid": "even split, in clear",
            "mnist-2nn-iid-shared": "even split, secret-shared",
            "mnist-2nn-noniid": "two labels a device, in clear",
            "mnist-2nn-noniid-shared": "two labels a device, secret-shared",
        },
        0.97,
        (0.7, 1.0),
    ),
    "learning-privacy.png": (
        "MNIST, 2NN, even split: the price of privacy",
        {
            "mnist-2nn-iid": "in clear",
            "mnist-2nn-iid-shared": "secret-shared",
            "mnist-2nn-iid-example-dp": "(7.8, 1e-5) for one example",
            "mnist-2nn-iid-dp": "(8, 1e-5) for a whole device",
        },
        1.0,
        (0.0, 1.0),
    ),
    "learning-dirichlet.png": (
        "MNIST, 2NN, Dirichlet(0.3), E=5; epochs where the data is in one place",
        {
            "mnist-2nn-dirichlet-fedavg": "FedAvg",
            "mnist-2nn-dirichlet-fedprox": "FedProx, mu 0.1",
            "mnist-2nn-centralised": "data in one place",
        },
        1.0,
        (0.7, 1.0),
    ),
    "learning-text.png": (
        "Next character, Shakespeare by role, 10 of 100 devices a round",
        {"next-character-fedavg": "FedAvg", "next-character-centralised": "text in one place (epochs)"},
        1.0,
        (0.0, 0.6),
    ),
    "learning-sensors.png": (
        "ECG beats (10 devices) and vibration (20 machines), all in each round",
        {
            "ecg-fedavg": "ECG, FedAvg",
            "ecg-centralised": "ECG, data in one place (epochs)",
            "vibration-fedavg": "vibration, FedAvg",
            "vibration-centralised": "vibration, data in one place (epochs)",
        },
        1.0,
        (0.0, 1.0),
    ),
}


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw every picture of which ``results`` hold a curve; return the files."""
    written = []
    for name, (title, curves, goal, limits) in PICTURES.items():
        known = {part: label for part, label in curves.items() if part in results["curves"]}
        if known:
            _draw(folder / name, title, results["curves"], known, goal, limits)
            written.append(folder / name)
    return written


def _draw(
    path: Path,
    title: str,
    curves: dict[str, list[tuple[int, float]]],
    labels: dict[str, str],
    goal: float,
    limits: tuple[float, float],
) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for part, label in labels.items():
        rounds, accuracies = zip(*curves[part], strict=True)
        axes.plot(rounds, accuracies, label=label, linewidth=1.2)
    if goal < 1:
        axes.axhline(goal, color="grey", linewidth=0.8, linestyle="--")
    axes.set(title=title, xlabel="rounds", ylabel="test accuracy", ylim=limits)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)
