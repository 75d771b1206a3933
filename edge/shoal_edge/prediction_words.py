"""What the worker answers to a question about one example: plain values, for ``predict`` to print."""

from typing import Any

import numpy as np

from shoal_edge.data import Examples
from shoal_edge.trainers.inference import Predictions


def said(found: Predictions, examples: Examples, index: int) -> dict[str, Any]:
    """Return the answer for example ``index``, the first of ``found``, and the truth where it is known.

    Either ``probabilities``, ``label`` and ``truth`` (-1: not known), or ``values`` and ``true_values``
    (empty: not known), flat.
    """
    truth = examples.y[index]
    about = {"count": len(examples), "seconds": found.seconds}
    if found.of_values:
        true_values = np.ravel(truth).tolist() if np.shape(truth) == found.answers.shape[1:] else []
        return about | {"values": found.answers[0].ravel().tolist(), "true_values": true_values}
    return about | {
        "label": int(found.labels[0]),
        "probabilities": found.answers[0].tolist(),
        "truth": int(truth) if np.ndim(truth) == 0 else -1,
    }
