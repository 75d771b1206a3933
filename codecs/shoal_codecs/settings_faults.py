"""What is wrong with a settings file, in words for whoever wrote it, and what may have been meant."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec


def fault_words(error: msgspec.ValidationError, kind: type) -> str:
    """Return what ``error`` says of something that is no ``kind``, and what may have been meant.

    That is which values there are for a key, which key has a name like the unknown one, or that a number
    stands in quotes.
    """
    text = str(error)
    found = re.fullmatch(r"(?P<fault>.*?)(?: - at `\$(?P<place>.*)`)?", text, re.DOTALL)
    if found is None:
        return text
    fault, place = found["fault"], found["place"] or ""
    if fault.startswith("Invalid enum value"):
        values = _values_at(kind, place)
        return f"{text}, where {', '.join(map(str, values))} are possible" if values else text
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", fault, re.DOTALL):
        return text + meant(unknown[1], kind, place)
    if re.fullmatch(r"Expected `(int|float|bool)( \| null)?`, got `str`", fault):
        return f"{text} (write it without quotes)"
    return text


def _type_at(kind: type, place: str) -> Any:
    """Return msgspec's description of what is at ``place`` (`.party[0].role`) in a ``kind``."""
    # Here, for it takes memory that an agent whose settings are sound has no use for.
    from msgspec import inspect  # noqa: PLC0415

    about: Any = inspect.type_info(kind)
    # A key, or a place in a list or table.
    for step in re.findall(r"\.\w+|\[", place):
        if isinstance(about, inspect.StructType):
            about = {field.encode_name: field.type for field in about.fields}.get(step[1:])
        elif isinstance(about, inspect.DictType):
            about = about.value_type
        elif isinstance(about, inspect.ListType | inspect.VarTupleType):
            about = about.item_type
    return about


def _values_at(kind: type, place: str) -> tuple[Any, ...]:
    """Return the few values that are possible at ``place``, none where it takes others."""
    return tuple(getattr(_type_at(kind, place), "values", ()))


def meant(name: str, kind: type, place: str = "") -> str:
    """Return where the unknown key ``name`` stands, or which may be meant at ``place``; often nothing."""
    # Before names that are alike: `mode` is nearer to [rounds] than to `folder`.
    tables = [table for table in _tables_with(kind, name) if f".{table}" != place]
    if tables:
        places = [f"in [{table}]" if table else "above all tables" for table in tables]
        return f" (`{name}` stands {' or '.join(places)})"
    from difflib import get_close_matches  # noqa: PLC0415 - as in _type_at

    fields = getattr(_type_at(kind, place), "fields", ())
    near = get_close_matches(name, [field.encode_name for field in fields], n=1)
    return f" (is `{near[0]}` meant?)" if near else ""


def _tables_with(kind: type, name: str, table: str = "") -> Iterator[str]:
    """Yield the dotted tables of ``kind``, the empty one for itself, that have a key ``name``."""
    from msgspec import inspect  # noqa: PLC0415 - as in _type_at

    about = inspect.type_info(kind)
    for field in about.fields if isinstance(about, inspect.StructType) else ():
        if field.encode_name == name:
            yield table
        if isinstance(field.type, inspect.StructType):
            yield from _tables_with(
                field.type.cls, name, f"{table}.{field.encode_name}" if table else field.encode_name
            )
