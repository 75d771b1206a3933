import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal_codecs.wire.errors import InvalidNameError, InvalidTopicError
from shoal_codecs.wire.topics import SINGLE_PHASES, Address, Topics, check_name

TOPICS = Topics("herd")
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)


@given(NAMES, NAMES)
def test_every_topic_that_is_made_is_parsed_to_whose_it_is(device: str, hub: str) -> None:
    assert TOPICS.parse(TOPICS.receipt(device, hub)) == Address("devices", device, "receipts", hub)
    assert TOPICS.parse(TOPICS.report(hub, device)) == Address("hubs", hub, "reports", device)
    for part in ("status", "heartbeat", "events", "commands"):
        assert TOPICS.parse(TOPICS.device(device, part)) == Address("devices", device, part)
    for part in ("status", "control", "events"):
        assert TOPICS.parse(TOPICS.hub(hub, part)) == Address("hubs", hub, part)
    assert TOPICS.parse(TOPICS.prekeys(device)) == Address("prekeys", device, "prekeys")
    for phase in SINGLE_PHASES:
        assert TOPICS.parse(TOPICS.single(7, phase, device)) == Address("rounds", "7", phase, device)


def test_topics_without_a_party_are_parsed_too() -> None:
    assert TOPICS.parse(TOPICS.round(7)) == Address("rounds", "7", "plan")
    assert TOPICS.parse(TOPICS.blob("ab" * 32, 3)) == Address("blobs", "ab" * 32, "3")
    for part in ("beacon", "status", "events", "commands"):
        assert TOPICS.parse(TOPICS.coordinator(part)) == Address("coordinator", "coordinator", part)


@pytest.mark.parametrize(
    "name", ["", "Ä", "A", "-a", ".a", "a b", "a/b", "+", "#", "a" * 65, "a\n", "a\x1b[31m", "device\u202e"]
)
def test_names_that_cannot_stand_in_a_topic_are_refused(name: str) -> None:
    with pytest.raises(InvalidNameError, match="1 to 64"):
        check_name(name)
    with pytest.raises(InvalidNameError):
        Topics(name)
    for topic in (
        TOPICS.device(name, "heartbeat"),
        TOPICS.report("hub-1", name),
        TOPICS.report(name, "d"),
        TOPICS.prekeys(name),
        TOPICS.single(7, "shares", name),
    ):
        with pytest.raises(InvalidTopicError):
            TOPICS.parse(topic)


@pytest.mark.parametrize("prefix", ["/", "a//b", "a/", "/a", "a/+", "#", "a b"])
def test_a_prefix_that_would_be_a_filter_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidNameError, match="prefix"):
        Topics("herd", prefix)


def test_signatures_do_not_see_the_prefix() -> None:
    bridged = Topics("herd", "site-7/farm/shoal")
    assert bridged.relative(bridged.round(7)) == TOPICS.relative(TOPICS.round(7)) == "rounds/7"


@given(*[st.tuples(NAMES, st.sampled_from(["", "site/a", "site", "a.b/c"]), NAMES)] * 2)
@example(("a", "", "b.c"), ("a.b", "", "c"))
@example(("a", "x/y", "b"), ("a", "x", "y"))
def test_no_two_parties_of_a_broker_have_one_client_id(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    """Nor do those of one name in two fleets; wildcards and '/' are in none."""
    ids = [Topics(fleet, prefix).client_id(party) for fleet, prefix, party in (one, other)]
    topics = [Topics(fleet, prefix).device(party, "status") for fleet, prefix, party in (one, other)]
    assert (ids[0] == ids[1]) is (topics[0] == topics[1])
    assert not set("+#/") & set(ids[0])


@given(st.text(max_size=60) | st.text("abdehstuvc/+#-1", max_size=40))
@example("devices/d/status/x")
@example("hubs/h/reports/0")
@example("rounds/7/single/shares")
@example("rounds/7/single/masked/d")
@example("devices")
def test_any_other_topic_is_a_named_fault(rest: str) -> None:
    for topic in (rest, TOPICS.prefix + rest, f"{TOPICS.prefix}/{rest}"):
        with contextlib.suppress(InvalidTopicError):
            address = TOPICS.parse(topic)
            assert address.kind in {"devices", "hubs", "rounds", "blobs", "prekeys", "coordinator"}
    with pytest.raises(InvalidTopicError):
        TOPICS.parse("shoal/other/" + rest)
