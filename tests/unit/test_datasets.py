"""The makers of data for the shipped tasks, without what they fetch."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, ecg, shakespeare, vibration
from datasets.packages import Package, PackageError, read_members

from shoal_codecs.wire.task import decode_task
from shoal_coordinator.tasks import shipped_task

PLAY = """HAMLET

Act I.

[Enter Ghost.]

HAMLET.
Angels and ministers of grace
defend us! [Exit.]

Hor.
It beckons you.
"""


def test_a_speech_is_a_name_and_the_lines_after_it() -> None:
    found = shakespeare.speeches_of("hamlet", PLAY)
    assert [(one.role, one.words) for one in found] == [
        ("hamlet", "Angels and ministers of grace\ndefend us!"),
        ("hor", "It beckons you."),
    ]


def test_words_are_tokens_of_the_tasks_vocabulary() -> None:
    index = shakespeare.vocabulary("gru-next-word")
    assert len(index) == 2000
    ids = shakespeare.word_ids("To be, or not to xyzzy?", index)
    assert ids.tolist() == [index[word] for word in ("to", "be", ",", "or", "not", "to", "<unknown>", "?")]


def test_beats_are_found_and_told_apart_by_their_width() -> None:
    """Bells of known width, one of three wide, at 75 a minute."""
    time = np.arange(60 * ecg.RATE_HZ) / ecg.RATE_HZ
    at = np.arange(1, 59, 0.8)
    widths_ms = np.where(np.arange(len(at)) % 3 == 2, 90.0, 25.0)
    sigma = widths_ms / 1000 / 2.3548
    signal = (1.5 * np.exp(-((time[:, None] - at) ** 2) / (2 * sigma**2))).sum(axis=1)
    x, y, seconds = ecg.beats_of(signal)
    assert x.shape == (len(at), ecg.STEPS, ecg.SAMPLES)
    np.testing.assert_array_equal(y, widths_ms == 90)
    np.testing.assert_allclose(seconds, at, atol=0.02)


def test_the_tasks_take_what_the_makers_make() -> None:
    windows = vibration.windows(machines=2, each=8)
    assert windows.x.shape == (16, vibration.SAMPLES, vibration.AXES)
    about = decode_task(shipped_task("lstm-ecg").read_bytes())
    assert (about.input.shape, about.labels) == ((ecg.STEPS, ecg.SAMPLES), ecg.LABELS)


def test_impulses_come_at_the_faults_rate() -> None:
    """The envelope's spectrum of many windows has its peak where the bearing's geometry says."""
    machine = vibration.Machine(np.random.default_rng(5))
    machine.noise = machine.imbalance = 0.0
    for label in (1, 3):
        spectrum = np.zeros(513)
        for _ in range(60):
            envelope = np.abs(machine.window(label)[:, 0])
            spectrum += np.abs(np.fft.rfft(envelope - envelope.mean(), 1024)) ** 2
        rate = np.argmax(spectrum[:80]) * vibration.RATE_HZ / 1024
        assert rate == pytest.approx(machine.shaft_hz * vibration.ORDERS[label], rel=0.06)


def test_windows_are_the_same_for_the_same_seed() -> None:
    some, more = vibration.windows(2, 4), vibration.windows(3, 4)
    np.testing.assert_array_equal(some.x, more.x[:8])
    assert not np.array_equal(some.x, vibration.windows(2, 4, seed=2).x)


def test_the_test_part_is_the_end_of_each_group() -> None:
    x = np.arange(10)
    parts = Dataset(x, x.astype(np.int32), np.array([0, 1] * 5, np.int32)).split(0.4)
    assert [part.x.tolist() for part in parts] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]


def test_another_archive_than_the_pinned_one_is_not_used(tmp_path: Path) -> None:
    package = Package("nothing==1.0", "0" * 64, ())
    place = tmp_path / "nothing-1.0"
    place.mkdir()
    archive = place / "nothing-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as whole:
        info = tarfile.TarInfo("nothing-1.0/data/a.txt")
        info.size = 2
        whole.addfile(info, io.BytesIO(b"hi"))
    assert read_members(archive, "/data/") == {"a.txt": b"hi"}
    with pytest.raises(PackageError, match="holds no"):
        read_members(archive, "/other/")
    with pytest.raises(PackageError, match="not 0000"):
        package.fetch(tmp_path)
    assert not archive.exists()
