"""A broker that can be entered in every way that rta's settings know: with TLS, with a user, with both, with a certificate."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.services.certificates import Authority
from tests.services.kafka import Kafka
from tests.services.places import free_port

USER, PASSWORD = "rta", "correct-horse-42"
PROTOCOLS = ("SSL", "SASL_PLAINTEXT", "SASL_SSL")
MUTUAL = "MUTUAL"
"""The listener with TLS that asks clients for a certificate."""
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


class SecureKafka(Kafka):
    """`port` takes everybody, `ports` has the others by listener. Its certificate is of 127.0.0.1 and of no name.

    Users are kept where Kafka keeps them: PLAIN's in the listener's settings, SCRAM's in the cluster's metadata.
    """

    def __init__(self) -> None:
        self.ports = {name: free_port() for name in (*PROTOCOLS, MUTUAL)}
        self._secrets = tempfile.TemporaryDirectory(prefix="rta-kafka-tls-")
        folder = Path(self._secrets.name)
        authority, stranger = Authority(folder, "authority"), Authority(folder, "stranger")
        self.ca_file, self.other_ca_file = authority.file, stranger.file
        self.cert_file, self.key_file = authority.certify("client")
        self.other_cert_file, self.other_key_file = stranger.certify("other")
        certificate, key = authority.certify("broker", address="127.0.0.1")
        self._store = folder / "broker.pem"
        self._store.write_bytes(key.read_bytes() + certificate.read_bytes())
        super().__init__()

    def servers_of(self, listener: str, host: str = "127.0.0.1") -> str:
        return f"{host}:{self.ports[listener]}"

    def set_password(self, password: str) -> None:
        """What SCRAM-SHA-512 takes from now on; who is in stays in until the connection ends."""
        who = ("--entity-type", "users", "--entity-name", USER)
        credential = f"SCRAM-SHA-512=[password={password}]"
        self._run_tool(
            "kafka.admin.ConfigCommand", "--bootstrap-server", self.servers, "--alter", *who, "--add-config", credential
        )

    def _listeners(self) -> dict[str, int]:
        return {"PLAINTEXT": self.port, **self.ports}

    def _format_options(self) -> list[str]:
        users = [f"SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]" for bits in (256, 512)]
        return [word for user in users for word in ("--add-scram", user)]

    def _more_properties(self) -> dict[str, str]:
        protocols = {name: name for name in ("PLAINTEXT", *PROTOCOLS)} | {MUTUAL: "SSL", "CONTROLLER": "PLAINTEXT"}
        values = {
            "listener.security.protocol.map": ",".join(f"{name}:{value}" for name, value in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
            f"listener.name.{MUTUAL.lower()}.ssl.client.auth": "required",
        }
        for listener in ("sasl_plaintext", "sasl_ssl"):
            prefix = f"listener.name.{listener}"
            values[f"{prefix}.plain.sasl.jaas.config"] = f'{PLAIN} user_{USER}="{PASSWORD}";'
            for bits in (256, 512):
                values[f"{prefix}.scram-sha-{bits}.sasl.jaas.config"] = SCRAM
        return values

    def close(self) -> None:
        super().close()
        self._secrets.cleanup()
