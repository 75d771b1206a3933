"""GRU and LSTM: gradients through time in LiteRT against float64, states against Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from layer_bench import LayerBench
from shoal_coordinator.authoring import GRU, LSTM
from shoal_coordinator.authoring.errors import LayerSettingError, LayerShapeError
from shoal_coordinator.authoring.recurrent import Recurrent

STEPS, FEATURES, UNITS = 7, 3, 5


def drawn(*shape: int) -> Any:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", [GRU, LSTM])
@pytest.mark.parametrize("sequences", [False, True])
def test_gradients_through_time_equal_float64s(kind: type[Recurrent], *, sequences: bool) -> None:
    bench = LayerBench(kind(UNITS, sequences=sequences), (STEPS, FEATURES))
    dy = drawn(4, *bench.built.shape)
    assert bench.largest_fault(drawn(4, STEPS, FEATURES), dy) < 2e-6
    # Another batch size on the same file, and the shortest sequence there is.
    assert bench.largest_fault(drawn(1, STEPS, FEATURES), dy[:1]) < 2e-6
    short = LayerBench(kind(UNITS, sequences=sequences), (2, FEATURES))
    assert short.largest_fault(drawn(3, 2, FEATURES), drawn(3, *short.built.shape)) < 2e-6


@pytest.mark.parametrize("sequences", [False, True])
def test_gru_states_are_those_of_keras(*, sequences: bool) -> None:
    bench = LayerBench(GRU(UNITS, sequences=sequences), (STEPS, FEATURES))
    theirs = tf.keras.layers.GRU(UNITS, return_sequences=sequences, reset_after=True)
    theirs.build((None, STEPS, FEATURES))
    w = bench.weights
    theirs.set_weights(
        [
            w["w"].reshape(FEATURES, -1),
            w["u"].reshape(UNITS, -1),
            np.stack([w["b"].ravel(), w["c"].ravel()]),
        ]
    )
    x = drawn(4, STEPS, FEATURES)
    found = bench.found(x, drawn(4, *bench.built.shape))["y"]
    np.testing.assert_allclose(found, theirs(x).numpy(), atol=1e-6)


def test_lstm_states_are_those_of_keras() -> None:
    bench = LayerBench(LSTM(UNITS, sequences=True), (STEPS, FEATURES))
    theirs = tf.keras.layers.LSTM(UNITS, return_sequences=True)
    theirs.build((None, STEPS, FEATURES))
    # Keras has the candidate before the output gate.
    order = [0, 1, 3, 2]
    w = bench.weights
    theirs.set_weights(
        [
            w["w"][:, order].reshape(FEATURES, -1),
            w["u"][:, order].reshape(UNITS, -1),
            w["b"][order].ravel(),
        ]
    )
    x = drawn(4, STEPS, FEATURES)
    found = bench.found(x, drawn(4, *bench.built.shape))["y"]
    np.testing.assert_allclose(found, theirs(x).numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_a_narrow_layer_is_a_prefix_of_the_full_one(kind: type[Recurrent]) -> None:
    full = kind(8).build((STEPS, FEATURES)).parameters
    narrow = kind(8).narrow(0.5).build((STEPS, FEATURES)).parameters
    for one, wide in zip(narrow, full, strict=True):
        assert one.name == wide.name
        assert len(one.shape) == len(wide.shape)
        assert all(mine <= theirs for mine, theirs in zip(one.shape, wide.shape, strict=True))
    assert narrow[0].shape == (FEATURES, kind.GATES, 4)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 5, 5)])
def test_an_input_without_steps_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LayerShapeError, match="gru"):
        GRU(4).build(shape)


def test_no_units_are_refused() -> None:
    with pytest.raises(LayerSettingError, match="at least 1"):
        LSTM(0).build((4, 4))
