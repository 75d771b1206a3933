"""Pages given back: nothing that is wanted is lost."""

import mmap
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal_codecs.wire.task import decode_task
from shoal_coordinator.tasks import FOLDER
from shoal_edge.trainers import litert_weights
from shoal_edge.trainers.base import EvaluationCounts, FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer
from shoal_edge.trainers.pages import give_back_pages, move_out


def _resident_kib() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def test_whole_pages_are_given_back_and_what_is_beside_them_stays() -> None:
    memory = np.ones(64 * mmap.PAGESIZE // 4 * 128, np.float32)
    before = _resident_kib()
    inner = memory[1:-1]
    give_back_pages(inner)
    assert before - _resident_kib() > memory.nbytes // 1024 * 0.9
    assert memory[0] == memory[-1] == 1
    assert not inner[mmap.PAGESIZE : -mmap.PAGESIZE].any()


def test_what_is_small_stays() -> None:
    memory = np.ones(1000, np.float32)
    give_back_pages(memory)
    assert memory.all()


def test_what_is_moved_arrives_and_is_there_once() -> None:
    memory = np.arange(3_000_001, dtype=np.float32)
    values, out = memory[1:].reshape(1500, 2000), np.empty((1500, 2000), np.float32)
    before = _resident_kib()
    move_out(values, out)
    assert _resident_kib() - before < 2048
    np.testing.assert_array_equal(out.reshape(-1), np.arange(1, 3_000_001, dtype=np.float32))


def test_a_rest_gives_back_what_much_training_took_and_the_trainer_trains_on() -> None:
    trainer = LiteRtTrainer(decode_task((FOLDER / "mnist_cnn.task").read_bytes()))
    x, y = np.zeros((32, 28, 28, 1), np.uint8), np.zeros(32, np.int32)
    options = FitOptions(epochs=1, learning_rate=0.01, batch_size=32)
    fits = []
    for _ in range(2):
        trainer.set_weights(trainer.initial_weights())
        fits.append(trainer.fit(x, y, options, np.random.default_rng(0)))
        before = _resident_kib()
        trainer.rest()
        assert before - _resident_kib() > 16 << 10
    assert fits[0] == fits[1]
    np.testing.assert_array_equal(trainer.get_weights(), trainer.initial_weights())


def test_an_interpreter_that_found_no_memory_is_opened_at_the_next_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker keeps its trainer for the next round, whatever became of this one."""
    trainer = LiteRtTrainer(decode_task((FOLDER / "digits.task").read_bytes()))
    weights = trainer.initial_weights() * np.float32(2)
    trainer.set_weights(weights)
    monkeypatch.setattr(litert_weights, "_MUCH_BYTES", -(1 << 60))
    with monkeypatch.context() as patch:

        def no_memory(*_: object) -> None:
            raise MemoryError

        patch.setattr(litert_weights, "open_model", no_memory)
        # Nobody hears of what goes wrong here.
        trainer.rest()
        with pytest.raises(MemoryError):
            trainer.set_weights(weights)
    trainer.set_weights(weights)
    np.testing.assert_array_equal(trainer.get_weights(), weights)


def test_a_large_models_weights_stay_when_what_carried_them_goes() -> None:
    bundle = decode_task((FOLDER / "gru_next_word.task").read_bytes())
    trainer = LiteRtTrainer(bundle)
    weights = np.random.default_rng(1).normal(0, 0.1, bundle.dimension).astype(np.float32)
    trainer.set_weights(weights)
    for _ in range(2):
        np.testing.assert_array_equal(trainer.get_weights(), weights)
    trainer.self_test()
    np.testing.assert_array_equal(trainer.get_weights(), weights)


def test_a_self_test_holds_no_vector_of_weights_or_gradients() -> None:
    bundle = decode_task((FOLDER / "mnist_cnn.task").read_bytes())
    trainer = LiteRtTrainer(bundle)
    tracemalloc.start()
    trainer.self_test()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * bundle.dimension / 4


class Planning(LiteRtTrainer):
    """Notes what a step was planned for when examples were first counted."""

    noted: Any = None

    def _counts(self, x: Any, y: Any) -> EvaluationCounts:
        if self.noted is None:
            self.noted = dict(self._signatures["train"]._shapes)
        return super()._counts(x, y)


def test_a_fit_plans_its_steps_before_it_counts() -> None:
    """What all signatures share grows by letting a second one in: twice an evaluation's would be there."""
    trainer = Planning(decode_task((FOLDER / "digits.task").read_bytes()))
    x, y = np.zeros((40, 64), np.uint8), np.zeros(40, np.int32)
    options = FitOptions(epochs=1, learning_rate=0.01, batch_size=16)
    trainer.fit(x, y, options, np.random.default_rng(0))
    assert trainer.noted["x"] == (16, 64)
