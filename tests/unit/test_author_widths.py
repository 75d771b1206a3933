"""Descriptions with widths, without TensorFlow: what a narrower model is made of, and what cannot be one."""

from __future__ import annotations

import pytest

from shoal_coordinator.authoring import (
    BatchNorm,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePool,
    Input,
    Scale,
    Task,
)
from shoal_coordinator.authoring.errors import DescriptionError, LayerSettingError


def task(*layers: object, shape: tuple[int, ...] = (8, 8, 1), **more: object) -> Task:
    return Task(name="t", input=Input(shape), labels=("a", "b"), layers=[*layers, Dense(2)], **more)  # type: ignore[list-item, arg-type]


def test_a_scale_stands_before_each_layer_that_adds_up_fewer_inputs() -> None:
    described = task(Dense(10, activation="relu"), Dense(7), shape=(5,), widths=(0.25,))
    placed = described.narrow(0.25).model.placed
    assert [one.name for one in placed] == ["dense1", "activation1", "scale1", "dense2", "scale2", "dense3"]
    assert [one.exit for one in placed] == [(3,), (3,), (3,), (2,), (2,), (2,)]
    assert {one.layer.factor for one in placed if isinstance(one.layer, Scale)} == {4.0}
    assert [one.name for one in described.model.placed] == ["dense1", "activation1", "dense2", "dense3"]


def test_channels_that_are_flattened_with_places_have_no_first_part() -> None:
    task(Conv2D(8, 3), Flatten())
    with pytest.raises(DescriptionError, match="global pooling"):
        task(Conv2D(8, 3), Flatten(), widths=(0.5,))
    # What is not narrower is flattened as it is.
    task(Flatten(), Dense(8), widths=(0.5,))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_widths_are_shares_of_the_full_one(share: float) -> None:
    with pytest.raises(DescriptionError, match="between 0 and 1"):
        task(Dense(8), shape=(5,), widths=(share,))


def test_a_scale_of_nothing_is_refused() -> None:
    with pytest.raises(LayerSettingError, match="above 0"):
        task(Scale(0.0), shape=(5,))


def test_statistics_that_all_widths_share_come_before_the_scale() -> None:
    described = task(Conv2D(8, 3), BatchNorm(), Conv2D(8, 3), GlobalAveragePool(), widths=(0.5,))
    names = [one.name for one in described.narrow(0.5).model.placed]
    assert names.index("scale1") == names.index("batch_norm1") + 1
