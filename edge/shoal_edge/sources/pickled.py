"""Reading the pickled batches of CIFAR-10 without unpickling: nothing in them is ever called or imported.

``pickletools`` splits the bytes into opcodes; a small stack machine builds plain values from those that such
batches use. A global is only its name. The few calls that numpy's arrays are made of are recognised by name
and done here; every other is a fault. Protocols 0 to 5 as PEP 307 and PEP 3154 describe them.
"""

import pickletools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shoal_edge.sources.errors import DamagedDataError

MOST_OPCODES = 4_000_000
_RECONSTRUCT = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
}
_FAULTS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError),
    *(EOFError, MemoryError, AssertionError),
)


class _Global(NamedTuple):
    """A name; never looked up."""

    name: str


class _Array:
    """An array in the making: its state comes after it."""

    value: npt.NDArray[np.uint8] | None = None

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Bytes) or not isinstance(data, bytes) or not isinstance(shape, tuple):
            raise TypeError("no array of bytes")
        # Checks the length, and copies nothing.
        found = np.frombuffer(data, np.uint8)
        self.value = found.reshape(shape, order="F" if fortran else "C")


class _Bytes:
    """The dtype of unsigned bytes, the only one there is here."""

    def build(self, state: Any) -> None:
        """Take no notice: a byte has no order."""


class _Mark:
    """Where a group of values begins on the stack."""


class _Machine:
    """The stack, the memo, and what each opcode does to them."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._do: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._stack.append(_Mark()),
            "NONE": lambda _: self._stack.append(None),
            "NEWTRUE": lambda _: self._stack.append(True),
            "NEWFALSE": lambda _: self._stack.append(False),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "EMPTY_TUPLE": lambda _: self._stack.append(()),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "LIST": lambda _: self._stack.append(self._group()),
            "TUPLE": lambda _: self._stack.append(tuple(self._group())),
            "TUPLE1": lambda _: self._tuple(1),
            "TUPLE2": lambda _: self._tuple(2),
            "TUPLE3": lambda _: self._tuple(3),
            "DICT": lambda _: self._stack.append(_paired(self._group())),
            "APPEND": lambda _: self._append([self._stack.pop()]),
            "APPENDS": lambda _: self._append(self._group()),
            "SETITEM": lambda _: self._set([self._stack.pop(-2), self._stack.pop()]),
            "SETITEMS": lambda _: self._set(self._group()),
            "GLOBAL": lambda name: self._stack.append(_Global(name)),
            "STACK_GLOBAL": lambda _: self._global(self._stack.pop(-2), self._stack.pop()),
            "REDUCE": lambda _: self._reduce(),
            "BUILD": lambda _: self._build(),
            "MEMOIZE": lambda _: self._memo.__setitem__(len(self._memo), self._stack[-1]),
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            **dict.fromkeys(
                ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "BINFLOAT", "FLOAT"), self._push
            ),
            **dict.fromkeys(
                ("BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
                self._push,
            ),
            # Strings of Python 2 are bytes; pickletools shows them as latin-1.
            **dict.fromkeys(
                ("STRING", "BINSTRING", "SHORT_BINSTRING"),
                lambda text: self._stack.append(text.encode("latin-1")),
            ),
        }

    def run(self, data: bytes | bytearray) -> Any:
        for done, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name == "STOP":
                return self._stack.pop()
            if opcode.name not in self._do or done > MOST_OPCODES:
                raise ValueError(f"opcode {opcode.name}")
            self._do[opcode.name](argument)
        raise ValueError("no end")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > 200:
            raise TypeError("no name")
        self._stack.append(_Global(f"{module} {name}"))

    def _put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def _tuple(self, count: int) -> None:
        values = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(values)

    def _group(self) -> list[Any]:
        """Take everything above the last mark off the stack."""
        group: list[Any] = []
        while not isinstance(value := self._stack.pop(), _Mark):
            group.append(value)
        return group[::-1]

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TypeError("no list to append to")
        target.extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise TypeError("no dict to fill")
        target.update(_paired(values))

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise TypeError("no call that is known")
        first = arguments[0]
        if function.name in _RECONSTRUCT and isinstance(first, _Global) and first.name == "numpy ndarray":
            self._stack.append(_Array())
        elif function.name == "numpy dtype" and isinstance(first, str | bytes) and first in {"u1", b"u1"}:
            self._stack.append(_Bytes())
        elif function.name == "_codecs encode" and arguments[1:] == ("latin1",) and isinstance(first, str):
            # How Python 3 writes bytes for Python 2; each string once, or one in the memo could be copied on
            # and on.
            self._left -= len(first)
            if self._left < 0:
                raise MemoryError
            self._stack.append(first.encode("latin-1"))
        else:
            raise ValueError("a call of something else")

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if not isinstance(target, _Array | _Bytes):
            raise TypeError("nothing to build")
        target.build(state)


def _paired(values: list[Any]) -> dict[str | bytes, Any]:
    keys = values[::2]
    if not all(isinstance(key, str | bytes) for key in keys):
        # To hash tuples that hold one another twice takes for ever.
        raise TypeError("a key that is no string")
    return dict(zip(keys, values[1::2], strict=True))


def read_batch(data: bytes | bytearray, name: str) -> dict[str, Any]:
    """Return the plain values of a pickled dict by key; arrays of bytes are numpy's, everything else is not.

    ``name`` is what a fault calls it.

    Raises:
        DamagedDataError: no pickle, or one with more in it than such a batch has.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _Machine(len(data)).run(data)
        if not isinstance(found, dict):
            raise TypeError("no dict")
        return {
            key.decode("latin-1") if isinstance(key, bytes) else key: (
                value.value if isinstance(value, _Array) else value
            )
            for key, value in found.items()
        }
    except _FAULTS as error:
        raise DamagedDataError(
            f"{name} is no pickled batch of plain arrays ({type(error).__name__}): take the published "
            "archive, or its binary version"
        ) from error
