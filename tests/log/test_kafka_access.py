"""Every way into a real broker that the settings know, and what is said when it is barred."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rta.errors import AccessError, ConfigError
from rta.log.base import Header, Outgoing
from rta.log.kafka.access import check_files
from rta.log.kafka.admin import KafkaAdmin
from rta.log.kafka.reader import KafkaReader
from rta.log.kafka.settings import KafkaSettings
from rta.log.kafka.writer import KafkaWriter
from tests.services.certificates import Authority
from tests.services.secure_kafka import MUTUAL, PASSWORD, USER, SecureKafka

REQUEST_MS = 3000
SAID_S_MAX = 10.0
WRONG = "wrong-horse-17"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def kafka() -> Iterator[SecureKafka]:
    broker = SecureKafka()
    yield broker
    broker.close()


def entering(kafka: SecureKafka, listener: str, host: str = "127.0.0.1", **options: Any) -> KafkaSettings:
    """The settings that fit a listener, but for what is said otherwise."""
    fitting: dict[str, Any] = {"security": "SSL" if listener == MUTUAL else listener}
    if listener != "SASL_PLAINTEXT":
        fitting |= {"ca_file": str(kafka.ca_file)}
    if listener.startswith("SASL"):
        fitting |= {"sasl_mechanism": "SCRAM-SHA-512", "username": USER, "password": PASSWORD}
    if listener == MUTUAL:
        fitting |= {"cert_file": str(kafka.cert_file), "key_file": str(kafka.key_file)}
    limits = {"request_ms": REQUEST_MS, "delivery_ms": REQUEST_MS}
    return KafkaSettings(servers=(kafka.servers_of(listener, host),), **{**limits, **fitting, **options})


def append(settings: KafkaSettings, topic: str, payloads: list[bytes]) -> dict[int, int]:
    async def run() -> dict[int, int]:
        writer = KafkaWriter(settings)
        try:
            return await writer.append(topic, [Outgoing(0, Header(1, 2, 3, 4, 5), payload) for payload in payloads])
        finally:
            await writer.close()

    return asyncio.run(run())


WAYS = [
    ("SSL", {}),
    (MUTUAL, {}),
    *[(listener, {"sasl_mechanism": name}) for listener in ("SASL_PLAINTEXT", "SASL_SSL") for name in MECHANISMS],
]


@pytest.mark.parametrize(("listener", "options"), WAYS, ids=lambda value: str(value))
def test_admin_writer_and_reader_work_on_every_way_in(
    kafka: SecureKafka, listener: str, options: dict[str, str]
) -> None:
    settings = entering(kafka, listener, **options)
    topic = f"topic-{next(_numbers)}"
    with closing(KafkaAdmin(settings)) as admin, closing(KafkaReader(settings)) as reader:
        assert sorted(admin.create(topic, 2)) == [0, 1]
        large = bytes(range(256)) * 8192
        assert append(settings, topic, [b"one", large, b"three"]) == {0: 3}
        found: list[bytes] = []
        while len(found) < 3 and reader.wait(topic, {0: len(found)}, 10_000):
            found += [record.payload for record in reader.fetch(topic, {0: len(found)}, 1 << 20)]
        assert found == [b"one", large, b"three"]
        admin.trim(topic, {0: 1})
        assert reader.partitions(topic)[0].start == 1
        admin.drop(topic)
        assert topic not in admin.topics()


BARRED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "wrong password": ("SASL_SSL", {"password": WRONG}, "refuses user 'rta' by SCRAM-SHA-512", "RTA_KAFKA_PASSWORD"),
    "wrong password in plain text": (
        "SASL_PLAINTEXT",
        {"password": WRONG, "sasl_mechanism": "PLAIN"},
        "refuses user 'rta' by PLAIN",
        "'kafka.password_file'",
    ),
    "unknown user": ("SASL_SSL", {"username": "nobody"}, "refuses user 'nobody'", "'kafka.username'"),
    "wrong authority": ("SSL", {"ca_file": "other_ca_file"}, "is not signed by", "'kafka.ca_file'"),
    "authority of the system": ("SSL", {"ca_file": None}, "is not signed by the system's", "'kafka.ca_file'"),
    "another host's certificate": ("SSL", {"host": "localhost"}, "is of another host", "in 'log'"),
    "no certificate of ours": (
        MUTUAL,
        {"cert_file": None, "key_file": None},
        "does not accept our certificate",
        "'kafka.cert_file'",
    ),
    "a stranger's certificate": (
        MUTUAL,
        {"cert_file": "other_cert_file", "key_file": "other_key_file"},
        "does not accept our certificate",
        "'kafka.cert_file'",
    ),
    "no TLS at a TLS port": ("SSL", {"security": "PLAINTEXT"}, "closed the connection", "'kafka.security: PLAINTEXT'"),
    "no TLS at a TLS port, with a user": (
        "SASL_SSL",
        {"security": "SASL_PLAINTEXT"},
        "closed the connection",
        "'kafka.security: SASL_PLAINTEXT'",
    ),
    "TLS at a port without": ("SASL_PLAINTEXT", {"security": "SASL_SSL"}, "", "'kafka.security"),
    "a user where none is asked for": (
        "SSL",
        {"security": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": USER, "password": PASSWORD},
        "asks for no user",
        "it is SASL_SSL, try SSL",
    ),
    "no user where one is asked for": ("SASL_SSL", {"security": "SSL"}, "closed the connection", "SASL_SSL"),
}


def barred(kafka: SecureKafka, case: str) -> KafkaSettings:
    listener, options, _, _ = BARRED[case]
    named = {key: str(getattr(kafka, value)) for key, value in options.items() if f"{value}".startswith("other_")}
    return entering(kafka, listener, **{**options, **named})


@pytest.mark.parametrize("case", BARRED)
def test_who_is_not_let_in_is_told_which_setting_to_mend_within_seconds(kafka: SecureKafka, case: str) -> None:
    settings = barred(kafka, case)
    _, _, said, hint = BARRED[case]
    began = time.monotonic()
    with closing(KafkaAdmin(settings)) as admin, pytest.raises(AccessError) as caught:
        admin.topics()
    assert time.monotonic() - began < SAID_S_MAX
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert settings.servers[0] in caught.value.message
    assert WRONG not in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("case", ["wrong password", "wrong authority", "no TLS at a TLS port"])
def test_a_writer_that_is_not_let_in_says_so_too(kafka: SecureKafka, case: str) -> None:
    _, _, said, hint = BARRED[case]
    began = time.monotonic()
    with pytest.raises(AccessError) as caught:
        append(barred(kafka, case), "anything", [b"x"])
    assert time.monotonic() - began < SAID_S_MAX
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.retry_after_s is not None


def test_a_broker_that_is_away_is_no_matter_of_settings(kafka: SecureKafka) -> None:
    kafka.stop()
    try:
        with closing(KafkaAdmin(entering(kafka, "SASL_SSL"))) as admin:
            with pytest.raises(Exception, match="are the brokers up") as caught:
                admin.topics()
            assert not isinstance(caught.value, AccessError)
            kafka.start()
            assert admin.topics() == []
    finally:
        if not kafka.runs:
            kafka.start()


def test_files_that_hold_no_certificate_or_another_key_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    (certificate, key), (_, other_key) = authority.certify("one"), authority.certify("two")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")

    def settings(**files: Path) -> KafkaSettings:
        paths: dict[str, Any] = {name: str(path) for name, path in files.items()}
        return KafkaSettings(servers=("a:1",), security="SSL", **paths)

    check_files(settings(ca_file=authority.file, cert_file=certificate, key_file=key))
    with pytest.raises(ConfigError, match=r"'kafka\.ca_file' is '.*empty\.pem'"):
        check_files(settings(ca_file=empty))
    with pytest.raises(ConfigError, match=r"'kafka\.cert_file' is '.*one\.crt'"):
        check_files(settings(cert_file=certificate, key_file=other_key))
