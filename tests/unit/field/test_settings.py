"""Settings as people and platforms write them: in lists, as numbers, in .env, in the environment, as a path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emostream import settings
from emostream.roles import broker
from emostream.settings import SettingError, from_environment, load
from testkit.logs import logged
from testkit.scripts import run_python

NETWORKS = "127.0.0.0/8,10.0.0.0/8"

TAKEN = [
    ("KAFKA_BOOTSTRAP_SERVERS", "[::1]:9092", "[::1]:9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", "b1:9092, b2:9092", "b1:9092,b2:9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", "b1:9092,", "b1:9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", " b1:9092 ,,\t[2001:DB8::1]:9093 ", "b1:9092,[2001:DB8::1]:9093"),
    ("KAFKA_BOOTSTRAP_SERVERS", "[fe80::1%eth0]:9092", "[fe80::1%eth0]:9092"),
    ("CORS_ORIGINS", "https://a.org/", "https://a.org"),
    ("CORS_ORIGINS", "https://A.org/, http://b.org:8080", "https://a.org,http://b.org:8080"),
    ("CORS_ORIGINS", "HTTPS://a.org:443,http://b.org:80/", "https://a.org,http://b.org"),
    ("CORS_ORIGINS", "http://[::1]:3000,", "http://[::1]:3000"),
    ("CORS_ORIGINS", " * ", "*"),
    ("CORS_ORIGINS", "", ""),
    ("EMOJIS", "😊, 😂 ,❤️,", "😊,😂,❤️"),
    ("TRUSTED_PROXIES", "10.0.0.1, 10.1.0.0/16,", "10.0.0.1,10.1.0.0/16"),
    ("TRUSTED_PROXIES", "::1", "::1"),
    ("CLIENT_NETWORKS", "127.0.0.0/8, ::1/128 ,", "127.0.0.0/8,::1/128"),
    ("LINGER_MS", " 5", 5),
    ("LINGER_MS", "5 ", 5),
    ("LINGER_MS", "05", 5),
    ("LINGER_MS", "000", 0),
    ("BATCH_SECONDS", "0.50", 0.5),
    ("BATCH_SECONDS", "02", 2.0),
    ("VERIFY_CLIENTS", "true", 1),
    ("VERIFY_CLIENTS", "Yes", 1),
    ("VERIFY_CLIENTS", "ON", 1),
    ("VERIFY_CLIENTS", "False", 0),
    ("VERIFY_CLIENTS", "no", 0),
    ("VERIFY_CLIENTS", "off ", 0),
    ("ROUNDING", "FLOOR", "floor"),
    ("ACK", " Broker ", "broker"),
    ("BROKERS", " 3 ", 3),
    ("MAIN_TOPIC", " main ", "main"),
    ("BIND_HOST", "::1 ", "::1"),
]  # fmt: skip
REFUSED = [
    ("KAFKA_BOOTSTRAP_SERVERS", "localhost", "localhost:9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", "::1:9092", r"[::1]:9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", "http://b1:9092", "localhost:9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", "b1:9092;b2:9092", "localhost:9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", "b1:9092 b2:9092", "localhost:9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", "b1:70000", "ports to 65535"),
    ("KAFKA_BOOTSTRAP_SERVERS", ",", "localhost:9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", "", "localhost:9092"),
    ("CORS_ORIGINS", "a.org", "https://example.org"),
    ("CORS_ORIGINS", "https://a.org/path", "https://example.org"),
    ("CORS_ORIGINS", "*,https://a.org", "https://example.org"),
    ("CORS_ORIGINS", "https://*.a.org", "https://example.org"),
    ("TRUSTED_PROXIES", "10.0.0.1:80", "127.0.0.1,10.0.0.0/8"),
    ("CLIENT_NETWORKS", ",", "at least one"),
    ("LINGER_MS", "+5", "a whole number in decimal digits"),
    ("LINGER_MS", "5_000", "a whole number in decimal digits"),
    ("LINGER_MS", "5,000", "a whole number in decimal digits"),
    ("LINGER_MS", "1e3", "a whole number in decimal digits"),
    ("LINGER_MS", "0x10", "a whole number in decimal digits"),
    ("LINGER_MS", "5.0", "a whole number in decimal digits"),
    ("LINGER_MS", "5ms", "a whole number in decimal digits"),
    ("LINGER_MS", "５", "a whole number in decimal digits"),
    ("LINGER_MS", "9" * 5_000, "a whole number in decimal digits"),
    ("LINGER_MS", "", "0 or more, at most 60000"),
    ("LINGER_MS", "60001", "0 or more, at most 60000"),
    ("BATCH_SECONDS", "1e1", "a number in decimal digits, more than 0"),
    ("BATCH_SECONDS", "inf", "a number in decimal digits"),
    ("BATCH_SECONDS", ".5", "a number in decimal digits"),
    ("BATCH_SECONDS", "0,5", "a number in decimal digits"),
    ("VERIFY_CLIENTS", "maybe", "0, 1"),
    ("BROKERS", "true", "0, 1, 3"),
    ("DATA_DIR", "a\nb", "without line breaks"),
    ("DATA_DIR", "~nobody-of-this-name/x", "path"),
    ("DATA_DIR", "bytes-\udcff", "path"),
    ("BIND_HOST", "", "at least one character"),
    ("API_KEY", "\udcff", "a text in UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "written", "expected"), TAKEN)
def test_a_value_is_taken_as_people_write_it(name: str, written: str, expected: object) -> None:
    assert getattr(load([], {name: written}), name.lower()) == expected


@pytest.mark.parametrize(("name", "written", "says"), REFUSED)
def test_a_value_is_refused_with_an_example_or_its_bounds(name: str, written: str, says: str) -> None:
    with pytest.raises(SettingError, match=f"^{name}=.*expected") as refused:
        load([], {name: written})
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_broker_of_our_own_may_have_an_ipv6_address() -> None:
    found = load([], {"KAFKA_BOOTSTRAP_SERVERS": "[::1]:9092", "BROKERS": "3"})
    assert found.bootstrap_servers == ["[::1]:9092", "[::1]:9094", "[::1]:9096"]
    assert [(at.host, str(at)) for at in broker(found, 2).addresses] == [("::1", "[::1]:9094"), ("::1", "[::1]:9095")]


ENV_FILES = [
    ("COMPOSE_PROJECT_NAME=x\nAPP_PORT=5001\n", ["COMPOSE_PROJECT_NAME"]),
    ("export GITHUB_TOKEN=y\nexport APP_PORT=5001\n", ["GITHUB_TOKEN"]),
    ("# a comment\n\nAPP_PORT='5001' # why\n", []),
    ('APP_PORT="5001"\r\nDATABASE_URL=postgres://u:p@h/d?x=1#y\r\n', ["DATABASE_URL"]),
    ("\ufeffAPP_PORT=5001\n", []),
    ("APP_PORT = 5001\nSPARK_HOME=/opt/spark\nAPP_HOST=h\nNODE_ENV=x", ["SPARK_HOME", "APP_HOST", "NODE_ENV"]),
]


@pytest.mark.parametrize(("text", "foreign"), ENV_FILES)
def test_the_local_file_may_hold_names_of_others_which_are_named_once(
    text: str, foreign: list[str], local_file: Path
) -> None:
    local_file.write_text(text, encoding="utf-8", newline="")
    with logged() as lines:
        assert load([], {}).app_port == 5001
    assert lines == ([f"{local_file}: ignored, no settings: {', '.join(foreign)}"] if foreign else [])


@pytest.mark.parametrize(
    ("written", "meant"),
    [("APP_PROT", "APP_PORT"), ("app_port", "APP_PORT"), ("DATADIR", "DATA_DIR"), ("EMOJI", "EMOJIS"),
     ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BOOTSTRAP_SERVERS"), ("Linger-Ms", "LINGER_MS")],
)  # fmt: skip
def test_a_near_miss_of_a_name_in_the_local_file_is_refused(written: str, meant: str, local_file: Path) -> None:
    local_file.write_text(f"{written}=1\n")
    with pytest.raises(SettingError, match=f"there is no setting {written}; did you mean {meant}"):
        load([], {})


def test_a_name_without_a_value_in_the_local_file_is_refused(local_file: Path) -> None:
    local_file.write_text("APP_PORT\n")
    with pytest.raises(SettingError, match=r"^APP_PORT is not set: expected APP_PORT=VALUE"):
        load([], {})


def test_a_local_file_that_is_not_utf_8_is_refused_in_one_sentence(local_file: Path) -> None:
    local_file.write_bytes("EMOJIS=é\n".encode("latin-1"))
    with pytest.raises(SettingError, match="expected a readable file of KEY=VALUE lines in UTF-8"):
        load([], {})


def test_a_local_file_that_is_a_directory_is_refused_in_one_sentence(local_file: Path) -> None:
    local_file.mkdir()
    with pytest.raises(SettingError, match="expected a readable file of KEY=VALUE lines in UTF-8"):
        load([], {})


def test_a_process_that_got_every_setting_reads_no_local_file(local_file: Path) -> None:
    environ = load([], {}).environment
    local_file.write_text("APP_PROT=1\n")
    assert load([], environ).app_port == 5000


def test_settings_from_the_environment_are_named_without_secrets() -> None:
    environ = {"API_KEY": "sk-other", "PORT": "3000", "HOME": "/root", "PUSH_SECRET": "whsec_x"}
    assert from_environment(environ) == "API_KEY=(not shown), PUSH_SECRET=(not shown), PORT=3000"


PATHS = [
    ("relative", settings.PROJECT_DIR / "relative"),
    ("/x/", Path("/x")),
    ("~/emo", Path("/home/ann/emo")),
    ("~", Path("/home/ann")),
    ("/x/../y", Path("/y")),
    ("/it's 100%2F\"x\";#$HOME;ü😊", Path("/it's 100%2F\"x\";#$HOME;ü😊")),
]


@pytest.mark.parametrize(("written", "expected"), PATHS)
def test_a_data_dir_is_found_however_it_is_written(
    written: str, expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert load([], {"DATA_DIR": written}).data_path == expected


def test_a_data_dir_behind_a_link_is_the_directory_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert load([], {"DATA_DIR": str(tmp_path / "link")}).data_path == tmp_path / "real"


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    refused = run_python("-m", "emostream", "status", DATA_DIR=tmp_path / "loop")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become nobody")
def test_an_installed_emostream_needs_no_home_when_xdg_names_one() -> None:
    asks = "import os; from emostream.settings import user_dir; os.setuid(4711); del os.environ['HOME']; "
    asks += "print(user_dir({}))"
    named = run_python("-c", asks.format({"XDG_DATA_HOME": "/x"}), HOME="/")
    assert named.stdout == "/x/emostream\n"
    homeless = run_python("-c", asks.format({}), HOME="/")
    said = "This user has no home directory: set HOME or XDG_DATA_HOME.\n"
    assert (homeless.returncode, homeless.stderr) == (1, said)
