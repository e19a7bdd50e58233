"""emostream.ingest.receipts: answers that wait until the broker has all records, and no longer than ACK_SECONDS."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from emostream.http.messages import Answer
from emostream.ingest import refusals
from emostream.ingest.receipts import Receipt, Receipts

GOOD, LATE = Answer(200, b""), Answer(503, b"")


def late() -> Answer:
    return LATE


def test_an_answer_waits_until_no_record_is_missing() -> None:
    async def ask() -> None:
        receipts = Receipts()
        receipt = receipts.new()
        receipt.add(2)
        receipt.add(-1)
        answered = receipts.wait(receipt, GOOD, late)
        await asyncio.sleep(0.01)
        assert not answered.done()
        receipt.add(-1)
        assert await answered is GOOD

    asyncio.run(ask())


def test_all_records_may_arrive_before_the_answer_waits() -> None:
    async def ask() -> None:
        receipts = Receipts()
        receipt = receipts.new()
        receipt.add(1)
        receipt.add(-1)
        assert await receipts.wait(receipt, GOOD, late) is GOOD

    asyncio.run(ask())


def test_an_answer_that_waits_for_too_long_says_so_and_the_others_wait_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        receipts = Receipts()
        monkeypatch.setattr(refusals, "ACK_SECONDS", 0.01)
        old = receipts.new()
        old.add(1)
        gives_up = receipts.wait(old, GOOD, late)
        monkeypatch.setattr(refusals, "ACK_SECONDS", 60)
        young = receipts.new()
        young.add(1)
        waits = receipts.wait(young, GOOD, late)
        assert await gives_up is LATE
        old.add(-1)  # the record arrives after all; this must not raise
        young.add(-1)
        assert await waits is GOOD

    asyncio.run(ask())


def test_also_the_answers_after_one_that_was_too_late_wait_only_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "ACK_SECONDS", 0.01)

    async def ask() -> None:
        receipts = Receipts()
        for _ in range(3):
            receipt = receipts.new()
            receipt.add(1)
            assert await receipts.wait(receipt, GOOD, late) is LATE

    asyncio.run(ask())


def test_records_that_arrive_in_another_thread_while_others_are_sent_are_all_answered() -> None:
    answers = 5_000

    async def ask() -> None:
        receipts, made = Receipts(), list[Receipt]()
        waiting = []

        def arrive() -> None:
            for number in range(answers):
                while number >= len(made):
                    time.sleep(0)
                made[number].add(-1)

        thread = threading.Thread(target=arrive)
        thread.start()
        for _ in range(answers):
            receipt = receipts.new()
            receipt.add(1)
            waiting.append(receipts.wait(receipt, GOOD, late))
            made.append(receipt)
            if len(made) % 50 == 0:
                await asyncio.sleep(0)
        assert await asyncio.wait_for(asyncio.gather(*waiting), 30) == [GOOD] * answers
        thread.join()

    asyncio.run(ask())


def test_a_record_that_arrives_after_the_loop_has_ended_raises_nothing() -> None:
    async def ask() -> Receipt:
        receipts = Receipts()
        receipt = receipts.new()
        receipt.add(1)
        receipts.wait(receipt, GOOD, late)
        return receipt

    asyncio.run(ask()).add(-1)
