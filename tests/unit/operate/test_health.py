"""emostream health: what the HEALTHCHECK of a container says."""

from __future__ import annotations

from pathlib import Path

import pytest

from emostream.operate.health import health
from emostream.process import Heartbeat
from testkit.settings import settings_with


def test_it_is_not_healthy_before_a_process_has_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert health(settings_with(DATA_DIR=tmp_path)) == 1
    assert capsys.readouterr().out.startswith("no process has begun")


def test_it_is_healthy_while_every_process_is_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_with(DATA_DIR=tmp_path)
    app, subscriber = Heartbeat(settings, "app"), Heartbeat(settings, "subscriber_1_1")
    app.beat()
    subscriber.beat()
    assert (health(settings), capsys.readouterr().out) == (0, "")
    subscriber.not_ready("no broker")
    assert (health(settings), capsys.readouterr().out) == (1, "subscriber_1_1 is not ready: no broker\n")


def test_an_old_heartbeat_does_not_count(tmp_path: Path) -> None:
    settings = settings_with(DATA_DIR=tmp_path)
    Heartbeat(settings, "app").beat()
    (tmp_path / "run" / "app.ready").write_text("7 1.000")
    assert health(settings) == 1
