"""A text file as windows of tokens, each with the token that comes next as its label.

The vocabulary is the task's labels: a token's id is the index of its label, in input and label alike.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shoal_edge.sources.errors import DamagedDataError, DataSettingsError
from shoal_edge.sources.files import check_size, file_version, opened, read_rest
from shoal_edge.sources.holding_out import last_aside, window_starts
from shoal_edge.sources.rows import Windows
from shoal_edge.sources.settings import DataSettings
from shoal_edge.sources.source import Found, Version, Wanted

_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")
_ID_BYTES = 4
_ABSENT = -1
_USUAL_WINDOW = 64


class TextSource:
    """The UTF-8 text at ``place``, which may be packed with gzip (``.gz``)."""

    needs_task = True

    def __init__(self, settings: DataSettings, place: Path) -> None:
        self._settings, self._path = settings, place

    def version(self) -> Version:
        """Return the file's size and time."""
        return file_version(self._path)

    def count(self) -> int:
        """Estimate how many windows there are: the task will say how long they are, and of which tokens."""
        ((_, size, _),) = file_version(self._path)
        return size // (self._settings.stride or _USUAL_WINDOW)

    def read(self, wanted: Wanted) -> Found:
        """Read the text and cut it into windows of the task's length.

        Windows with a token outside the vocabulary are left out unless `unknown` names a label for those.
        """
        shape = wanted.input.shape
        if len(shape) != 1 or wanted.target.kind != "label" or wanted.input.dtype != "int32":
            raise DataSettingsError(
                "the task takes no windows of token ids: give it another kind of source, or author a task "
                "with an int32 input of one axis and the vocabulary as its labels"
            )
        length = shape[0]
        with opened(self._path) as file:
            # Ids are four times as long as most characters.
            data = read_rest(file, self._settings.most_bytes // _ID_BYTES, self._path)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DamagedDataError(f"{self._path} is no text in UTF-8: save it again") from error
        ids = self._ids(text.lower() if self._settings.lower else text, wanted.labels)
        check_size(ids.nbytes, self._settings.most_bytes, self._path)
        starts = window_starts(len(ids) - 1, length, self._settings.stride or length)
        if len(starts):
            strange = np.concatenate([[0], np.cumsum(ids == _ABSENT)])
            starts = starts[strange[starts + length + 1] == strange[starts]]
        kept, aside = last_aside(starts, length + 1)
        starts = starts[kept]
        return Found(Windows(ids, starts, length).as_array(), ids[starts + length], aside=aside)

    def _ids(self, text: str, labels: tuple[str, ...]) -> npt.NDArray[np.int32]:
        """Return the tokens' ids (n,); -1 for those without a label."""
        index = {label: number for number, label in enumerate(labels)}
        unknown = self._settings.unknown
        if unknown and unknown not in index:
            raise DataSettingsError(
                f"the task has no label {unknown!r}: set `unknown` to one of its own, or leave it out"
            )
        absent = index[unknown] if unknown else _ABSENT
        if self._settings.tokens == "words":
            return np.fromiter((index.get(word.group(), absent) for word in _WORD.finditer(text)), np.int32)
        return _character_ids(text, index, absent)


def _character_ids(text: str, index: dict[str, int], absent: int) -> npt.NDArray[np.int32]:
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    distinct, codes = np.unique(points, return_inverse=True)
    table = np.array([index.get(chr(point), absent) for point in distinct.tolist()], np.int32)
    return table[codes] if len(points) else np.empty(0, np.int32)
