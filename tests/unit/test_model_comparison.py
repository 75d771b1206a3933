"""Health checks of models of labels, of values and of tokens: which of two does better on whose examples."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from graph_parts import Net, dense, filled, options
from shoal_codecs.ota.health import PairedCounts
from shoal_coordinator.deployable.graph import INT32
from shoal_edge.data import Examples
from shoal_edge.health_check import paired_counts
from shoal_edge.prediction_words import said
from shoal_edge.trainers.comparison import compare
from shoal_edge.trainers.errors import ExampleTypeError, LabelRangeError, MissingLabelsError
from shoal_edge.trainers.inference import InferenceModel

X = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)


def linear(weights: npt.NDArray[np.float64], name: str) -> bytes:
    net = Net(1, 4)
    dense(net, net.example, weights.shape[1], bias=False)
    net.values["p0"] = weights.astype(np.float32)
    return filled(net, name)


WEIGHTS = np.random.default_rng(1).normal(size=(4, 3))
Y = (X @ WEIGHTS).astype(np.float32)


def without_time(counts: PairedCounts) -> tuple[int, int, int, int, bool]:
    assert counts.latency_ms > 0
    return counts.examples, counts.both, counts.only_replaced, counts.only_candidate, counts.replaced


def test_values_are_held_against_the_mean_where_nothing_is_replaced() -> None:
    good, useless = (InferenceModel(linear(one, "values")) for one in (WEIGHTS, -WEIGHTS))
    assert without_time(compare(good, None, Examples(X, Y))) == (300, 0, 0, 300, False)
    assert compare(useless, None, Examples(X, Y)).only_candidate < 30


def test_of_values_the_nearer_one_is_right_and_both_where_they_are_as_near() -> None:
    good, near, far = (InferenceModel(linear(WEIGHTS * factor, "values")) for factor in (1.10, 1.101, 1.3))
    assert without_time(compare(good, near, Examples(X, Y))) == (300, 300, 0, 0, True)
    assert without_time(compare(far, good, Examples(X, Y))) == (300, 0, 300, 0, True)
    assert without_time(compare(good, far, Examples(X, Y))) == (300, 0, 0, 300, True)


def test_labels_are_right_or_wrong_and_unknown_ones_count_for_nothing() -> None:
    model, other = InferenceModel(linear(WEIGHTS, "probabilities")), InferenceModel(linear(-WEIGHTS, "p"))
    y = Y.argmax(axis=1).astype(np.int32)
    y[100:] = -1
    counts = compare(model, other, Examples(X, y))
    assert without_time(counts) == (100, 0, 0, 100, True)
    y[:] = -1
    assert compare(model, other, Examples(X, y)).examples == 0


def test_a_replaced_model_of_another_kind_is_nothing_to_compare_with(tmp_path: Path) -> None:
    values, labels = tmp_path / "values", tmp_path / "labels"
    values.write_bytes(linear(WEIGHTS, "values"))
    labels.write_bytes(linear(WEIGHTS, "probabilities"))
    assert not paired_counts(values, labels, Examples(X, Y)).replaced
    labels.write_bytes(b"damaged")
    counts = paired_counts(values, labels, Examples(X, Y))
    assert (counts.replaced, counts.examples) == (False, 300)
    assert paired_counts(values, None, None).examples == 0


def test_targets_of_another_task_are_refused() -> None:
    values, labels = (InferenceModel(linear(WEIGHTS, name)) for name in ("values", "probabilities"))
    with pytest.raises(MissingLabelsError):
        compare(values, None, Examples(X, Y[:, :2]))
    with pytest.raises(MissingLabelsError):
        labels.evaluate(X, Y)
    with pytest.raises(LabelRangeError):
        labels.evaluate(X, np.full(300, 3))


def test_evaluating_values_gives_the_mean_squared_error() -> None:
    found = InferenceModel(linear(WEIGHTS * 1.5, "values")).evaluate(X, Y)
    assert (found.examples, found.correct) == (300, 0)
    assert found.mean_loss == pytest.approx(np.square(Y * 0.5).mean(), rel=1e-5)


def test_tokens_go_in_as_they_are_and_numbers_are_refused() -> None:
    net = Net(1, 5)
    net.example.dtype = INT32
    rows = net.add("GATHER", [net.parameter(7, 3), net.example], 1, 5, 3, said=options("Gather"))
    net.add("RESHAPE", [rows], 1, 15, said=options("Reshape", newShape=np.array([1, 15], np.int32)))
    model = InferenceModel(filled(net, "probabilities"))
    tokens = np.random.default_rng(2).integers(0, 7, (4, 5))
    wanted = net.values["p0"][tokens].reshape(4, 15)
    assert np.array_equal(model.predict(tokens.astype(np.uint8)).answers, wanted)
    with pytest.raises(ExampleTypeError):
        model.predict(tokens.astype(np.float32))


def test_answers_in_plain_values_for_a_person() -> None:
    values = InferenceModel(linear(WEIGHTS, "values")).predict(X[:1])
    told = said(values, Examples(X, Y), 0)
    assert told["values"] == pytest.approx(Y[0].tolist(), rel=1e-5)
    assert told["true_values"] == Y[0].tolist()
    assert said(values, Examples(X, np.full(300, -1, np.int32)), 0)["true_values"] == []
    labels = InferenceModel(linear(WEIGHTS, "probabilities")).predict(X[:1])
    told = said(labels, Examples(X, np.full(300, 2, np.int32)), 0)
    assert (told["label"], told["truth"], told["count"]) == (int(Y[0].argmax()), 2, 300)
