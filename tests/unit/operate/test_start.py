"""emostream.operate.commands and kafka: ports that are taken, and the id of a cluster."""

from __future__ import annotations

import itertools
import uuid

import pytest

from emostream.operate.commands import check_ports
from emostream.operate.kafka import new_cluster_id
from emostream.roles import roles
from emostream.settings import SettingError
from testkit.http_servers import Answer, http_server
from testkit.settings import settings_with


def test_a_cluster_id_never_looks_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    made = itertools.chain([b"\xfb" + bytes(15), b"\xfb" * 16], itertools.repeat(b"\x01" * 16))
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=next(made)))
    assert new_cluster_id() == "AQEBAQEBAQEBAQEBAQEBAQ"


def test_a_port_of_metrics_that_is_taken_is_found_before_anything_starts() -> None:
    with http_server(lambda _: Answer()) as other:
        for name, base_port in (("main_publisher", other.port), ("cluster_publisher_3", other.port - 3)):
            started = [role for role in roles(settings_with(METRICS_BASE_PORT=base_port)) if role.name == name]
            with pytest.raises(SettingError, match=f"^METRICS_BASE_PORT: cannot listen on 127.0.0.1:{other.port}"):
                check_ports(started)
