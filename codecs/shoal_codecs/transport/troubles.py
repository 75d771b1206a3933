"""What a link makes of connections that failed or ended: what to log, and what to try next."""

from typing import Final, Literal

import aiomqtt
import structlog

from shoal_codecs.transport.diagnosis import diagnose
from shoal_codecs.transport.errors import (
    BrokerProtocolError,
    ConnectionLostError,
    SessionTakenOverError,
    TransportError,
)
from shoal_codecs.transport.settings import BrokerAddress

log = structlog.get_logger()

# A connection that stood this long was a good one: the next back-off begins at its shortest.
_STABLE_S: Final = 5.0
# Connections that did not last, one after the other.
_SUSPICIOUS: Final = 4
# Old brokers answer MQTT 5 with a refusal, or close without a word; so does a broker going down, once.
_REFUSALS: Final = 2


class Troubles:
    """Remembers how connections ended; logs each cause once until there was a good connection.

    ``version`` is the MQTT version to try next, ``fault`` what the last connection failed of.
    """

    def __init__(
        self, address: BrokerAddress, client_id: str, mqtt_version: Literal["auto", "5", "3.1.1"]
    ) -> None:
        self.version = aiomqtt.ProtocolVersion.V311 if mqtt_version == "3.1.1" else aiomqtt.ProtocolVersion.V5
        self.fault: TransportError | None = None
        self._address = address
        self._client_id = client_id
        self._may_change_version = mqtt_version == "auto"
        self._short_lived = 0
        self._refusals = 0
        self._reported: type[TransportError] | None = None

    def ended(self, stood_s: float | None) -> bool:
        """Note that a connection ended after ``stood_s`` seconds (None: it never stood).

        Returns whether it was a good one.
        """
        if stood_s is None:
            return False
        if stood_s < _STABLE_S:
            self._short_lived += 1
            return False
        self._short_lived = 0
        self._reported = None
        return True

    def report(self, reason: BaseException, *, never_connected: bool) -> None:
        """Log ``reason`` with its remedy, unless its kind was the last one logged."""
        fault = diagnose(reason, self._address)
        if isinstance(fault, ConnectionLostError) and self._short_lived >= _SUSPICIOUS:
            fault = SessionTakenOverError(
                f"the broker accepts this link and drops it again and again: most likely another "
                f"process uses the client id {self._client_id!r}; stop it or give it its own name"
            )
        self.fault = fault
        if never_connected and self._may_change_version:
            self._count_refusal(fault)
        if self._reported is not type(fault):
            self._reported = type(fault)
            log.warning("not_connected", fault=type(fault).__name__, remedy=str(fault))

    def _count_refusal(self, fault: TransportError) -> None:
        self._refusals = self._refusals + 1 if isinstance(fault, BrokerProtocolError) else 0
        if self._refusals == _REFUSALS:
            self._refusals = 0
            modern = self.version is aiomqtt.ProtocolVersion.V5
            self.version = aiomqtt.ProtocolVersion.V311 if modern else aiomqtt.ProtocolVersion.V5
