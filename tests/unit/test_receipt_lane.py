from shoal_codecs.transport.messages import Publication
from shoal_coordinator.hub.receipt_lane import ReceiptLane


async def test_a_device_that_repeats_itself_fills_no_memory() -> None:
    lane = ReceiptLane()
    for number in range(10_000):
        lane.put((f"topic-{number % 3}", 1, b"id"), Publication("t", str(number).encode()))
    assert len(lane) == 3
    assert [(await lane.get()).payload for _ in range(3)] == [b"9999", b"9997", b"9998"]
    lane.put(("topic-0", 1, b"id"), Publication("t", b"again"))
    assert (await lane.get()).payload == b"again"
    assert not lane
