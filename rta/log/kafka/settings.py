"""Where the brokers are and how to get in. Plain data: it travels to other processes."""

from __future__ import annotations

from typing import Any

import msgspec

from rta.config import Settings

RECORD_BYTES_MAX = 24 << 20
"""One Arrow batch of one partition, framed; a request of 64 MiB unpacked compresses to less."""


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Args as in docs/operations.md.

    `replication` and `in_sync` of None leave it to the brokers' defaults. Times are milliseconds.
    """

    servers: tuple[str, ...]
    topic_prefix: str = "rta."
    replication: int | None = None
    in_sync: int | None = None
    retention_ms: int = 7 * 86_400_000
    delivery_ms: int = 10_000
    request_ms: int = 5_000
    security: str = "PLAINTEXT"
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        """Without the password: settings may stand in a log."""
        user = "" if self.username is None else f", user {self.username!r} by {self.sasl_mechanism}"
        return f"KafkaSettings({self.name}, {self.security}{user})"

    @property
    def name(self) -> str:
        """How messages call the cluster."""
        return "kafka://" + ",".join(self.servers)

    def topic(self, topic: str) -> str:
        """What a topic is called there."""
        return self.topic_prefix + topic

    def client(self) -> dict[str, Any]:
        """What every client of kafka-python takes."""
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": "rta",
            "security_protocol": self.security,
            "reconnect_backoff_ms": 50,
            "reconnect_backoff_max_ms": 1000,
            "metadata_max_age_ms": 30_000,
        }
        if "SSL" in self.security:
            options |= {"ssl_cafile": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        if "SASL" in self.security:
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return options


def kafka_settings(settings: Settings) -> KafkaSettings | None:
    """What `log` and the section `kafka` say; None with the embedded log."""
    options = settings.kafka
    if not settings.kafka_servers:
        return None
    files = {name: getattr(options, name) for name in ("ca_file", "cert_file", "key_file")}
    return KafkaSettings(
        servers=settings.kafka_servers,
        topic_prefix=options.topic_prefix,
        replication=options.replication,
        in_sync=options.in_sync,
        retention_ms=options.retention,
        delivery_ms=options.delivery,
        request_ms=options.request,
        security=options.security,
        sasl_mechanism=options.sasl_mechanism,
        username=options.username,
        password=options.secret,
        **{name: None if path is None else str(path.resolve()) for name, path in files.items()},
    )
