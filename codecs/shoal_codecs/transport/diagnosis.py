"""From the exception of a failed connection to a named fault with its remedy."""

import socket
import ssl

from aiomqtt.exceptions import MqttCodeError
from paho.mqtt.reasoncodes import ReasonCode

from shoal_codecs.transport.errors import (
    BrokerAuthenticationError,
    BrokerCertificateError,
    BrokerProtocolError,
    BrokerRefusedError,
    BrokerUnreachableError,
    ConnectionLostError,
    SessionTakenOverError,
    TransportError,
)
from shoal_codecs.transport.settings import BrokerAddress

# Reason codes of MQTT 5 (section 2.4); paho maps the return codes of 3.1.1 onto them.
_UNSPECIFIED = 0x80
_UNSUPPORTED_VERSION = 0x84
_CREDENTIALS = {0x86, 0x87, 0x8C}
_TAKEN_OVER = 0x8E


def reason_value(exc: BaseException) -> int | None:
    """Return the MQTT reason code an exception carries, if any."""
    if isinstance(exc, MqttCodeError):
        return exc.rc.value if isinstance(exc.rc, ReasonCode) else exc.rc
    return None


def diagnose(exc: BaseException, address: BrokerAddress) -> TransportError:
    """Return the named fault behind ``exc``, its text ending in what to do about it."""
    where = f"{address.host}:{address.port}"
    if isinstance(exc, TransportError):
        return exc
    code = reason_value(exc)
    if code in _CREDENTIALS:
        return BrokerAuthenticationError(
            f"the broker at {where} refuses these credentials: check username and password_file "
            "(or cert_file), and that the broker knows this party"
        )
    if code == _UNSUPPORTED_VERSION:
        return BrokerProtocolError(
            f"the broker at {where} does not speak this MQTT version: set mqtt_version, or auto"
        )
    if code == _TAKEN_OVER:
        return SessionTakenOverError(
            f"another process connected to {where} under this client id: give each its own name, "
            "or stop the other one"
        )
    if code == _UNSPECIFIED:
        # Also paho's word for a connection that ended without one.
        return ConnectionLostError(
            f"the connection to {where} ended without a word: the broker or the network went away"
        )
    if isinstance(exc, MqttCodeError):
        return BrokerRefusedError(f"the broker at {where} ended the connection: {exc}; see its log")
    return _below_mqtt(exc, where, address)


def _below_mqtt(exc: BaseException, where: str, address: BrokerAddress) -> TransportError:
    """Name what failed below MQTT: names, TCP, TLS, files."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return BrokerCertificateError(
            f"the certificate of {where} is not trusted ({getattr(exc, 'verify_message', exc)}): set "
            "ca_file to the authority that signed it, and use the host name it was made for"
        )
    if isinstance(exc, ssl.SSLError):
        return BrokerCertificateError(
            f"TLS with {where} failed ({getattr(exc, 'reason', None) or 'no reason given'}): check "
            "that the port speaks TLS, and cert_file and key_file"
        )
    if isinstance(exc, socket.gaierror):
        return BrokerUnreachableError(
            f"no address is known for {address.host!r}: correct the host in the broker URL"
        )
    if isinstance(exc, ConnectionRefusedError):
        return BrokerUnreachableError(f"nothing listens at {where}: start the broker or correct its URL")
    if isinstance(exc, TimeoutError):
        return BrokerUnreachableError(
            f"no answer from {where} in time: check the network, the firewall and the port"
        )
    if isinstance(exc, FileNotFoundError | PermissionError):
        return BrokerCertificateError(
            f"{exc.filename or 'a certificate or password file'} cannot be read: check the path "
            "and who may read it"
        )
    if isinstance(exc, OSError):
        return BrokerUnreachableError(f"{where} cannot be reached ({exc.strerror or exc})")
    return ConnectionLostError(f"the connection to {where} failed ({type(exc).__name__})")
