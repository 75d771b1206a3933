"""Who drew whom, and who has enough signatures: kept up as words come, the same as counted anew each time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.secagg.single.server_counts import Consents, drawers_of

NAMES = tuple(f"device-{place}" for place in range(9))
HOLDERS = st.fixed_dictionaries(
    {
        name: st.permutations([other for other in NAMES if other != name]).map(lambda drawn: tuple(drawn[:5]))
        for name in NAMES
    }
)
SOME = st.lists(st.sampled_from(NAMES), unique=True)


@settings(deadline=None, max_examples=100)
@given(HOLDERS, SOME)
def test_drawers_are_the_members_that_drew_a_member(
    holders: dict[str, tuple[str, ...]], members: list[str]
) -> None:
    found = drawers_of(holders, members)
    assert found == {
        device: [(one, holders[one].index(device)) for one in members if device in holders[one]]
        for device in members
    }


@settings(deadline=None, max_examples=100)
@given(HOLDERS, SOME, st.integers(1, 5))
def test_ready_is_who_signed_and_can_be_shown_a_threshold(
    holders: dict[str, tuple[str, ...]], signing: list[str], threshold: int
) -> None:
    consents = Consents(drawers_of(holders, NAMES), threshold)
    for count, device in enumerate(signing, start=1):
        consents.add(device)
        signed = set(signing[:count])
        assert consents.ready.keys() == {
            one for one in signed if len(signed.intersection(holders[one])) >= threshold
        }
