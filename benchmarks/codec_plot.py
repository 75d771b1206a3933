"""The picture of accuracy against bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from codec_compare import Outcome

mpl.use("agg")
PLAIN, SHARED = "#9a5b13", "#1f5fa8"
FAMILY_MARKS = {"dense": "s", "int8": "s", "int4": "s", "topk": "^", "topk4": "^", "global_topk": "D"}
_LETTER, _LINE = 5.5, 11.0
"""Pixels of a letter and a line of the labels."""
_PLACES = tuple((side, up) for up in (0, 14, -14, 28, -28, 42, -42, 56, -56, 70, -70) for side in (1, -1, 0))
_SHOWN = ("fp32", "topk 1 % int8", "dense int8, shared", "randk 5 % int8, shared")


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw final accuracy against bytes up, and accuracy against bytes spent so far, to ``path``."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13.0, 5.6), width_ratios=(1.6, 1.0), dpi=100)
    _over_time(right, outcomes)
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.1, top=0.93, wspace=0.16)
    _trade_off(left, outcomes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _trade_off(axes: Any, outcomes: Sequence[Outcome]) -> None:
    """Draw each seed's distance from its own fp32 run: seeds differ more than codecs, for they split anew."""
    yardstick = next((one for one in outcomes if one.case.name == "fp32"), outcomes[0])
    points = []
    for one in outcomes:
        lost = [100 * (mine - best) for mine, best in zip(one.accuracies, yardstick.accuracies, strict=True)]
        colour = SHARED if one.case.mode == "hubs" else PLAIN
        mark = FAMILY_MARKS.get(one.case.codec, "o")
        axes.plot([one.up_bytes] * 2, [min(lost), max(lost)], color=colour, linewidth=1.0, alpha=0.45)
        axes.plot(one.up_bytes, fmean(lost), mark, color=colour, markersize=7, alpha=0.9)
        points.append((one.up_bytes, fmean(lost), _short(one.case.name), colour))
    axes.axhline(0, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.16)
    axes.set_xlabel("bytes up per device and round (log scale)")
    axes.set_ylabel("accuracy against fp32, points (mean of the last five rounds)")
    axes.set_title("What a codec costs and keeps (lines: range over seeds)")
    for label, colour in (("secret-shared: nobody sees one update", SHARED), ("plain", PLAIN)):
        axes.plot([], [], "o", color=colour, label=label)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.25)
    _label(axes, points)


def _short(name: str) -> str:
    return name.removesuffix(", shared").removesuffix(", plain")


def _label(axes: Any, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each label at the first place around its point where nothing is yet."""
    axes.figure.canvas.draw()
    taken = [
        (x - 5.0, y - 5.0, x + 5.0, y + 5.0) for x, y in axes.transData.transform([p[:2] for p in points])
    ]
    for x, y, text, colour in points:
        at_x, at_y = axes.transData.transform((x, y))
        width, height = _LETTER * len(text), _LINE
        for across, up in _PLACES:
            left = at_x + 8 if across > 0 else at_x - 8 - width if across < 0 else at_x - width / 2
            low = at_y + up - height / 2
            box = (left, low, left + width, low + height)
            if not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        anchor = axes.transData.inverted().transform((left, low + height / 2))
        axes.annotate(
            text, (x, y), xytext=anchor, fontsize=7.5, color=colour, va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "alpha": 0.6},
        )  # fmt: skip


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _over_time(axes: Any, outcomes: Sequence[Outcome]) -> None:
    shown = [one for one in outcomes if one.case.name in _SHOWN] or list(outcomes)[:4]
    for one in shown:
        spent, total = [], 0.0
        for row in one.runs[0]:
            total += row.up_bytes + row.down_bytes
            spent.append(total)
        style = "-" if one.case.mode == "hubs" else "--"
        axes.plot(spent, [row.accuracy for row in one.runs[0]], style, label=one.case.name, linewidth=1.4)
    axes.set_xscale("log")
    axes.set_xlabel("bytes up and down per device so far (log scale)")
    axes.set_ylabel("held-out accuracy (first seed)")
    axes.set_title("How far a budget of bytes goes")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
