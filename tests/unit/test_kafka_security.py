"""emostream.kafka_security: what is refused, and how each client is told the same; broker_trouble: what errors mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from emostream.broker_trouble import explain
from emostream.kafka_security import check, java_options, kafka_python_options, librdkafka_options, private_key
from emostream.settings import SettingError
from testkit.secured_broker import KEY_PASSWORD, authority, certificate, openssl
from testkit.settings import settings_with

SASL = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_USERNAME": "app",
    "KAFKA_SASL_PASSWORD": 'a "b" \\ c',
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the authority ca and the client app, which has a certificate, a key with a password and one without."""
    directory = tmp_path_factory.mktemp("files")
    authority(directory, "ca")
    certificate(directory, "app")
    certificate(directory, "other")
    openssl("rsa", "-in", directory / "app.open.key", "-traditional", "-out", directory / "app.pkcs1.key")
    return directory


def test_the_defaults_need_nothing() -> None:
    check(settings_with())
    assert set(librdkafka_options(settings_with())) == {"bootstrap.servers", "security.protocol"}
    assert set(kafka_python_options(settings_with())) == {"bootstrap_servers", "security_protocol"}
    assert set(java_options(settings_with(), "")) == {"bootstrap.servers", "security.protocol"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SASL | {"KAFKA_SASL_MECHANISM": ""}, "SASL_SSL: expected KAFKA_SASL_MECHANISM, too"),
        (SASL | {"KAFKA_SASL_PASSWORD": ""}, "SASL_SSL: expected KAFKA_SASL_PASSWORD, too"),
        (SASL | {"KAFKA_SECURITY_PROTOCOL": "SSL"}, "KAFKA_SASL_MECHANISM is set, and .*=SSL does not use it"),
        (SASL | {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SSL_CA": "{}/ca.crt"}, "KAFKA_SSL_CA is set, and"),
        ({"KAFKA_SSL_CA": "{}/ca.crt"}, "KAFKA_SSL_CA is set, and KAFKA_SECURITY_PROTOCOL=PLAINTEXT does not use it"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEY": "{}/app.key"}, "expected both or none"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CERTIFICATE": "{}/app.crt"}, "expected both or none"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEY_PASSWORD": "x"}, "expected KAFKA_SSL_KEY, too"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CA": "{}/none.crt"}, "KAFKA_SSL_CA=.*readable file in PEM"),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CA": "{}/app.csr"}, "KAFKA_SSL_CA=.*certificates in PEM"),
    ],
)
def test_settings_that_contradict_each_other_are_one_sentence(
    settings: dict[str, str], expected: str, files: Path
) -> None:
    given = {name: value.replace("{}", str(files)) for name, value in settings.items()}
    with pytest.raises(SettingError, match=expected) as refused:
        check(settings_with(**given))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("certificate", "key", "password", "expected"),
    [
        ("app.crt", "app.open.key", "", None),
        ("app.crt", "app.key", KEY_PASSWORD, None),
        ("app.crt", "app.key", "", "KEY_PASSWORD: expected"),
        ("app.crt", "app.key", "wrong", "KEY_PASSWORD: expected"),
        ("app.crt", "other.open.key", "", "KEY_PASSWORD: expected"),
        ("app.csr", "app.open.key", "", "KEY_PASSWORD: expected"),
        ("app.crt", "app.pkcs1.key", "", "PKCS #8, .*; openssl pkcs8 -topk8 makes one"),
        ("none.crt", "app.open.key", "", "^KAFKA_SSL_CERTIFICATE=.*readable"),
        ("app.crt", "none.key", "", "^KAFKA_SSL_KEY=.*readable"),
    ],
)
def test_a_certificate_and_its_key_are_tried_at_the_start(
    certificate: str, key: str, password: str, expected: str | None, files: Path
) -> None:
    settings = settings_with(
        KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_CERTIFICATE=files / certificate, KAFKA_SSL_KEY=files / key,
        KAFKA_SSL_KEY_PASSWORD=password,
    )  # fmt: skip
    if expected is None:
        check(settings)
        return
    with pytest.raises(SettingError, match=expected) as refused:
        check(settings)
    assert "wrong" not in str(refused.value)


def test_java_gets_a_password_with_quotes_and_backslashes_as_it_is() -> None:
    login = java_options(settings_with(**SASL), "")["sasl.jaas.config"]
    assert login == (
        'org.apache.kafka.common.security.scram.ScramLoginModule required username="app" password="a \\"b\\" \\\\ c";'
    )
    plain = java_options(settings_with(**SASL | {"KAFKA_SASL_MECHANISM": "PLAIN"}), "")["sasl.jaas.config"]
    assert plain.startswith("org.apache.kafka.common.security.plain.PlainLoginModule required ")


def test_java_gets_certificates_as_text_and_the_others_as_files(files: Path) -> None:
    settings = settings_with(
        KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_CA=files / "ca.crt", KAFKA_SSL_CERTIFICATE=files / "app.crt",
        KAFKA_SSL_KEY=files / "app.key", KAFKA_SSL_KEY_PASSWORD=KEY_PASSWORD,
    )  # fmt: skip
    assert private_key(settings).encrypted
    options = java_options(settings, "the open key")
    assert options["ssl.keystore.key"] == "the open key"
    assert options["ssl.truststore.certificates"] == (files / "ca.crt").read_text()
    assert options["ssl.keystore.certificate.chain"] == (files / "app.crt").read_text()
    assert librdkafka_options(settings)["ssl.key.location"] == str(files / "app.key")
    assert kafka_python_options(settings)["ssl_certfile"] == str(files / "app.crt")
    assert kafka_python_options(settings)["ssl_password"] == KEY_PASSWORD


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (
            KafkaError._AUTHENTICATION,
            "b: SASL failed (after 3ms in state X)",
            "the broker refuses user app with SCRAM-",
        ),
        (
            KafkaError._SSL,
            "b: SSL handshake failed",
            "no TLS with the broker (b: SSL handshake failed); check KAFKA_SSL_",
        ),
        (KafkaError._RESOLVE, "b: Failed to resolve", "no host of that name (b: Failed to resolve); check KAFKA_BOOT"),
        (KafkaError._TRANSPORT, "b: Connect to ipv4#127.0.0.1:1 failed: Connection refused", None),
    ],
)
def test_an_error_of_a_connection_says_what_to_check(code: int, said: str, expected: str | None) -> None:
    found = explain(settings_with(**SASL), KafkaError(code, said))
    assert found is None if expected is None else found is not None and found.startswith(expected)
    assert "after 3ms" not in str(found)
