"""That two outputs come of r + 1 products, exactly, for every kernel there are constants for."""

from __future__ import annotations

import numpy as np
import pytest

from shoal_coordinator.authoring.toom_cook import OUTPUTS, SIZES, constants

# Lavin and Gray 2016, section 4.1: F(2, 3).
LAVIN_INPUTS = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], float)
LAVIN_WEIGHTS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
LAVIN_OUTPUTS = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], float)


@pytest.mark.parametrize("size", sorted(SIZES))
def test_products_of_frequencies_are_the_correlation(size: int) -> None:
    of = constants(size)
    assert of.of_inputs.shape == (size + 1, size + 1)
    # For every unit input and weight: the algorithm is bilinear.
    found = np.einsum("fk,fi,fj->kij", of.of_outputs, of.of_inputs, of.of_weights)
    wanted = np.zeros((OUTPUTS, size + 1, size))
    for k in range(OUTPUTS):
        wanted[k, np.arange(size) + k, np.arange(size)] = 1
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_constants_of_three_weights_are_the_published_ones() -> None:
    of = constants(3)
    published = np.einsum("kf,fi,fj->fkij", LAVIN_OUTPUTS, LAVIN_INPUTS, LAVIN_WEIGHTS)
    ours = np.einsum("fk,fi,fj->fkij", of.of_outputs, of.of_inputs, of.of_weights)
    np.testing.assert_allclose(ours, published, atol=1e-7)
