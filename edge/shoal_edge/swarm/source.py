"""What ``--data`` means: a file, a kind and a place, or a table of settings."""

import tomllib
from pathlib import Path
from typing import get_args

import msgspec

from shoal_codecs.settings import SettingsError
from shoal_codecs.settings_faults import fault_words
from shoal_edge.sources.settings import DataSettings, Kind


def data_settings(words: str) -> DataSettings:
    """Return the settings of ``FILE.npz``, ``KIND:PATH`` or ``FILE.toml``, their path made absolute.

    In a TOML file the table ``[data]`` is that of a device's settings; its path is relative to the file.

    Raises:
        SettingsError: a table that cannot be read, or has a share.
    """
    if words.endswith(".toml"):
        return _from_table(Path(words))
    kind, colon, path = words.partition(":")
    if colon and kind in get_args(Kind):
        return msgspec.convert({"kind": kind, "path": str(Path(path).resolve())}, DataSettings)
    return DataSettings(path=str(Path(words).resolve()))


def _from_table(file: Path) -> DataSettings:
    try:
        settings = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8"))["data"], DataSettings)
    except KeyError as error:
        raise SettingsError(f"{file} has no table [data]: write it as in a device's settings") from error
    except msgspec.ValidationError as error:
        raise SettingsError(f"{file}, table [data]: {fault_words(error, DataSettings)}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file} holds no table [data] that can be read: {error}") from error
    if settings.share is not None:
        raise SettingsError(f"{file} sets share: the swarm gives every device its own, leave it out")
    return msgspec.structs.replace(settings, path=str(file.resolve().parent / settings.path))
