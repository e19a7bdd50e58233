"""emostream.operate.commands and kafka: ports that are taken, and the id of a cluster."""

from __future__ import annotations

import os
import pwd
import resource
import secrets
from pathlib import Path

import pytest

from emostream.operate import kafka
from emostream.operate.commands import check_ports, system_problem
from emostream.operate.kafka import prepare_brokers
from emostream.roles import roles
from emostream.settings import SettingError
from testkit.http_servers import Answer, http_server
from testkit.settings import settings_with


def test_a_cluster_id_never_looks_like_an_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(secrets, "token_urlsafe", lambda _size: "-QEBAQEBAQEBAQEBAQEBAQ")
    monkeypatch.setattr(kafka, "java", lambda: "true")
    prepare_brokers(settings_with(DATA_DIR=tmp_path))
    assert (tmp_path / "kafka" / "cluster.id").read_text() == "EQEBAQEBAQEBAQEBAQEBAQ"


def test_a_port_of_metrics_that_is_taken_is_found_before_anything_starts() -> None:
    with http_server(lambda _: Answer()) as other:
        for name, base_port in (("main_publisher", other.port), ("cluster_publisher_3", other.port - 3)):
            started = [role for role in roles(settings_with(METRICS_BASE_PORT=base_port)) if role.name == name]
            with pytest.raises(SettingError, match=f"^METRICS_BASE_PORT: cannot listen on 127.0.0.1:{other.port}"):
                check_ports(started)


@pytest.mark.parametrize(
    ("changed", "both"),
    [
        ({"CLUSTERS": 2, "SUBSCRIBERS": 11}, "subscriber_1_11 and subscriber_2_1 would both listen on port"),
        ({"SUBSCRIBER_PORT": 7001}, "subscriber_1_1 and subscriber_1_2 would both listen on port 7001"),
    ],
)
def test_two_processes_that_need_one_port_are_found_before_anything_starts(changed: dict[str, int], both: str) -> None:
    with pytest.raises(SettingError, match=f"^SUBSCRIBER_(BASE_)?PORT: {both}"):
        check_ports(roles(settings_with(**changed)))


@pytest.mark.parametrize(("files", "refused"), [(64, True), (256, True), (1023, True), (1024, False), (-1, False)])
def test_too_few_files_are_one_sentence_that_says_how_many_are_needed(
    files: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (16, files))
    problem = system_problem()
    assert (problem is not None) == refused
    assert not problem or f"may open {files} files here (ulimit -Hn), and EmoStream needs 1024" in problem


def test_a_user_without_a_name_is_told_that_spark_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system_problem() is None
    unused = next(uid for uid in range(60_000, 65_000) if uid not in {user.pw_uid for user in pwd.getpwall()})
    monkeypatch.setattr(os, "geteuid", lambda: unused)
    assert system_problem() == (
        f"The user with the number {unused} has no name here, and Spark needs one: add it to /etc/passwd."
    )
