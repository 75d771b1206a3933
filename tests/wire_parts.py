"""Parties, a roster and one message of every kind, the same at every run."""

from typing import Any

from shoal_codecs.security.identity import Identity
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import Party, Role, Roster, RosterBody, open_roster, sign_roster
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.blob import describe
from shoal_codecs.wire.held import HeldRoster
from shoal_codecs.wire.hubs import HubPromise, NeverReleased
from shoal_codecs.wire.plan import CodecPlan, HubOffer, Plan, PrivacyPlan, SinglePlan, TrainingPlan
from shoal_codecs.wire.single import Prekey
from shoal_codecs.wire.topics import Topics

FLEET = "herd"
NOW_MS = 1_700_000_000_000
ROLES: dict[str, Role] = {
    "coordinator": "coordinator",
    "publisher": "publisher",
    "operator": "operator",
    "hub-1": "hub",
    "hub-2": "hub",
    "device-01": "device",
    "device-02": "device",
    "device-03": "device",
}
AUTHORITY = Identity("authority", b"\xa0" * 32)


def identity(name: str) -> Identity:
    """Return the identity whose seed follows from its name."""
    return Identity(name, name.encode().ljust(32, b"."))


def roster_body(**changes: Any) -> RosterBody:
    """Return the roster of the fleet before it is signed."""
    parties = tuple(Party(name, role, identity(name).public) for name, role in ROLES.items())
    fields: dict[str, Any] = {"fleet": FLEET, "serial": 1, "parties": parties}
    return RosterBody(**(fields | changes))


def roster() -> Roster:
    """Return the fleet's roster."""
    return open_roster(sign_roster(roster_body(), AUTHORITY), AUTHORITY.public, FLEET)


def post(name: str, fleet: str = FLEET, prefix: str = "") -> Post:
    """Return the post office of ``name``."""
    return Post(Topics(fleet, prefix), identity(name), roster(), clock=lambda: NOW_MS / 1000)


def plan(**changes: Any) -> Plan:
    """Return a plan that holds, or one with ``changes``."""
    fields: dict[str, Any] = {
        "mode": "hubs",
        "fleet": FLEET,
        "round": 7,
        "task": b"\x01" * 32,
        "base": b"\x02" * 32,
        "roster": b"\x03" * 32,
        "cohort": ("device-01", "device-02", "device-03"),
        "hubs": (
            HubOffer("hub-1", b"\x04" * 32, b"\x05" * 32),
            HubOffer("hub-2", b"\x06" * 32, b"\x07" * 32),
        ),
        "codec": codec_plan(),
        "training": TrainingPlan(epochs=5, learning_rate=0.25, batch_size=16),
        "n_min": 2,
        "n_max": 3,
        "quorum": 3,
        "patience_ms": 2000,
        "opens_ms": NOW_MS,
        "closes_ms": NOW_MS + 60_000,
    }
    return Plan(**(fields | changes))


def codec_plan(**changes: Any) -> CodecPlan:
    """Return a codec plan that holds, or one with ``changes``."""
    fields: dict[str, Any] = {
        "name": "randk",
        "dimension": 9610,
        "kept": 481,
        "clip_norm": 4.0,
        "clamp": 127,
        "ring_bits": 12,
        "weight_cap": 150,
    }
    return CodecPlan(**(fields | changes))


def private_plan(**changes: Any) -> PrivacyPlan:
    """Return a privacy part that holds for ``plan()``, or one with ``changes``."""
    fields: dict[str, Any] = {"mechanism": "skellam", "noise": 250_000.0, "corrupt": 1, "delta": 1e-5}
    return PrivacyPlan(**(fields | changes))


def plain_plan(**changes: Any) -> Plan:
    """Return a plan of mode ``plain`` that holds, or one with ``changes``."""
    own = HubOffer("coordinator", b"\x04" * 32, b"\x05" * 32)
    return plan(**({"mode": "plain", "hubs": (own,)} | changes))


def single_plan(**changes: Any) -> Plan:
    """Return a plan of mode ``single`` that holds, or one whose part for the mode has ``changes``."""
    fields: dict[str, Any] = {
        "neighbours": 2,
        "threshold": 2,
        "edges": 2,
        "prekeys": (b"\x31" * 16, b"\x32" * 16, b"\x33" * 16),
        "shares_ms": NOW_MS + 10_000,
        "masked_ms": NOW_MS + 40_000,
    }
    own = HubOffer("coordinator", b"\x04" * 32, b"\x05" * 32)
    return plan(mode="single", hubs=(own,), single=SinglePlan(**(fields | changes)))


