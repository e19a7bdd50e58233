"""emostream.ingest.producer.Receipt: knows when the broker has all records, even if nobody waits any more."""

from __future__ import annotations

import asyncio

import pytest

from emostream.ingest.producer import Receipt


def test_it_is_done_when_no_record_is_missing_and_none_follows() -> None:
    receipt = Receipt()
    receipt.add(2)
    receipt.add(-1)
    done = receipt.closed()
    assert not done.done()
    receipt.add(-1)
    assert done.done()


def test_a_record_that_arrives_after_the_waiter_gave_up_raises_nothing() -> None:
    receipt = Receipt()
    receipt.add(1)
    done = receipt.closed()

    async def wait() -> None:
        await asyncio.wait_for(asyncio.wrap_future(done), timeout=0.01)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(wait())
    receipt.add(-1)  # as librdkafka's thread does; it must not raise
    assert done.done()
