"""Where the brokers are and how to get in. Plain data: it travels to other processes."""

from __future__ import annotations

from typing import Any

import msgspec

from rta.errors import ConfigError

SCHEME = "kafka://"
DEFAULT_PORT = 9092
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

    @property
    def name(self) -> str:
        """How messages call the cluster."""
        return SCHEME + ",".join(self.servers)

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


def parse_servers(url: str) -> tuple[str, ...]:
    """`kafka://host:port,host2` → its servers. Raises ConfigError."""
    hint = "write 'embedded' or kafka://host:9092,host2:9092"
    if not url.startswith(SCHEME):
        raise ConfigError(f"setting 'log' is '{url}', which is no log that rta knows", hint)
    servers = []
    for entry in url.removeprefix(SCHEME).rstrip("/").split(","):
        host, separator, port = entry.strip().rpartition(":")
        if not separator:
            host, port = port, str(DEFAULT_PORT)
        if not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in entry or "@" in entry:
            raise ConfigError(f"setting 'log' is '{url}': '{entry}' is no host:port", hint)
        servers.append(f"{host}:{int(port)}")
    return tuple(servers)
