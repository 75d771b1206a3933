"""What a coordinator, a broker or a device may try in mode ``single``, each met with an error of its own.

The first half are the third, fourth, fifth and seventh assertions of the design (survivor sets, late vectors,
the bound of the ring, the weaknesses shown in another framework's SecAgg+).
"""

import os
import random
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from shoal_codecs.secagg.errors import SeedError
from shoal_codecs.secagg.prg import pair_mask_key, self_mask_key
from shoal_codecs.secagg.single import errors
from shoal_codecs.secagg.single.bundles import check_bundles
from shoal_codecs.secagg.single.device import SingleDevice
from shoal_codecs.secagg.single.device_messages import (
    DeliveryCame,
    DeviceState,
    Resumed,
    SayConsent,
    SayOpening,
    Split,
    SurvivorsNamed,
    UnmaskAsked,
)
from shoal_codecs.secagg.single.masking import unmask_sum
from shoal_codecs.secagg.single.neighbours import draw_neighbours, drawn_by
from shoal_codecs.secagg.single.opening import mask_edges_of
from shoal_codecs.secagg.single.parameters import (
    Neighbourhood,
    check_neighbourhood,
    complete_neighbourhood,
    mask_edges,
    neighbourhood,
)
from shoal_codecs.secagg.single.server import SingleServer
from shoal_codecs.secagg.single.server_messages import (
    ConsentCame,
    Deliver,
    GiveUp,
    OpenMasks,
    PublishedShares,
    ServerResumed,
    ServerTerms,
    ServerTick,
    SharesCame,
    VectorStored,
)
from shoal_codecs.secagg.single.sharing import open_delivery
from shoal_codecs.security.stream_cipher import StreamCipher
from shoal_codecs.updates.errors import RingOverflowError
from shoal_codecs.updates.ring import RingSpec, decode_sum, encode_ring
from shoal_codecs.wire.errors import InvalidPlanError
from shoal_codecs.wire.single import bitmap_of, names_in, prekey_id, prekey_signing_bytes
from single_bench import BITS, Cohort, SimulatedDevice, make_cohort, masked_sum, names, secret_bytes
from wire_parts import NOW_MS

COUNT = 8
MEMBERS = names(COUNT)


class Masked:
    """A cohort of which every device has masked its vector, and a server that knows all it is told."""

    def __init__(self, count: int = COUNT, length: int = 24, **changes: Any) -> None:
        self.cohort = make_cohort(count, **({"corrupt": 0.0} | changes))
        plan, draw = self.cohort.plan, np.random.default_rng(5)
        self.devices = {
            name: SimulatedDevice(
                self.cohort,
                name,
                draw.integers(0, 1 << BITS, length).astype(np.uint16),
                secret_bytes(place),
            )
            for place, name in enumerate(plan.cohort)
        }
        terms = ServerTerms(plan, self.cohort.plan_hash, self.cohort.prekeys, self.cohort.keys)
        self.server = SingleServer(terms)
        self.deliveries: dict[str, DeliveryCame] = {}
        for device in self.devices.values():
            for word in device.handle(Resumed()):
                for action in self.server.handle(word, NOW_MS):
                    if isinstance(action, Deliver):
                        self.deliveries[action.device] = DeliveryCame(
                            action.members, action.draws, action.boxes
                        )
        for name, delivery in self.deliveries.items():
            self.devices[name].handle(delivery)

    def split(self, *dead: str) -> Split:
        cohort = self.cohort.plan.cohort
        return Split(bitmap_of(set(cohort) - set(dead), cohort), bitmap_of(dead, cohort))

    def signatures(self, split: Split, *signers: str) -> dict[str, bytes]:
        chosen = signers or self.cohort.plan.cohort
        return {name: self.cohort.sign(name, split.alive, split.dead) for name in chosen}


@pytest.fixture(name="masked")
def _masked() -> Masked:
    return Masked()


# --- survivor sets ------------------------------------------------------------------------------


def bits(*chosen: str) -> bytes:
    return bitmap_of(chosen, MEMBERS)


