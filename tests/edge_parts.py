"""A small fleet's keys and one round's words, made by the code that the real parties use."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shoal_codecs.security.identity import Identity, create_identity
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import Party, Role, Roster, RosterBody, open_roster, sign_roster
from shoal_codecs.security.sealing import new_sealing_key
from shoal_codecs.updates.base import kept_for
from shoal_codecs.updates.ring import ring_bits_for
from shoal_codecs.wire.blob import BlobRef, describe
from shoal_codecs.wire.messages import PROTOCOL_VERSION, Evaluate, Invitation, ModelOffer, PlanNotice
from shoal_codecs.wire.plan import (
    CodecPlan,
    HubOffer,
    Plan,
    TrainingPlan,
    encode_plan,
    plan_hash,
    plan_signing_bytes,
)
from shoal_codecs.wire.task import TaskBundle, decode_task, initial_weights
from shoal_codecs.wire.topics import Topics

FLEET = "testfleet"
NOW_MS = 1_700_000_000_000
DEMO_DATA = Path(__file__).parents[1] / "coordinator" / "shoal_coordinator" / "demo" / "data"
TASK_BYTES = (DEMO_DATA.parents[1] / "tasks" / "digits.task").read_bytes()
TASK: TaskBundle = decode_task(TASK_BYTES)
TASK_REF: BlobRef = describe(TASK_BYTES)


@dataclass
class Fleet:
    """Every party's identity, the roster, and the hubs' keys of the round."""

    identities: dict[str, Identity]
    roster: Roster
    roster_bytes: bytes
    authority: bytes
    keys: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    nonces: dict[str, bytes] = field(default_factory=dict)

    def offer(self, name: str) -> HubOffer:
        private, public = self.keys.setdefault(name, new_sealing_key())
        del private
        return HubOffer(name, public, self.nonces.setdefault(name, name.encode().ljust(32, b".")))

    def post(self, name: str, **options: Any) -> Post:
        return Post(Topics(FLEET), self.identities[name], self.roster, **options)


def make_fleet(devices: int = 4, hubs: int = 2, fleet: str = FLEET) -> Fleet:
    roles: dict[str, Role] = {"coordinator": "coordinator", "publisher": "publisher", "operator": "operator"}
    roles |= {f"hub-{n}": "hub" for n in range(1, hubs + 1)}
    roles |= {f"device-{n:02}": "device" for n in range(1, devices + 1)}
    identities = {name: Identity(name, name.encode().ljust(32, b"#")) for name in roles}
    authority = Identity("authority", b"A" * 32)
    parties = tuple(Party(name, role, identities[name].public) for name, role in roles.items())
    data = sign_roster(RosterBody(fleet, 1, parties), authority)
    return Fleet(identities, open_roster(data, authority.public, fleet), data, authority.public)


def enrol(fleet: Fleet, name: str, folder: Path, settings: str) -> None:
    """Lay out a party's folder as enrolment does."""
    folder.mkdir(parents=True, exist_ok=True)
    create_identity(name, folder / "identity.key")
    (folder / "identity.key").write_bytes(name.encode().ljust(32, b"#"))
    (folder / "authority.pub").write_bytes(fleet.authority)
    (folder / "roster.bin").write_bytes(fleet.roster_bytes)
    (folder / "config.toml").write_text(settings)


def write_examples(path: Path, count: int = 60, seed: int = 0) -> None:
    """Write the first ``count`` digits, shuffled."""
    with np.load(DEMO_DATA / "digits.npz") as digits:
        chosen = np.random.default_rng(seed).permutation(len(digits["y"]))[:count]
        np.savez_compressed(path, x=digits["x"][chosen], y=digits["y"][chosen])


def base_vector(seed: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    return initial_weights(TASK.parameters, seed)


def offer_of(data: bytes, version: int = 0, **more: Any) -> ModelOffer:
    ref = describe(data)
    return ModelOffer(version=version, digest=ref.digest, whole=ref, **more)


def make_plan(fleet: Fleet, base: bytes, /, **changes: Any) -> Plan:
    """Return a plan for all devices, in force around ``NOW_MS``."""
    cohort = fleet.roster.names("device")
    mode = changes.get("mode", "hubs")
    named = fleet.roster.names("hub") if mode == "hubs" else ("coordinator",)
    values: dict[str, Any] = {
        "mode": mode,
        "fleet": FLEET,
        "round": 7,
        "task": TASK_REF.digest,
        "base": base,
        "roster": fleet.roster.digest,
        "cohort": cohort,
        "hubs": tuple(fleet.offer(name) for name in named),
        "codec": codec_plan(len(cohort)),
        "training": TrainingPlan(epochs=1, learning_rate=0.1, batch_size=16),
        "n_min": 3,
        "n_max": len(cohort),
        "quorum": 3,
        "patience_ms": 1000,
        "opens_ms": NOW_MS - 60_000,
        "closes_ms": NOW_MS + 60_000,
    }
    return Plan(**(values | changes))


def codec_plan(devices: int, **changes: Any) -> CodecPlan:
    dimension = TASK.dimension
    values: dict[str, Any] = {
        "name": "randk",
        "dimension": dimension,
        "kept": kept_for(dimension, 0.05),
        "clip_norm": 4.0,
        "clamp": 127,
        "ring_bits": ring_bits_for(devices, 127),
        "weight_cap": 150,
    }
    return CodecPlan(**(values | changes))


def envelope(sender: str = "coordinator", number: int = 1) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL_VERSION,
        "sender": sender,
        "message_id": number.to_bytes(8, "big"),
        "sent_ms": NOW_MS,
    }


def notice_of(fleet: Fleet, plan: Plan, signers: tuple[str, ...] | None = None) -> PlanNotice:
    data = encode_plan(plan)
    names = signers if signers is not None else ("coordinator", *(hub.hub for hub in plan.hubs))
    signatures = {name: fleet.identities[name].sign(plan_signing_bytes(data)) for name in names}
    return PlanNotice(**envelope(), plan=data, signatures=signatures)


def invitation_to(plan: Plan, model: ModelOffer, **changes: Any) -> Invitation:
    values: dict[str, Any] = {
        "round": plan.round,
        "plan_hash": plan_hash(encode_plan(plan)),
        "task": TASK_REF,
        "model": model,
    }
    return Invitation(**envelope(), **(values | changes))


def evaluate_of(number: int, model: ModelOffer) -> Evaluate:
    return Evaluate(**envelope(number=900 + number), round=number, task=TASK_REF, model=model)
