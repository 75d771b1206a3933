"""What the learning benchmark keeps: curves that go on after a stop, results that join, pictures."""

import json
from pathlib import Path

import learning
import learning_plots
import pytest
from learning_curve import Curve
from learning_data import SETS
from learning_parts import PARTS

from shoal_codecs.partition import Partition
from shoal_coordinator.config import RoundSettings

IID = PARTS["mnist-2nn-iid"]
CURVE = Curve(0.1, [(0, 0.1), (1, 0.9), (2, 0.98), (3, 0.96), (4, 0.99)], 8.0)


def test_a_curve_that_was_kept_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "curve.json"
    assert Curve.load(path, 0.2) == Curve(0.2)
    CURVE.save(path)
    again = Curve.load(path, 0.1)
    assert again == CURVE
    assert (again.last, again.reached(0.97), again.reached(0.995)) == (4, 2, None)
    assert again.recent() == pytest.approx(0.786)


def test_results_of_a_part_replace_its_own_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "learning.json"
    learning.merge(path, PARTS["mnist-2nn-noniid"], CURVE)
    learning.merge(path, IID, Curve(0.2, [(0, 0.1), (1, 0.5)], 3.0))
    assert "mnist_2nn_iid_rounds_to_97" not in figures(path)
    learning.merge(path, IID, CURVE)
    known = figures(path)
    assert known["mnist_2nn_iid_rounds_to_97"] == 2
    assert known["mnist_2nn_noniid_rounds_to_97"] == 2
    assert known["mnist_2nn_iid_seconds_per_round"] == 2
    kept = json.loads(path.read_text())
    assert set(kept["curves"]) == set(kept["settings"]) == {"mnist-2nn-iid", "mnist-2nn-noniid"}
    assert kept["settings"]["mnist-2nn-iid"]["learning_rate"] == 0.1
    # A published figure is no peer that ran here.
    assert all(one["peer_value"] is None and one["ratio"] is None for one in kept["figures"])


def test_further_seeds_join_a_part_s_figures_until_its_first_one_is_run_anew(tmp_path: Path) -> None:
    path = tmp_path / "learning.json"
    with pytest.raises(SystemExit, match="run its first seed before others"):
        learning.chosen_rate(path, IID)
    learning.merge(path, IID, CURVE)
    assert learning.chosen_rate(path, IID) == 0.1
    short = Curve(0.1, [(0, 0.1), (1, 0.5)], 1.0)
    learning.merge(path, IID, short, seed=2)
    assert "mnist_2nn_iid_rounds_to_97" not in runs(path)
    assert runs(path)["mnist_2nn_iid_best_accuracy"] == [0.99, 0.5]
    learning.merge(path, IID, Curve(0.1, [*short.points, (2, 0.6), (3, 0.6), (4, 0.97)], 4.0), seed=2)
    learning.merge(path, PARTS["mnist-2nn-iid-shared"], CURVE)
    assert runs(path)["mnist_2nn_iid_rounds_to_97"] == [2.0, 4.0]
    assert figures(path)["mnist_2nn_iid_rounds_to_97"] == 3
    kept = json.loads(path.read_text())
    assert kept["settings"]["mnist-2nn-iid"]["seeds"] == 2
    assert set(kept["curves"]) == {"mnist-2nn-iid", "mnist-2nn-iid seed 2", "mnist-2nn-iid-shared"}
    # The first curve gone on with keeps them, another one in its place does not.
    learning.merge(path, IID, Curve(0.1, [*CURVE.points, (5, 0.98)], 10.0))
    assert len(runs(path)["mnist_2nn_iid_rounds_to_97"]) == 2
    learning.merge(path, IID, Curve(0.2, [(0, 0.2), (1, 0.99)], 2.0))
    assert runs(path)["mnist_2nn_iid_rounds_to_97"] == [1.0]


def runs(path: Path) -> dict[str, list[float]]:
    return {one["figure"]: one["runs"] for one in json.loads(path.read_text())["figures"]}


def figures(path: Path) -> dict[str, float]:
    return {one["figure"]: one["value"] for one in json.loads(path.read_text())["figures"]}


def test_every_part_names_what_there_is() -> None:
    for name, part in PARTS.items():
        assert part.name == name
        assert part.data in SETS
        if not part.centralised:
            Partition.parse(part.partition)
            known = {key: value for key, value in part.settings.items() if key != "privacy"}
            assert set(known) <= set(RoundSettings.__struct_fields__)
    shown = {name for _, curves, _, _ in learning_plots.PICTURES.values() for name in curves}
    assert shown <= set(PARTS)


def test_what_is_known_is_drawn(tmp_path: Path) -> None:
    results = {"curves": {"mnist-2nn-noniid": CURVE.points}}
    (picture,) = learning_plots.draw(results, tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")