@pytest.mark.parametrize(
    ("alive", "dead", "error"),
    [
        (bits(*MEMBERS), bits(MEMBERS[3]), errors.AliveAndDeadError),
        (bits(*MEMBERS[:-1]), bits(), errors.OtherMembersError),
        (bits(*MEMBERS[1:]), bits(MEMBERS[0]), errors.DeclaredDeadError),
        (bits(*MEMBERS[:5]), bits(*MEMBERS[5:]), errors.FewSurvivorsError),
    ],
)
def test_a_split_that_does_not_hold_is_refused(
    masked: Masked, alive: bytes, dead: bytes, error: type[Exception]
) -> None:
    device, split = masked.devices[MEMBERS[0]], Split(alive, dead)
    with pytest.raises(error):
        device.handle(SurvivorsNamed(split))
    assert device.kept.consent is None
    # Neither is it answered afterwards, whoever signed it.
    device.handle(SurvivorsNamed(masked.split()))
    with pytest.raises(error):
        device.machine.handle(UnmaskAsked(split, masked.signatures(split)))
    assert device.machine.state is DeviceState.CONSENTED


def test_members_too_few_to_hide_among_are_refused() -> None:
    masked = Masked()
    fresh = SingleDevice(
        masked.cohort.terms(MEMBERS[0]), replace_memory(masked, members=b"", neighbourly=None)
    )
    for chosen in (MEMBERS[:5], MEMBERS[1:]):
        with pytest.raises(errors.DeliveryError):
            fresh.handle(DeliveryCame(bits(*chosen), {}, {}))


def replace_memory(masked: Masked, **changes: Any) -> Any:
    return msgspec.structs.replace(masked.devices[MEMBERS[0]].kept, masked=False, **changes)


def test_a_second_list_of_members_is_refused(masked: Masked) -> None:
    device = masked.devices[MEMBERS[0]]
    delivery = masked.deliveries[MEMBERS[0]]
    assert device.handle(delivery) == []
    with pytest.raises(errors.SecondDeliveryError):
        device.handle(replace(delivery, members=bits(*MEMBERS[:7])))


def test_too_few_neighbours_alive_are_refused() -> None:
    # Seven neighbours each of twenty, five of whom open a secret: three dead neighbours are one too many.
    masked = Masked(20, n_min=15, found=Neighbourhood(7, 5), edges=5)
    name = names(20)[0]
    split = masked.split(*masked.cohort.neighbours(name)[:3])
    with pytest.raises(errors.FewNeighboursError, match="4 neighbours"):
        masked.devices[name].handle(SurvivorsNamed(split))


def test_two_sets_that_differ_by_one_device_are_never_both_consented_to(masked: Masked) -> None:
    device = masked.devices[MEMBERS[0]]
    assert len(device.handle(SurvivorsNamed(masked.split()))) == 1
    for life in range(2):
        with pytest.raises(errors.SecondConsentError):
            device.handle(SurvivorsNamed(masked.split(MEMBERS[5])))
        if life == 0:
            device.restart()
    # The same question again gets the same answer.
    assert len(device.handle(SurvivorsNamed(masked.split()))) == 1


def test_masks_are_opened_for_one_split_only(masked: Masked) -> None:
    device, split = masked.devices[MEMBERS[0]], masked.split()
    other = masked.split(MEMBERS[5])
    device.handle(SurvivorsNamed(split))
    with pytest.raises(errors.OtherSurvivorsError):
        device.handle(UnmaskAsked(other, masked.signatures(other)))
    first = device.machine.handle(UnmaskAsked(split, masked.signatures(split)))
    device.kept = device.machine.memory
    device.restart()
    again = device.machine.handle(UnmaskAsked(split, masked.signatures(split)))
    assert first[-1] == again[-1]
    assert isinstance(again[-1], SayOpening)
    with pytest.raises(errors.OtherSurvivorsError):
        device.handle(UnmaskAsked(other, masked.signatures(other)))


