"""emostream.settings: who is strongest, what is refused and how, what a shell may evaluate."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from dotenv import dotenv_values

from emostream import settings
from emostream.roles import subscribers
from emostream.settings import (
    DEFAULTS_FILE,
    REGISTRY_TOPIC,
    SECRETS,
    SETTING_NAMES,
    SettingError,
    from_environment,
    load,
)
from testkit.settings import PROJECT_DIR, settings_with


@pytest.mark.parametrize(("argument", "environment", "local"), list(itertools.product([True, False], repeat=3)))
def test_the_strongest_source_wins(argument: bool, environment: bool, local: bool, local_file: Path) -> None:
    local_file.write_text("LINGER_MS=3\n" if local else "")
    found = load(["LINGER_MS=1"] if argument else [], {"LINGER_MS": "2"} if environment else {})
    expected = 1 if argument else 2 if environment else 3 if local else 500
    assert found.linger_ms == expected


@pytest.mark.parametrize("name", ["LINGER_MS", "LINGER-MS", "linger-ms", "Linger_Ms"])
def test_dash_underscore_and_case_of_an_argument_are_alike(name: str) -> None:
    assert load([f"{name}=7"], {}).linger_ms == 7


def test_a_dollar_in_a_local_value_is_that_character(local_file: Path) -> None:
    local_file.write_text("DATA_DIR=a$HOME${HOME}\n")
    assert load([], {}).data_dir == "a$HOME${HOME}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LINGER_MS", "abc"),
        ("LINGER_MS", ""),
        ("LINGER_MS", "-1"),
        ("LINGER_MS", "0.5"),
        ("BATCH_SECONDS", "0"),
        ("BATCH_SECONDS", "nan"),
        ("ROUNDING", "round"),
        ("BROKERS", "2"),
        ("APP_PORT", "0"),
        ("ADVERTISED_URL", "fans.example.org"),
        ("ADVERTISED_URL", "ftp://fans.example.org"),
        ("ADVERTISED_URL", "/s/1-2"),
        ("ADVERTISED_URL", "http://fans.example.org/?x"),
        ("ADVERTISED_URL", "http://u:p@fans.example.org"),
        ("ADVERTISED_STREAM_URL", "s/1-2"),
        ("ADVERTISED_STREAM_URL", "//fans.example.org"),
        ("ADVERTISED_STREAM_URL", "https://fans.example.org/{number}"),
        ("ADVERTISED_STREAM_URL", "https://fans.example.org; script-src *"),
        ("PORT", "65536"),
        ("MAX_CLIENTS", "0"),
        ("PARTITIONS", "0"),
        ("EVENTS_PER_EMOJI", "0"),
        ("CLUSTER_TOPIC", "cluster4-emoji-topic"),
        ("MAIN_TOPIC", "main pub topic"),
        ("MAIN_TOPIC", "main-pub-topic\n"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092\n"),
        ("DATA_DIR", ""),
        ("MAX_CONCURRENT_REQUESTS", "0"),
        ("RATE_LIMIT_USER", "10"),
        ("RATE_LIMIT_USER", "0/second"),
        ("RATE_LIMIT_ADDRESS", "10/fortnight"),
        ("CORS_ORIGINS", "example.org"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "proxy"),
        ("EMOJIS", "😊,\x1b"),
        ("EMOJIS", "😊," + "x" * 65),
        ("ROOMS", "final,semi final"),
        ("ROOMS", "r" * 65),
        ("MAX_TAPS_PER_USER", "0"),
        ("MAX_TAPS_PER_USER", "many"),
        ("CLIENT_NETWORKS", "everything"),
        ("CLIENT_NETWORKS", "10.0.0.1/8"),
        ("VERIFY_CLIENTS", "2"),
        ("PUSH_SECRET", "whsec_c2hvcnQ="),
        ("PUSH_SECRET", "secret"),
        ("MAX_STREAMS", "-1"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("KAFKA_SASL_MECHANISM", "GSSAPI"),
        ("KAFKA_SASL_PASSWORD", "a\nb"),
        ("KAFKA_SSL_CA", "a\nb"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_the_setting(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"^{name}=.*expected") as refused:
        load([], {name: value})
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_be_in_a_file(name: str, tmp_path: Path, local_file: Path) -> None:
    secret = "whsec_" + "QUJD" * 8
    (tmp_path / "secret").write_text(f"{secret}\r\n")
    given = {f"{name}_FILE": f"{tmp_path}/secret"}
    assert getattr(load([], given), name.lower()) == secret
    assert getattr(load([f"{name}_FILE={tmp_path}/secret"], {}), name.lower()) == secret
    assert getattr(load([], given | {name: ""}), name.lower()) == secret
    assert getattr(load([f"{name}="], given), name.lower()) == ""
    local_file.write_text(f"{name}_FILE={tmp_path}/secret\n")
    assert getattr(load([], {}), name.lower()) == secret


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_set_twice_or_cannot_be_read_is_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"^{name} and {name}_FILE are both set: expected one of them$"):
        load([], {name: "x", f"{name}_FILE": "y"})
    with pytest.raises(SettingError, match=f"^{name}_FILE='{tmp_path}/none': expected a readable file"):
        load([], {f"{name}_FILE": f"{tmp_path}/none"})


def test_a_child_process_gets_the_secret_and_not_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("from a file")
    monkeypatch.setenv("API_KEY_FILE", f"{tmp_path}/secret")
    environment = load().environment
    assert "API_KEY_FILE" not in environment
    assert load([], environment).api_key == "from a file"


@pytest.mark.parametrize("name", SECRETS)
def test_no_message_shows_a_secret(name: str) -> None:
    shown = from_environment({name: "hidden", f"{name}_FILE": "a/file"})
    assert "hidden" not in shown
    assert f"{name}_FILE=a/file" in shown
    for arguments, environ in (([f"{name}X=hidden"], {}), ([], {name: "hidden\udcff"})):
        with pytest.raises(SettingError) as refused:
            load(arguments, environ)
        assert "hidden" not in str(refused.value)


def test_a_choice_may_be_in_any_case() -> None:
    found = settings_with(KAFKA_SECURITY_PROTOCOL="sasl_ssl", KAFKA_SASL_MECHANISM="scram-sha-256", ROUNDING="FLOOR")
    assert (found.kafka_security_protocol, found.kafka_sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-256")
    assert found.rounding == "floor"


@pytest.mark.parametrize("name", ["ROUNDING", "CLUSTER_TOPIC"])
def test_a_refused_choice_names_all_choices(name: str) -> None:
    choices = {"ROUNDING": ["ceil", "floor"], "CLUSTER_TOPIC": settings_with().cluster_topics}[name]
    with pytest.raises(SettingError, match=f"expected one of {', '.join(choices)}$"):
        load([f"{name}=x"], {})


def test_an_unknown_argument_comes_with_a_suggestion() -> None:
    with pytest.raises(SettingError, match="no setting LINGR_MS; did you mean LINGER_MS"):
        load(["LINGR-MS=5"], {})


def test_an_unknown_name_in_the_local_file_comes_with_a_suggestion(local_file: Path) -> None:
    local_file.write_text("ROUNDINGS=ceil\n")
    with pytest.raises(SettingError, match=r"\.env: there is no setting ROUNDINGS; did you mean ROUNDING"):
        load([], {})


def test_an_argument_without_a_value_is_refused() -> None:
    with pytest.raises(SettingError, match="'LINGER_MS': expected KEY=VALUE"):
        load(["LINGER_MS"], {})


def test_a_default_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = tmp_path / "emostream.env"
    defaults.write_text(DEFAULTS_FILE.read_text().replace("\nPORT=", "\n#"))
    monkeypatch.setattr(settings, "DEFAULTS_FILE", defaults)
    with pytest.raises(SettingError, match=r"^PORT is not set"):
        load([], {})


def test_the_defaults_file_holds_exactly_the_settings_there_are() -> None:
    assert sorted(dotenv_values(DEFAULTS_FILE)) == sorted(SETTING_NAMES)


def test_every_default_is_explained_above_it() -> None:
    lines = DEFAULTS_FILE.read_text().splitlines()
    bare = [line for above, line in itertools.pairwise(lines) if line[:1].isalpha() and not above.startswith("# ")]
    assert bare == []


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("linger_ms", 500),
        ("batch_seconds", 2),
        ("events_per_emoji", 1000),
        ("rounding", "ceil"),
        ("app_port", 5000),
        ("port", 8001),
        ("max_clients", 2),
        ("emoji_topic", "emoji-topic"),
        ("main_topic", "main-pub-topic"),
        ("data_path", PROJECT_DIR / ".data"),
    ],
)
def test_the_defaults_are_those_of_the_contract(name: str, default: object) -> None:
    assert getattr(settings_with(), name) == default


def test_subscribers_listen_on_the_ports_of_the_contract() -> None:
    expected = (7001, 7002, 7003, 7011, 7012, 7013, 7021, 7022, 7023)
    assert tuple(role.port for role in subscribers(settings_with())) == expected


@pytest.mark.parametrize(
    ("brokers", "named", "expected"),
    [
        (1, "localhost:9092", ["localhost:9092"]),
        (3, "localhost:9092", ["localhost:9092", "localhost:9094", "localhost:9096"]),
        (3, "a:1,b:2,c:3", ["a:1", "b:2", "c:3"]),
        (0, "kafka-1.example:9092,kafka-2.example:9093", ["kafka-1.example:9092", "kafka-2.example:9093"]),
    ],
)
def test_bootstrap_servers_are_those_named_or_all_that_run_here(brokers: int, named: str, expected: list[str]) -> None:
    assert settings_with(BROKERS=brokers, KAFKA_BOOTSTRAP_SERVERS=named).bootstrap_servers == expected


@pytest.mark.parametrize(("bound", "reached"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("h", "h")])
def test_a_server_bound_to_every_address_is_reached_by_loopback(bound: str, reached: str) -> None:
    assert settings_with(BIND_HOST=bound).client_host == reached


def test_every_cluster_has_a_topic() -> None:
    assert settings_with(CLUSTERS=1).topics == ("emoji-topic", "main-pub-topic", "cluster1-emoji-topic", REGISTRY_TOPIC)
    last = settings_with(CLUSTERS=12, CLUSTER_TOPIC="cluster12-emoji-topic")
    assert last.cluster_topics[-1] == last.cluster_topic
    assert last.cluster == 12


@pytest.mark.parametrize("name", ["SUBSCRIBER_BASE_PORT", "STREAM_BASE_PORT", "METRICS_BASE_PORT"])
def test_ports_beyond_the_last_one_are_refused(name: str) -> None:
    settings_with(CLUSTERS=3, **{name: 65_500})
    with pytest.raises(SettingError, match=f"^{name}: expected ports to 65535"):
        settings_with(CLUSTERS=40, **{name: 65_500})


def test_a_missing_cluster_topic_is_refused_with_the_choices() -> None:
    with pytest.raises(SettingError, match=r"^CLUSTER_TOPIC is not set.*cluster3-emoji-topic"):
        settings_with().required_cluster_topic()
