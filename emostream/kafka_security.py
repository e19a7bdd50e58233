"""KAFKA_* settings → how each of the three Kafka clients connects, with which name and which certificates.

librdkafka, kafka-python and Spark's JVM spell the same things in three ways. Nobody else spells them.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emostream.settings import SettingError, Settings

LOGIN_MODULES = {"PLAIN": "plain.PlainLoginModule", "SCRAM": "scram.ScramLoginModule"}
# The only form of a private key that all three clients read.
PKCS8 = ("-----BEGIN PRIVATE KEY-----", "-----BEGIN ENCRYPTED PRIVATE KEY-----")

# Setting → what librdkafka and kafka-python call it.
OPTIONS = {
    "kafka_security_protocol": ("security.protocol", "security_protocol"),
    "kafka_sasl_mechanism": ("sasl.mechanism", "sasl_mechanism"),
    "kafka_sasl_username": ("sasl.username", "sasl_plain_username"),
    "kafka_sasl_password": ("sasl.password", "sasl_plain_password"),
    "kafka_ssl_ca": ("ssl.ca.location", "ssl_cafile"),
    "kafka_ssl_certificate": ("ssl.certificate.location", "ssl_certfile"),
    "kafka_ssl_key": ("ssl.key.location", "ssl_keyfile"),
    "kafka_ssl_key_password": ("ssl.key.password", "ssl_password"),
}
FILES = ("kafka_ssl_ca", "kafka_ssl_certificate", "kafka_ssl_key")


def check(settings: Settings) -> None:
    """Raise SettingError if the settings contradict each other, or if a file that they name cannot be used."""
    protocol = settings.kafka_security_protocol
    sasl = {
        "KAFKA_SASL_MECHANISM": settings.kafka_sasl_mechanism,
        "KAFKA_SASL_USERNAME": settings.kafka_sasl_username,
        "KAFKA_SASL_PASSWORD": settings.kafka_sasl_password,
    }
    tls = {
        "KAFKA_SSL_CA": settings.kafka_ssl_ca,
        "KAFKA_SSL_CERTIFICATE": settings.kafka_ssl_certificate,
        "KAFKA_SSL_KEY": settings.kafka_ssl_key,
        "KAFKA_SSL_KEY_PASSWORD": settings.kafka_ssl_key_password,
    }
    unused = ({} if "SASL" in protocol else sasl) | ({} if "SSL" in protocol.split("_") else tls)
    for name, value in unused.items():
        if value:
            kind = "SASL_PLAINTEXT" if name in sasl else "SSL"
            raise SettingError(f"{name} is set, and KAFKA_SECURITY_PROTOCOL={protocol} does not use it: expected "
                               f"{kind} or SASL_SSL, or no {name}")  # fmt: skip
    if "SASL" in protocol and (missing := [name for name, value in sasl.items() if not value]):
        raise SettingError(f"KAFKA_SECURITY_PROTOCOL={protocol}: expected {' and '.join(missing)}, too")
    if bool(settings.kafka_ssl_certificate) != bool(settings.kafka_ssl_key):
        raise SettingError("KAFKA_SSL_CERTIFICATE and KAFKA_SSL_KEY: expected both or none, got one of them")
    if settings.kafka_ssl_key_password and not settings.kafka_ssl_key:
        raise SettingError("KAFKA_SSL_KEY_PASSWORD is set: expected KAFKA_SSL_KEY, too")
    _check_files(settings)


def _check_files(settings: Settings) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.kafka_ssl_ca:
        _pem("KAFKA_SSL_CA", settings, settings.kafka_ssl_ca)
        try:
            context.load_verify_locations(settings.file(settings.kafka_ssl_ca))
        except ssl.SSLError as error:
            raise SettingError(
                f"KAFKA_SSL_CA={settings.kafka_ssl_ca!r}: expected a file of certificates in PEM ({error.reason})"
            ) from None
    if settings.kafka_ssl_key:
        _pem("KAFKA_SSL_CERTIFICATE", settings, settings.kafka_ssl_certificate)
        if not any(begin in _pem("KAFKA_SSL_KEY", settings, settings.kafka_ssl_key) for begin in PKCS8):
            raise SettingError(
                f"KAFKA_SSL_KEY={settings.kafka_ssl_key!r}: expected a private key in PKCS #8, which begins with "
                f"{PKCS8[0]}; openssl pkcs8 -topk8 makes one of another"
            )
        try:
            context.load_cert_chain(
                settings.file(settings.kafka_ssl_certificate),
                settings.file(settings.kafka_ssl_key),
                # Without one, Python would ask at the terminal for the password of an encrypted key.
                settings.kafka_ssl_key_password or b"",
            )
        except ssl.SSLError as error:
            raise SettingError(
                "KAFKA_SSL_CERTIFICATE, KAFKA_SSL_KEY and KAFKA_SSL_KEY_PASSWORD: expected a certificate in PEM, its "
                f"key, and the password of the key if it has one ({error.reason or error})"
            ) from None


def _pem(name: str, settings: Settings, path: str) -> str:
    try:
        return Path(settings.file(path)).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SettingError(f"{name}={path!r}: expected a readable file in PEM ({error.strerror})") from None


def librdkafka_options(settings: Settings) -> dict[str, Any]:
    """Return how a client of librdkafka connects."""
    named = {librdkafka: value for (librdkafka, _), value in _given(settings)}
    return {"bootstrap.servers": ",".join(settings.bootstrap_servers), **named}


def kafka_python_options(settings: Settings) -> dict[str, object]:
    """Return how a client of kafka-python connects."""
    named = {kafka_python: value for (_, kafka_python), value in _given(settings)}
    return {"bootstrap_servers": settings.bootstrap_servers, **named}


def _given(settings: Settings) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the two names in OPTIONS and the value of each setting that is set. Files are absolute paths."""
    for field, names in OPTIONS.items():
        if value := getattr(settings, field):
            yield names, settings.file(value) if field in FILES else value