def every_message() -> list[wire.AnyMessage]:
    """Return one message of every kind, every field filled."""
    return [_fill(kind) for kind in wire.AnyMessage.__args__]


def _fill(kind: type[Any]) -> wire.AnyMessage:
    names = [name for name in kind.__struct_fields__ if name not in wire.Message.__struct_fields__]
    values = {name: _VALUES.get((kind.__name__, name), _VALUES.get(name)) for name in names}
    message: wire.AnyMessage = kind(
        protocol=wire.PROTOCOL_VERSION,
        sender="device-01",
        message_id=b"\x11" * 8,
        sent_ms=NOW_MS,
        **values,
    )
    return message


_OFFER = wire.ModelOffer(
    version=3,
    digest=b"\x21" * 32,
    whole=describe(b"vector"),
    parent=b"\x22" * 32,
    step=b"step",
    chain=(describe(b"older step"), describe(b"newer step")),
)
_VALUES: dict[Any, Any] = {
    ("RevealWanted", "task"): b"\x2b" * 32,
    ("SingleDelivery", "members"): b"\x07",
    ("SingleShares", "boxes"): (b"box", b"another"),
    ("SingleUnmaskWanted", "signatures"): {"device-02": b"\x28" * 64},
    "accepted": True,
    "unsent": True,
    "action": "rounds.run",
    "agent_version": "0.1.0",
    "roster": HeldRoster(7, b"\x2c" * 8),
    "alive": b"\x05",
    "arguments": {"count": 2},
    "base": b"\x2a" * 32,
    "boxes": {"device-02": b"box"},
    "bundles": (Prekey(b"\x41" * 32, b"\x42" * 32, b"\x43" * 32, b"\x44" * 64),),
    "candidate": (40, 38),
    "certificate": b"\x2b" * 64,
    "certificates": (NeverReleased(b"\x2c" * 32, {"hub-1": b"\x2b" * 64}),),
    "challenge": b"\x2d" * 32,
    "command_id": b"\x12" * 8,
    "correct": 30,
    "count": 2,
    "credit": 1,
    "data": b"piece",
    "dead": b"\x02",
    "digest": b"\x23" * 32,
    "draw": b"\x45" * 32,
    "draws": {"device-02": b"\x45" * 32},
    "examples": 33,
    "fields": {"round": 7},
    "full": True,
    "head": b"\x2e" * 32,
    "hub": "hub-2",
    "index": 1,
    "kind": "round.committed",
    "loss_sum": 6.5,
    "manifest": b"manifest",
    "members": ("device-01", "device-02"),
    "model": _OFFER,
    "model_id": b"\x24" * 8,
    "nonce": b"\x2f" * 32,
    "online": True,
    "plan": b"plan",
    "plan_hash": b"\x25" * 32,
    "plan_id": b"\x25" * 8,
    "position": 9,
    "prekeys": (Prekey(b"\x41" * 32, b"\x42" * 32, b"\x43" * 32, b"\x44" * 64),),
    "promise": HubPromise("hub-1", b"\x04" * 32, b"\x05" * 32, b"\x29" * 64),
    "promises": (HubPromise("hub-1", b"\x04" * 32, b"\x05" * 32, b"\x29" * 64),),
    "readings": {0: "idle", 6: 120, 14: 41.5, 24: None},
    "reason": "no reason",
    "received": 4800,
    "release": "spring",
    "replaced": (40, 37),
    "report_id": b"\x26" * 32,
    "reports": {"device-01": b"\x26" * 32},
    "round": 7,
    "sealed": b"sealed",
    "sent": 1900,
    "seed": b"\x46" * 32,
    "sequence": 12,
    "session": b"\x13" * 8,
    "set_digest": b"\x27" * 32,
    "signature": b"\x28" * 64,
    "signatures": {"hub-1": b"\x28" * 64},
    "source": describe(b"encoded step"),
    "correction": describe(b"control"),
    "state": "confirmed",
    "task": describe(bytes(range(256)) * 8, 1024),
    "text": "round 7 made version 3",
    "to": "hub-2",
    "version": 3,
    "view": b"view",
}
