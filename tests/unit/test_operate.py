"""emostream.operate: what it makes for the broker."""

from __future__ import annotations

import itertools
import uuid

import pytest

from emostream import operate


def test_a_cluster_id_never_looks_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    made = itertools.chain([b"\xfb" + bytes(15), b"\xfb" * 16], itertools.repeat(b"\x01" * 16))
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=next(made)))
    assert operate.new_cluster_id() == "AQEBAQEBAQEBAQEBAQEBAQ"
