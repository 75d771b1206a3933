"""Beats of a real electrocardiogram, labelled by a written rule.

The signal: five minutes (19:35 to 24:35) of record 208, lead MLII, of the MIT-BIH Arrhythmia Database
(Moody and Mark 2001; Open Data Commons Attribution licence), sampled at 360 Hz, as scipy 1.9.3 ships it
(``misc/ecg.dat``, BSD licence). The package holds no cardiologist's annotations, so that none are claimed:
a beat is labelled by how wide its QRS complex is, which is what tells beats that begin in the ventricles
from those that are conducted (record 208 has many of both, and fusions of the two). The measure is the
width at half of the largest deflection: in this signal it has two clear modes, around 25 ms and around 90
ms; from 60 ms on a beat is ``wide``.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import signal

from datasets.base import Dataset
from datasets.packages import FOLDER, Package, read_members

SCIPY = Package(
    "scipy==1.9.3",
    "d01e1dd7b15bd2449c8bfc6b7cc67d630700ed655654f0dfcf121600bad205c9",
    ("--only-binary", ":all:", "--python-version", "3.10", "--platform", "manylinux_2_17_x86_64"),
)
RATE_HZ = 360
LABELS = ("narrow", "wide")
STEPS, SAMPLES = 32, 4
"""A beat is 128 samples at 180 Hz, 0.71 s around its largest deflection, as 32 steps of 4."""
WIDE_MS = 60.0
GROUPS = 10
"""Stretches of 30 seconds: what each of ten devices would have recorded."""
_HALF = STEPS * SAMPLES
_ADC_ZERO, _ADC_PER_MV = 1024, 200.0

Signal = npt.NDArray[np.float64]


def read_signal(folder: Path = FOLDER) -> Signal:
    """Return the signal (108000,) in mV.

    Raises:
        PackageError: scipy's wheel cannot be fetched.
    """
    raw = read_members(SCIPY.fetch(folder), "scipy/misc/ecg.dat")["ecg.dat"]
    levels = np.load(io.BytesIO(raw))["ecg"]
    return np.asarray((levels.astype(np.float64) - _ADC_ZERO) / _ADC_PER_MV)


def beats(folder: Path = FOLDER) -> Dataset:
    """Return every whole beat, x (n, 32, 4) float32 in mV, with labels 0 ``narrow`` and 1 ``wide``."""
    x, y, seconds = beats_of(read_signal(folder))
    groups = np.minimum(seconds // (300 / GROUPS), GROUPS - 1).astype(np.int32)
    return Dataset(x, y, groups)


def beats_of(millivolts: Signal) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], Signal]:
    """Cut a signal (n,) at 360 Hz into windows (m, 32, 4), labels (m,) and each beat's second (m,)."""
    clean = _filtered(millivolts, (1.0, 40.0))
    windows, labels, seconds = [], [], []
    for peak in _complexes(millivolts):
        near = clean[max(0, peak - 72) : peak + 72]
        at = max(0, peak - 72) + int(np.argmax(np.abs(near)))
        if at < _HALF or at + _HALF > len(clean):
            continue
        window = clean[at - _HALF : at + _HALF].reshape(-1, 2).mean(axis=1)
        windows.append(window.reshape(STEPS, SAMPLES))
        labels.append(int(half_width_ms(clean, at) >= WIDE_MS))
        seconds.append(at / RATE_HZ)
    return np.array(windows, np.float32), np.array(labels, np.int32), np.array(seconds)


def half_width_ms(clean: Signal, at: int) -> float:
    """Return for how long the deflection around the sample ``at`` stays over half of its height, in ms."""
    baseline = float(np.median(clean[max(0, at - 120) : at + 120]))
    height = clean[at] - baseline
    over = (clean - baseline) * np.sign(height) > abs(height) / 2
    start = stop = at
    while start > max(0, at - 100) and over[start]:
        start -= 1
    while stop < min(len(clean) - 1, at + 100) and over[stop]:
        stop += 1
    return (stop - start) * 1000 / RATE_HZ


def _complexes(millivolts: Signal) -> npt.NDArray[Any]:
    """Return where QRS complexes are: peaks of the slope's energy over 120 ms (Pan and Tompkins 1985)."""
    slope = np.gradient(_filtered(millivolts, (5.0, 20.0)))
    energy = np.sqrt(np.convolve(slope**2, np.full(43, 1 / 43), "same"))
    typical = np.median(np.sort(energy)[-len(energy) // 20 :])
    peaks: npt.NDArray[Any] = signal.find_peaks(energy, height=0.35 * typical, distance=RATE_HZ // 4)[0]
    return peaks


def _filtered(values: Signal, band: tuple[float, float]) -> Signal:
    """Return ``values`` within a band of frequencies in Hz, without delay."""
    b, a = signal.butter(2, band, "bandpass", fs=RATE_HZ)
    filtered: Signal = signal.filtfilt(b, a, values)
    return filtered
