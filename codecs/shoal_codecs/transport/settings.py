"""Where the broker is and how a link treats it."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from shoal_codecs.settings import Period
from shoal_codecs.transport.errors import BadBrokerUrlError

_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
_FILES = ("password_file", "ca_file", "cert_file", "key_file")


class BrokerAddress(msgspec.Struct, frozen=True):
    """A broker's host name, port, and whether TLS is spoken there."""

    host: str
    port: int
    tls: bool


def parse_broker_url(url: str) -> BrokerAddress:
    """Read ``mqtt://host[:port]`` or ``mqtts://host[:port]``.

    Raises:
        BadBrokerUrlError: any other scheme, no host, a bad port, a path, or credentials in the URL.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise BadBrokerUrlError(f"the broker URL cannot be read ({exc}): write mqtt://HOST:PORT") from exc
    if parts.username is not None or parts.password is not None:
        # The text is not repeated: it holds a password.
        raise BadBrokerUrlError("credentials do not belong in the broker URL: set username and password_file")
    if parts.scheme not in _DEFAULT_PORTS:
        raise BadBrokerUrlError(
            f"{url!r} is no broker URL: write mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS"
        )
    if not host or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise BadBrokerUrlError(f"{url!r} is no broker URL: a host and a port, and nothing after")
    if port == 0:
        raise BadBrokerUrlError(f"{url!r}: port 0 cannot be connected to")
    return BrokerAddress(host, port or _DEFAULT_PORTS[parts.scheme], parts.scheme == "mqtts")


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the broker and how much may be in flight; times in seconds, sizes in bytes.

    ``window`` bounds the QoS 1 messages in flight each way (it is announced as Receive Maximum).
    ``mqtt_version`` ``auto`` speaks MQTT 5 and falls back to 3.1.1 where the broker refuses it. In a
    settings file, the names of files are relative to that file.
    """

    url: str = "mqtt://127.0.0.1:1883"
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    keepalive_s: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 30
    session_expiry_s: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] = 86400
    window: Annotated[int, msgspec.Meta(ge=1, le=65534)] = 20
    max_packet_bytes: Annotated[int, msgspec.Meta(ge=1024, le=0xFFFFFFF)] = 2 * 1024 * 1024
    backoff_min_s: Period = 0.2
    backoff_max_s: Period = 30.0
    connect_timeout_s: Period = 10.0
    mqtt_version: Literal["auto", "5", "3.1.1"] = "auto"

    def beside(self, folder: Path) -> "LinkSettings":
        """Return the same settings with relative files found in ``folder``."""
        files = {key: getattr(self, key) for key in _FILES}
        return msgspec.structs.replace(
            self, **{key: str(folder.resolve() / name) for key, name in files.items() if name}
        )
