"""emostream.ingest.workers: the app is ready while a worker is."""

from __future__ import annotations

from multiprocessing import get_context

import pytest

from emostream.ingest.workers import Readiness
from emostream.process import STALE_AFTER_SECONDS, boot_seconds


def test_it_is_ready_while_one_of_its_workers_is() -> None:
    readiness = Readiness(2)
    assert not readiness.any()
    for worker, ready, expected in ((0, True, True), (1, True, True), (0, False, True), (1, False, False)):
        readiness.set(worker, ready)
        assert readiness.any() is expected


def test_a_worker_tells_it_from_its_own_process() -> None:
    readiness = Readiness(2)
    worker = get_context("fork").Process(target=readiness.set, args=(1, True))
    worker.start()
    worker.join(30)
    assert (worker.exitcode, readiness.any()) == (0, True)


def test_a_worker_that_says_nothing_any_more_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    readiness = Readiness(1)
    readiness.set(0, True)
    now = boot_seconds()
    monkeypatch.setattr("emostream.ingest.workers.boot_seconds", lambda: now + STALE_AFTER_SECONDS + 1)
    assert not readiness.any()