def test_a_second_opening_on_one_base_is_refused(masked: Masked) -> None:
    kept, split = masked.devices[MEMBERS[0]].kept, masked.split()
    spent = SingleDevice(masked.cohort.terms(MEMBERS[0], base_opened=True), kept)
    spent.handle(SurvivorsNamed(split))
    with pytest.raises(errors.SecondUnmaskError):
        spent.handle(UnmaskAsked(split, masked.signatures(split)))


def test_without_a_round_of_consistency_nothing_is_opened(masked: Masked) -> None:
    device, split = masked.devices[MEMBERS[0]], masked.split()
    single = masked.cohort.plan.single
    assert single is not None
    device.handle(SurvivorsNamed(split))
    signatures = masked.signatures(split)
    few = {name: signatures[name] for name in MEMBERS[: single.threshold]}
    forged = signatures | dict.fromkeys(MEMBERS[2:], signatures[MEMBERS[1]])
    elsewhere = masked.signatures(masked.split(MEMBERS[5]))
    # Its own signature does not count among its neighbours'.
    for shown in ({}, few, forged, elsewhere):
        with pytest.raises(errors.FewConsentsError):
            device.handle(UnmaskAsked(split, shown))
    assert not device.kept.released
    enough = {name: signatures[name] for name in MEMBERS[1 : single.threshold + 1]}
    assert device.handle(UnmaskAsked(split, enough))


def test_the_signature_of_somebody_called_dead_does_not_count(masked: Masked) -> None:
    device, split = masked.devices[MEMBERS[0]], masked.split(MEMBERS[5])
    single = masked.cohort.plan.single
    assert single is not None
    device.handle(SurvivorsNamed(split))
    shown = masked.signatures(split, *MEMBERS[1 : single.threshold], MEMBERS[5])
    assert len(shown) == single.threshold
    with pytest.raises(errors.FewConsentsError):
        device.handle(UnmaskAsked(split, shown))
    assert device.handle(UnmaskAsked(split, shown | masked.signatures(split, MEMBERS[6])))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_two_views_together_give_both_secrets_of_anybody(data: st.DataObject) -> None:
    """A coordinator with one corrupt device shows two sets to two groups of its choice."""
    masked = _shared_masked()
    cohort, corrupt = masked.cohort, MEMBERS[-1]
    honest = [name for name in MEMBERS if name != corrupt]
    splits = [
        masked.split(*data.draw(st.lists(st.sampled_from(honest), max_size=2, unique=True))) for _ in range(2)
    ]
    side = {name: data.draw(st.integers(0, 1)) for name in honest}
    machines = {name: SingleDevice(cohort.terms(name), masked.devices[name].kept) for name in honest}
    signed: list[dict[str, bytes]] = [masked.signatures(split, corrupt) for split in splits]
    for name, machine in machines.items():
        for turn in (side[name], 1 - side[name]):
            try:
                (*_, said) = machine.handle(SurvivorsNamed(splits[turn]))
            except errors.SurvivorError:
                continue
            assert isinstance(said, SayConsent)
            signed[turn] |= masked.signatures(splits[turn], name)
    seeds: dict[str, int] = dict.fromkeys(MEMBERS, 1)
    keys: dict[str, int] = dict.fromkeys(MEMBERS, 1)
    for machine in machines.values():
        for split, shown in zip(splits, signed, strict=True):
            try:
                (*_, said) = machine.handle(UnmaskAsked(split, shown))
            except errors.SingleError:
                continue
            assert isinstance(said, SayOpening)
            alive = set(names_in(split.alive, MEMBERS))
            for sender in names_in(said.opening.senders, MEMBERS):
                (seeds if sender in alive else keys)[sender] += 1
    single = cohort.plan.single
    assert single is not None
    both = [name for name in MEMBERS if seeds[name] >= single.threshold <= keys[name]]
    assert both == []
    # And all that can be opened is one set.
    opened = {
        frozenset(names_in(s.alive, MEMBERS)) for s, n in zip(splits, signed, strict=True) if len(n) > 5
    }
    assert len(opened) <= 1


_SHARED: list[Masked] = []


