"""The curves of ``learning.py``: which task, which data, which split, which settings, and what to reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MCMAHAN = "McMahan et al. 2017, table 2 (published, not run here)"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One curve: a fleet's rounds, and the accuracy of each version on the ``data``'s test examples.

    ``rates`` is the grid of local learning rates: each runs ``trial`` rounds, the one with the best mean
    accuracy of its last five goes on to ``goal`` or ``rounds``. ``figure`` names the rounds to ``goal``;
    ``published`` is what the paper has there. A ``centralised`` part is plain training on all data in one
    place, by the same trainer; its rounds are epochs.
    """

    name: str
    task: str
    data: str
    partition: str
    rounds: int
    rates: tuple[float, ...]
    devices: int = 100
    trial: int = 30
    goal: float = 1.0
    figure: str = ""
    published: float | None = None
    centralised: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    note: str = ""


_TENTH = {"cohort_max": 10, "minimum": 8, "epochs": 1, "batch_size": 10, "weight_cap": 10_000}
_CLEAR = _TENTH | {"mode": "plain", "codec": "dense", "clip_norm": 100.0, "level_rms": 0.05}
_ALL = _CLEAR | {"cohort_max": 0}
_SHARED = _TENTH | {"mode": "hubs", "codec": "randk", "kept_share": 1.0, "level_rms": 0.05}
_2NN: dict[str, Any] = {"task": "mnist_2nn", "data": "mnist", "goal": 0.97}
_DIRICHLET = _CLEAR | {"epochs": 5}
_SHARED_NOTE = "secret-shared between two hubs, every coordinate in 8 bits, clipped"

PARTS = {
    part.name: part
    for part in (
        Part(
            name="mnist-2nn-iid",
            partition="iid",
            rounds=150,
            rates=(0.1, 0.2),
            figure="mnist_2nn_iid_rounds_to_97",
            published=87,
            settings=_CLEAR,
            **_2NN,
        ),
        Part(
            name="mnist-2nn-noniid",
            partition="shards:2",
            rounds=900,
            rates=(0.05, 0.1),
            trial=40,
            figure="mnist_2nn_noniid_rounds_to_97",
            published=664,
            settings=_CLEAR,
            **_2NN,
        ),
        Part(
            name="mnist-2nn-iid-shared",
            partition="iid",
            rounds=150,
            rates=(0.1, 0.2),
            figure="mnist_2nn_iid_shared_rounds_to_97",
            published=87,
            settings=_SHARED | {"clip_norm": 4.0},
            note=_SHARED_NOTE,
            **_2NN,
        ),
        Part(
            name="mnist-2nn-noniid-shared",
            partition="shards:2",
            rounds=900,
            rates=(0.1,),
            figure="mnist_2nn_noniid_shared_rounds_to_97",
            published=664,
            settings=_SHARED | {"clip_norm": 3.0},
            note=_SHARED_NOTE,
            **_2NN,
        ),
        Part(
            name="mnist-2nn-dirichlet-fedavg",
            task="mnist_2nn",
            data="mnist",
            partition="dirichlet:0.3",
            rounds=40,
            rates=(0.1,),
            settings=_DIRICHLET,
        ),
        Part(
            name="mnist-2nn-dirichlet-fedprox",
            task="mnist_2nn",
            data="mnist",
            partition="dirichlet:0.3",
            rounds=40,
            rates=(0.1,),
            settings=_DIRICHLET | {"mu": 0.1},
            note="mu 0.1",
        ),
        Part(
            name="mnist-2nn-centralised",
            task="mnist_2nn",
            data="mnist",
            partition="",
            rounds=10,
            rates=(0.1,),
            centralised=True,
            settings={"batch_size": 10},
        ),
        Part(
            name="mnist-2nn-iid-example-dp",
            task="mnist_2nn",
            data="mnist",
            partition="iid",
            rounds=60,
            rates=(0.2,),
            settings=_CLEAR | {"batch_size": 60, "example_clip": 1.0, "example_noise": 1.6},
            note="DP-SGD on the devices: (7.8, 1e-5) for one example in 60 rounds, six of them its device's",
        ),
        Part(
            name="mnist-2nn-iid-dp",
            task="mnist_2nn",
            data="mnist",
            partition="iid",
            rounds=20,
            rates=(0.1,),
            settings=_SHARED
            | {"cohort_max": 0, "minimum": 80, "kept_share": 0.05, "clip_norm": 0.5}
            | {"privacy": {"mechanism": "skellam", "epsilon": 8.0, "rounds": 20}},
            note="all 100 devices a round, (8, 1e-5) for a whole device, noise added by devices (Skellam)",
        ),
        Part(
            name="ecg-fedavg",
            task="lstm_ecg",
            data="ecg",
            partition="blocks",
            devices=10,
            rounds=40,
            rates=(0.1, 0.3),
            trial=40,
            settings=_ALL | {"epochs": 5, "batch_size": 16},
            note="each of 10 devices has half a minute of one record",
        ),
        Part(
            name="ecg-centralised",
            task="lstm_ecg",
            data="ecg",
            partition="",
            rounds=100,
            rates=(0.1,),
            centralised=True,
            settings={"batch_size": 16},
        ),
        Part(
            name="next-character-fedavg",
            task="gru_next_character",
            data="characters",
            partition="blocks",
            rounds=100,
            rates=(1.0,),
            settings=_CLEAR | {"batch_size": 32},
            note="each of 100 devices has about one speaking role of Shakespeare's plays",
        ),
        Part(
            name="next-character-centralised",
            task="gru_next_character",
            data="characters",
            partition="",
            rounds=10,
            rates=(1.0,),
            centralised=True,
            settings={"batch_size": 32},
        ),
        Part(
            name="vibration-fedavg",
            task="vibration_cnn",
            data="vibration",
            partition="blocks",
            devices=20,
            rounds=80,
            rates=(0.2,),
            settings=_ALL | {"epochs": 2, "batch_size": 16},
            note="each of 20 devices has the windows of one machine",
        ),
        Part(
            name="vibration-centralised",
            task="vibration_cnn",
            data="vibration",
            partition="",
            rounds=40,
            rates=(0.05,),
            centralised=True,
            settings={"batch_size": 16},
        ),
        Part(
            name="mnist-cnn-iid",
            task="mnist_cnn",
            data="mnist-images",
            partition="iid",
            rounds=50,
            rates=(0.1,),
            goal=0.99,
            figure="mnist_cnn_iid_rounds_to_99",
            settings=_CLEAR,
        ),
    )
}
