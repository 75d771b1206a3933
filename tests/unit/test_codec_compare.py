"""The comparison of codecs in a quick form: real training, codecs and aggregation, three rounds."""

import json
from pathlib import Path

import pytest
from codec_compare import CASES, PARAMETERS, compare, figures, show
from output import write

from shoal_codecs.updates.registry import CODECS

pytest.importorskip("matplotlib")
CHOSEN = {
    "fp32": (0.99, 1.0),
    "topk 5 % int4": (60, 80),
    "randk 10 % int4, shared": (39, 60),
    "global_topk 20 % int4, shared": (19, 30),
}


def test_a_quick_comparison_trains_prints_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from codec_plot import draw  # noqa: PLC0415 - matplotlib may be missing

    cases = [case for case in CASES if case.name in CHOSEN]
    outcomes = compare(cases, [1], devices=6, rounds=3)
    show(outcomes)
    write("codec_compare", {}, figures(outcomes), tmp_path / "out.json")
    draw(outcomes, tmp_path / "out.png")
    printed = capsys.readouterr().out
    for one in outcomes:
        low, high = CHOSEN[one.case.name]
        assert low <= one.times_smaller <= high, (one.case.name, one.times_smaller)
        accuracies = [row.accuracy for row in one.runs[0]]
        assert accuracies[-1] > 0.3, one.case.name
        assert one.case.name in printed
    assert outcomes[0].case.name == "fp32"
    found = {
        figure["figure"]: figure for figure in json.loads((tmp_path / "out.json").read_text())["figures"]
    }
    assert found["fp32.up_bytes"]["peer_value"] == 4 * PARAMETERS
    assert found["topk_5_int4.accuracy"]["unit"] == "share"
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_every_codec_is_compared() -> None:
    assert {case.codec for case in CASES if case.mode == "plain"} == set(CODECS)
    assert {case.codec for case in CASES if case.mode == "hubs"} == {"randk", "global_topk"}