def _shared_masked() -> Masked:
    if not _SHARED:
        _SHARED.append(Masked(corrupt=0.125, n_min=6))
    return _SHARED[0]


# --- late vectors -------------------------------------------------------------------------------


def test_a_late_vector_of_a_dead_device_stays_uniform_to_the_server() -> None:
    """Everybody else's answer and its own mask key take the pair masks off; its seed still hides the rest."""
    masked = Masked(length=40_000)
    late, cohort = MEMBERS[0], masked.cohort
    vector = masked.devices[late].masked
    assert vector is not None
    known = vector.copy()
    server, others = masked.server, MEMBERS[1:]
    # What the dead device's key opens, are its pair masks with everybody.
    pairs = np.zeros_like(known)
    unmask_sum(
        pairs,
        BITS,
        seeds={},
        mask_privates={late: cohort.bundles[late].mask_private},
        edges=mask_edges_of(server.holders, len(others), others, [late]),
        plan=cohort.plan,
        plan_hash=cohort.plan_hash,
        prekeys=cohort.prekeys,
    )
    known -= pairs
    update = masked.devices[late].words
    counts = np.bincount(np.frombuffer(known.tobytes(), np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-6
    assert abs(np.corrcoef(known.astype(float), update.astype(float))[0, 1]) < 0.03
    # With the seed, which nobody gives for the dead, it would be read: the test looks at the right thing.
    seed = masked.devices[late].kept.shares
    assert seed is not None
    unmask_sum(
        known,
        BITS,
        seeds={late: seed.seed},
        mask_privates={},
        edges={},
        plan=cohort.plan,
        plan_hash=cohort.plan_hash,
        prekeys=cohort.prekeys,
    )
    assert np.array_equal(known, update)


def test_a_vector_that_comes_after_the_survivors_were_named_is_not_counted(masked: Masked) -> None:
    split = masked.split(MEMBERS[0])
    for name in MEMBERS[1:]:
        (*_, said) = masked.devices[name].machine.handle(SurvivorsNamed(split))
        assert isinstance(said, SayConsent)
        (*_, opening) = masked.devices[name].machine.handle(UnmaskAsked(split, masked.signatures(split)))
        assert isinstance(opening, SayOpening)
        place = names_in(opening.opening.senders, MEMBERS).index(MEMBERS[0])
        given = opening.opening.shares[32 * place : 32 * place + 32]
        held = masked.devices[name].kept.neighbourly
        assert held is not None
        # Of the dead device, the share of the mask key goes out and that of the seed never does.
        assert given == held.held[MEMBERS[0]][32:] != held.held[MEMBERS[0]][:32]


def test_masks_that_can_be_opened_are_opened_by_a_coordinator_that_comes_back_late(masked: Masked) -> None:
    """Devices have opened them for this sum and do so for no other."""
    server, split = masked.server, masked.split()
    for name in MEMBERS:
        server.handle(VectorStored(name), NOW_MS)
    for name in MEMBERS:
        server.handle(ConsentCame(name, masked.signatures(split)[name]), NOW_MS)
    for name in MEMBERS:
        device = masked.devices[name]
        device.handle(SurvivorsNamed(split))
        for word in device.handle(UnmaskAsked(split, masked.signatures(split))):
            server.handle(word, NOW_MS)
    assert len(server.memory.answers) == COUNT
    closed_ms = masked.cohort.plan.closes_ms + 1
    again = SingleServer(server.terms, server.memory)
    assert again.handle(ServerResumed(), closed_ms) == (OpenMasks(MEMBERS, ()),)
    few = replace(server.memory, answers={})
    (given_up,) = SingleServer(server.terms, few).handle(ServerTick(), closed_ms)
    assert isinstance(given_up, GiveUp)


def test_a_masked_vector_is_uniform() -> None:
    wide = Masked(length=40_000)
    for device in wide.devices.values():
        assert device.masked is not None
        counts = np.bincount(np.frombuffer(device.masked.tobytes(), np.uint8), minlength=256)
        assert chisquare(counts).pvalue > 1e-6


# --- the bound of the ring ----------------------------------------------------------------------


@pytest.mark.parametrize("level", [-1.0, 1.0])
def test_every_device_at_the_clamp_sums_exactly_through_the_masks(level: float) -> None:
    count, bits = 8, 16
    clamp = ((1 << (bits - 1)) - 1) // count
    spec = RingSpec(
        dimension=12,
        kept=12,
        clip_norm=1e6,
        clamp=clamp,
        ring_bits=bits,
        n_max=count,
        weight_cap=150,
        seed=bytes(32),
        range_factor=1e-3,
    )
    masked = Masked(count, length=spec.words)
    update = np.full(12, level * 1e6, dtype=np.float32)
    rng = np.random.default_rng(0)
    for device in masked.devices.values():
        words = encode_ring(update, 10_000, spec, rng)
        assert device.masked is not None
        # The masks are the same whatever lies beneath them.
        device.masked += words - device.words
    total = masked_sum(device.masked for device in masked.devices.values())
    shares = {name: one.kept.shares for name, one in masked.devices.items()}
    unmask_sum(
        total,
        bits,
        seeds={name: one.seed for name, one in shares.items() if one is not None},
        mask_privates={},
        edges={},
        plan=masked.cohort.plan,
        plan_hash=masked.cohort.plan_hash,
        prekeys=masked.cohort.prekeys,
    )
    lifted = decode_sum(total, spec)
    assert set(lifted.q.tolist()) == {int(level) * count * clamp}
    assert lifted.weight == count * 150
    with pytest.raises(RingOverflowError):
        replace(spec, n_max=count + 1, clamp=clamp + 1)


# --- weaknesses that do not exist here ----------------------------------------------------------


def test_seeds_have_256_bits(masked: Masked) -> None:
    for short in (b"", bytes(4), bytes(31)):
        with pytest.raises(SeedError):
            self_mask_key(short, bytes(32), "device-001", StreamCipher.CHACHA20)
        with pytest.raises(SeedError):
            pair_mask_key(short, bytes(32), "device-001", "device-002", StreamCipher.CHACHA20)
    seeds = {one.kept.shares.seed for one in masked.devices.values() if one.kept.shares}
    assert {len(seed) for seed in seeds} == {32}
    assert len(seeds) == COUNT


def test_keys_nobody_signed_are_refused(masked: Masked) -> None:
    cohort = masked.cohort
    first, second, *rest = cohort.prekeys
    foreign = msgspec.structs.replace(first, signature=second.signature)
    with pytest.raises(errors.BundleSignatureError):
        check_bundles(cohort.plan, (foreign, second, *rest), cohort.roster)
    swapped = msgspec.structs.replace(first, mask_key=os.urandom(32))
    with pytest.raises(errors.BundleMismatchError):
        check_bundles(cohort.plan, (swapped, second, *rest), cohort.roster)
    with pytest.raises(errors.BundleMismatchError):
        check_bundles(cohort.plan, (first, second), cohort.roster)
    stranger = make_cohort(COUNT, corrupt=0.0, seed=9)
    with pytest.raises(errors.BundleSignatureError):
        check_bundles(stranger.plan, stranger.prekeys, cohort.roster)


def test_one_key_in_two_places_is_refused() -> None:
    cohort = make_cohort(COUNT, corrupt=0.0)
    shared = cohort.bundles[MEMBERS[0]].prekey
    signed = _signed_again(cohort, MEMBERS[1], mask_key=shared.mask_key)
    keys = (shared, signed, *cohort.prekeys[2:])
    with pytest.raises(errors.RepeatedKeyError):
        check_bundles(_naming(cohort, keys), keys, cohort.roster)


@pytest.mark.parametrize("field", ["seal_key", "draw"])
def test_nothing_else_of_a_bundle_stands_in_two_places(field: str) -> None:
    cohort = make_cohort(COUNT, corrupt=0.0)
    shared = cohort.bundles[MEMBERS[0]].prekey
    keys = (shared, _signed_again(cohort, MEMBERS[1], **{field: getattr(shared, field)}), *cohort.prekeys[2:])
    with pytest.raises(errors.RepeatedKeyError):
        check_bundles(_naming(cohort, keys), keys, cohort.roster)


def _signed_again(cohort: Cohort, device: str, **changes: bytes) -> Any:
    changed = msgspec.structs.replace(cohort.bundles[device].prekey, **changes)
    signed = prekey_signing_bytes(cohort.plan.fleet, device, changed)
    return msgspec.structs.replace(changed, signature=cohort.identities[device].sign(signed))


def _naming(cohort: Cohort, keys: Any) -> Any:
    single = cohort.plan.single
    assert single is not None
    ids = tuple(prekey_id(cohort.plan.fleet, device, key) for device, key in zip(MEMBERS, keys, strict=True))
    return msgspec.structs.replace(cohort.plan, single=msgspec.structs.replace(single, prekeys=ids))


def test_a_cohort_of_two_is_refused_when_planned_and_by_every_device() -> None:
    with pytest.raises(errors.NeighbourhoodError):
        complete_neighbourhood(2, 0.0, 0.0)
    with pytest.raises(errors.WeakNeighbourhoodError):
        check_neighbourhood(2, Neighbourhood(1, 1), 1, 0.0, 0)
    with pytest.raises(InvalidPlanError, match="sum of 2 devices"):
        make_cohort(2, found=Neighbourhood(1, 1), edges=1, n_min=2)


# --- boxes, draws, the graph --------------------------------------------------------------------


def opened(masked: Masked, device: str, **changes: Any) -> Any:
    cohort, delivery = masked.cohort, masked.deliveries[device]
    fields = {"members": delivery.members, "draws": delivery.draws, "boxes": delivery.boxes} | changes
    return open_delivery(
        cohort.bundles[device], device, cohort.plan, cohort.plan_hash, cohort.prekeys, **fields
    )


def test_a_box_for_somebody_else_gives_no_share_and_stops_nobody(masked: Masked) -> None:
    boxes = dict(masked.deliveries[MEMBERS[0]].boxes)
    others = masked.deliveries[MEMBERS[1]].boxes
    boxes |= {MEMBERS[2]: others[MEMBERS[2]], MEMBERS[3]: bytes(80), MEMBERS[4]: boxes[MEMBERS[5]]}
    found = opened(masked, MEMBERS[0], boxes=boxes)
    assert found.unopened == MEMBERS[2:5]
    assert set(found.held) == {MEMBERS[1], *MEMBERS[5:]}
    assert set(found.peers) == set(MEMBERS[1:])


def test_a_nonce_that_was_not_committed_to_is_refused(masked: Masked) -> None:
    draws = dict(masked.deliveries[MEMBERS[0]].draws) | {MEMBERS[3]: bytes(32)}
    with pytest.raises(errors.DrawError):
        opened(masked, MEMBERS[0], draws=draws)
    shares = masked.server.memory.shares[MEMBERS[3]]
    fresh = SingleServer(masked.server.terms)
    with pytest.raises(errors.DrawError):
        fresh.handle(SharesCame(MEMBERS[3], PublishedShares(bytes(32), shares.seed, shares.boxes)), NOW_MS)
    assert not fresh.memory.shares


def test_boxes_from_outside_the_members_are_refused(masked: Masked) -> None:
    with pytest.raises(errors.DeliveryError):
        opened(masked, MEMBERS[0], members=bits(*MEMBERS[:7]))
    with pytest.raises(errors.DeliveryError):
        opened(masked, MEMBERS[0], draws={})


def test_a_box_from_somebody_who_did_not_draw_this_device_is_refused() -> None:
    masked = Masked(20, n_min=15, found=Neighbourhood(7, 4), edges=5)
    name = names(20)[0]
    stranger = next(one for one in names(20)[1:] if name not in masked.cohort.neighbours(one))
    delivery = masked.deliveries[name]
    nonce = masked.cohort.bundles[stranger].nonce
    with pytest.raises(errors.DeliveryError, match="did not draw"):
        opened(
            masked,
            name,
            draws={**delivery.draws, stranger: nonce},
            boxes={**delivery.boxes, stranger: bytes(80)},
        )


def test_nobody_s_silence_changes_whom_another_drew() -> None:
    """A graph from common randomness could be searched by whoever may withhold a part of it."""
    cohort = make_cohort(20, n_min=15, found=Neighbourhood(7, 4), edges=5)
    drawn = {name: cohort.neighbours(name) for name in names(20)}
    for name, others in drawn.items():
        assert len(set(others)) == 7
        assert name not in others
        key = cohort.bundles[name]
        assert drawn_by(name, key.nonce, key.prekey, cohort.plan, cohort.plan_hash) == others
    # Every draw hangs on its own nonce and on the plan, which is fixed before any nonce is shown.
    again = make_cohort(20, n_min=15, found=Neighbourhood(7, 4), edges=5, round=8)
    assert {name: again.neighbours(name) for name in names(20)} != drawn


def test_draws_are_uniform() -> None:
    cohort = make_cohort(12, n_min=9)
    counts: dict[str, int] = dict.fromkeys(names(12)[1:], 0)
    chance = random.Random(4)
    for _ in range(3_000):
        for one in draw_neighbours(chance.randbytes(32), cohort.plan_hash, names(12)[0], names(12), 3):
            counts[one] += 1
    assert chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("count", [70, 100, 400, 1000])
def test_a_coordinator_that_chooses_the_dead_cannot_lay_a_device_bare(count: int) -> None:
    """It must leave a threshold of neighbours alive; the rest and the corrupt are not all of the masks."""
    found = neighbourhood(count, 0.1, 0.1)
    edges = mask_edges(count, 0.1, found)
    check_neighbourhood(count, found, edges, 0.1, round(0.1 * count))
    killed = found.neighbours - found.threshold
    for weaker in (
        (replace(found, threshold=found.threshold - 1), edges),
        (found, edges - 1),
        (replace(found, neighbours=found.neighbours // 2, threshold=found.threshold // 2), edges // 2),
    ):
        with pytest.raises(errors.WeakNeighbourhoodError):
            check_neighbourhood(count, *weaker, 0.1, round(0.1 * count))
    draw = np.random.default_rng(count)
    corrupt = round(0.1 * count)
    among = draw.hypergeometric(corrupt, count - 1 - corrupt, edges, 10_000)
    assert (edges - killed - among).min() >= 1


def test_a_complete_graph_keeps_what_it_promises() -> None:
    for count in (4, 10, 33, 64):
        found = complete_neighbourhood(count, 0.1, 0.2)
        corrupt = round(0.1 * count)
        assert found.neighbours == count - 1 == mask_edges(count, 0.1, found)
        # Two sets of signers without an honest device in common do not fit into the cohort.
        assert 2 * found.threshold > found.neighbours + corrupt
        check_neighbourhood(count, found, found.neighbours, 0.1, round(0.2 * count))
        with pytest.raises(errors.WeakNeighbourhoodError):
            check_neighbourhood(
                count, replace(found, threshold=found.threshold - 1), found.neighbours, 0.1, 0
            )


# --- what devices may try with the coordinator --------------------------------------------------


def test_words_that_do_not_fit_are_refused_by_the_coordinator(masked: Masked) -> None:
    server, shares = masked.server, masked.server.memory.shares[MEMBERS[0]]
    with pytest.raises(errors.OutsideCohortError):
        server.handle(SharesCame("device-999", shares), NOW_MS)
    with pytest.raises(errors.SecondWordError):
        server.handle(SharesCame(MEMBERS[0], msgspec.structs.replace(shares, seed=bytes(32))), NOW_MS)
    with pytest.raises(errors.UnlistedSingleEventError):
        server.handle(ConsentCame(MEMBERS[0], bytes(64)), NOW_MS)
    fresh = SingleServer(server.terms)
    for boxes in (shares.boxes[1:], (b"short", *shares.boxes[1:])):
        with pytest.raises(errors.InvalidSharesError):
            fresh.handle(SharesCame(MEMBERS[0], msgspec.structs.replace(shares, boxes=boxes)), NOW_MS)
