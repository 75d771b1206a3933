"""Settings: frozen typed structs from a TOML file and the environment; unknown keys are refused."""

import math
import os
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from shoal_codecs.errors import ShoalError
from shoal_codecs.settings_faults import fault_words, meant

S = TypeVar("S", bound=msgspec.Struct)
ENVIRONMENT_PREFIX = "SHOAL_"
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
PartialShare = Annotated[float, msgspec.Meta(ge=0, lt=1)]
"""A share that leaves something over."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e8)]
Period = Annotated[float, msgspec.Meta(gt=0, le=1e8)]
"""Seconds that may not be 0: nothing is done without pause."""
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]


class SettingsError(ShoalError):
    """A settings file or variable that cannot be used; the text names the key."""


def load_settings(
    kind: type[S],
    path: Path | None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> S:
    """Return settings of ``kind``: defaults, then ``path``, then the environment, then ``overrides``.

    ``SHOAL_LINK__URL=mqtt://...`` sets ``url`` in the table ``link``. ``overrides`` use dotted keys;
    None there means not given.

    Raises:
        SettingsError: no such file, not TOML, an unknown key, or a value that cannot be meant.
    """
    written: dict[str, Any] = _read(path) if path else {}
    tree = deepcopy(written)
    for key, value in _from_environment(kind, os.environ if environment is None else environment):
        _put(tree, key, value)
    for dotted, value in (overrides or {}).items():
        if value is not None:
            _put(tree, dotted.split("."), value)
    source = f" in {path}" if path else ""
    try:
        # TOML has numbers: only the environment and the command line say them in letters.
        msgspec.convert(written, kind)
        settings = msgspec.convert(tree, kind, strict=False)
    except msgspec.ValidationError as error:
        words = fault_words(error, kind)
        raise SettingsError(f"{words}{source}: see --print-config for every key and its default") from error
    for endless in _endless(msgspec.to_builtins(settings), ""):
        # TOML has nan and inf, and no bound keeps the first one out.
        raise SettingsError(f"{endless}{source} is no finite number: see --print-config for its default")
    return settings


def changed_keys(settings: msgspec.Struct) -> list[str]:
    """Return the keys whose values are not the defaults: of the others nobody knows whether they were set."""
    default = type(settings)()
    return [key for key in settings.__struct_fields__ if getattr(settings, key) != getattr(default, key)]


def print_settings(settings: msgspec.Struct) -> str:
    """Return the settings as TOML, every key with its value, ready to be edited."""
    lines: list[str] = []
    _write(lines, msgspec.to_builtins(settings), ())
    return "\n".join(lines).strip() + "\n"


def system_paths() -> tuple[Path, Path]:
    """Return (configuration, data) folders.

    A service (root, or systemd's ``CONFIGURATION_DIRECTORY`` and ``STATE_DIRECTORY``) has
    ``/etc/shoal`` and ``/var/lib/shoal``; a person has local folders.
    """
    configuration = os.environ.get("CONFIGURATION_DIRECTORY")
    state = os.environ.get("STATE_DIRECTORY")
    if configuration or state:
        return Path(configuration or "/etc/shoal"), Path(state or "/var/lib/shoal")
    if os.geteuid() == 0 and Path("/etc/shoal").is_dir():
        return Path("/etc/shoal"), Path("/var/lib/shoal")
    return Path(), Path("shoal-data")


def find_place(config: Path | None, folder: Path | None) -> tuple[Path | None, Path | None]:
    """Return (settings file, state folder) of a party; None where there is none, or the settings decide.

    ``config`` and ``folder`` are what the command line named. ``folder`` has everything in it. Without
    either, the system's folders are looked at (``system_paths``), or ``config.toml`` here.
    """
    if folder is not None:
        return config or _present(folder / "config.toml"), None
    configuration, state = system_paths()
    if config is not None:
        return config, state if os.environ.get("STATE_DIRECTORY") else None
    return _present(configuration / "config.toml"), state if configuration.is_absolute() else None


def _endless(value: Any, key: str) -> Iterator[str]:
    """Yield the dotted keys of numbers that are not finite."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _endless(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, float) and not math.isfinite(value):
        yield key


def _present(path: Path) -> Path | None:
    return path if path.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    # Here, for a device's worker names these types and reads no settings file.
    import tomllib  # noqa: PLC0415

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}: {error.strerror}; name a settings file with --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} is not TOML ({error}): mend it, or see --print-config for a whole one"
        ) from error


def _from_environment(
    kind: type[msgspec.Struct], environment: Mapping[str, str]
) -> list[tuple[list[str], str]]:
    found = []
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX):
            keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            if keys[0] in kind.__struct_fields__:
                found.append((keys, environment[name]))
            elif len(keys) > 1:
                raise SettingsError(
                    f"{name} names no setting{meant(keys[0], kind)}: see --print-config for every key"
                )
    return found


def _put(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    *tables, last = keys
    for table in tables:
        inner = tree.setdefault(table, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"{'.'.join(keys)}: {table!r} is a value, not a table")
        tree = inner
    tree[last] = value


def _write(lines: list[str], tree: Mapping[str, Any], path: tuple[str, ...]) -> None:
    if path:
        lines += ["", f"[{'.'.join(path)}]"]
    tables = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            tables[key] = value
        elif value is not None:
            lines.append(f"{key} = {_toml(value)}")
    for key, table in tables.items():
        _write(lines, table, (*path, key))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    # JSON's strings are TOML's but for one character.
    return msgspec.json.encode(str(value)).decode().replace("\x7f", "\\u007f")