def java_options(settings: Settings, open_key: str) -> dict[str, str]:
    """Return how Kafka's client for Java connects. `open_key` is the private key in PEM, without a password.

    Certificates and keys are in it as text, because an executor of Spark on another machine does not have the files.
    """
    options = {"bootstrap.servers": ",".join(settings.bootstrap_servers)}
    options["security.protocol"] = settings.kafka_security_protocol
    if mechanism := settings.kafka_sasl_mechanism:
        module = LOGIN_MODULES[mechanism.partition("-")[0]]
        name, password = (_jaas(text) for text in (settings.kafka_sasl_username, settings.kafka_sasl_password))
        options["sasl.mechanism"] = mechanism
        options["sasl.jaas.config"] = (
            f"org.apache.kafka.common.security.{module} required username={name} password={password};"
        )
    if settings.kafka_ssl_ca:
        options["ssl.truststore.type"] = "PEM"
        options["ssl.truststore.certificates"] = _pem("KAFKA_SSL_CA", settings, settings.kafka_ssl_ca)
    if open_key:
        options["ssl.keystore.type"] = "PEM"
        options["ssl.keystore.key"] = open_key
        options["ssl.keystore.certificate.chain"] = _pem(
            "KAFKA_SSL_CERTIFICATE", settings, settings.kafka_ssl_certificate
        )
    return options


@dataclass(frozen=True)
class PrivateKey:
    """The key in KAFKA_SSL_KEY: `pem` is the text of the file, "" if there is none, and `der` what is in it."""

    pem: str
    der: bytes

    @property
    def encrypted(self) -> bool:
        """Whether it has a password."""
        return PKCS8[1] in self.pem


def private_key(settings: Settings) -> PrivateKey:
    """Return the key in KAFKA_SSL_KEY, as it is in the file."""
    pem = _pem("KAFKA_SSL_KEY", settings, settings.kafka_ssl_key) if settings.kafka_ssl_key else ""
    body = pem.partition(" PRIVATE KEY-----")[2].partition("-----END")[0]
    return PrivateKey(pem, base64.b64decode(body))


def _jaas(text: str) -> str:
    """Quote a text for the login configuration of Java."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
