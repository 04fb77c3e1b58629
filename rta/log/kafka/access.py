"""Why brokers do not let us in, and which setting is to be mended.

kafka-python tries again until its time is over and then says only that it could not bootstrap. `Connections` remembers what
each broker's connection ended with; `reason` turns that into words and a setting's name. The password is in none of them.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import kafka.errors as kafka_errors
from kafka.net import KafkaConnectionManager

from rta.errors import ConfigError
from rta.log.kafka.settings import KafkaSettings

_VAGUE = (kafka_errors.KafkaTimeoutError, kafka_errors.KafkaConnectionError, kafka_errors.NodeNotReadyError)
Received = tuple[bytes, Exception | None]
_CLOSED = ("socket disconnected", "eof occurred", "connection reset", "unexpected_eof", "broken pipe")


class Reason(NamedTuple):
    """`lasting` is true when asking again can't help; a connection that was closed may also mean that a broker is starting."""

    said: str
    hint: str
    lasting: bool


class Connections(KafkaConnectionManager):
    """A connection manager that knows what its connections ended with.

    While nothing has been learnt of the cluster, and every broker that is named has a lasting reason to keep us out, asking
    for a connection raises that reason instead of trying on.
    """

    def __init__(self, net: Any, settings: KafkaSettings, **options: Any) -> None:
        super().__init__(net, **options)
        self._settings = settings
        self._ended: dict[Any, Exception] = {}
        self._been_in = False

    def get_connection(self, node_id: Any, *arguments: Any, **options: Any) -> Any:
        if self.bootstrapped and not self._been_in:
            self._been_in = True
            self._ended.clear()
        if not self._been_in and (why := self._kept_out()) is not None:
            self._ended.clear()
            raise why
        known = self._conns.get(node_id)
        connection = super().get_connection(node_id, *arguments, **options)
        if connection is not known:
            connection.init_future.add_callback(lambda _: self._opened(node_id))
            connection.close_future.add_errback(partial(self._note, node_id))
        return connection

    def reason(self, error: Exception) -> Reason | None:
        """Why we were not let in, if that is behind an error, also where it says only that there was no connection.

        Who has been in once has the right settings: a connection that is closed later on means a broker that goes down.
        """
        found = reason(self._settings, error)
        if found is None and isinstance(error, _VAGUE):
            noted = [reason(self._settings, ended) for ended in self._ended.values()]
            found = next((why for why in noted if why is not None), None)
        return None if found is None or (self.bootstrapped and not found.lasting) else found

    def _opened(self, node_id: Any) -> None:
        """A connection that is open says nothing as long as nothing was asked on it."""
        if self._been_in:
            self._ended.pop(node_id, None)

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        transport = await super()._build_transport(node, timeout_at=timeout_at)
        transport._sock_recv = _data_first(transport._sock_recv)
        return transport

    def _note(self, node_id: Any, error: Exception) -> None:
        """A try that was cut short because its time was over says nothing about the one before."""
        out_of_time = isinstance(error, kafka_errors.RequestTimedOutError | kafka_errors.KafkaTimeoutError)
        if not (out_of_time and node_id in self._ended and not self._been_in):
            self._ended[node_id] = error

    def _kept_out(self) -> Exception | None:
        nodes = [broker.node_id for broker in self.cluster.bootstrap_brokers()]
        found = [self._ended.get(node) for node in nodes]
        lasting = [e for e in found if e is not None and (why := reason(self._settings, e)) is not None and why.lasting]
        return lasting[0] if nodes and len(lasting) == len(nodes) else None


def _data_first(receive: Callable[[], Received]) -> Callable[[], Received]:
    """Data that came together with the end of a connection are handed out before the end is.

    A broker that refuses a password says so and closes. kafka-python (3.0) reads both at once and throws the words away.
    """
    ended: list[Exception] = []

    def read() -> Received:
        if ended:
            return b"", ended[0]
        data, error = receive()
        if data and error is not None:
            ended.append(error)
            return data, None
        return data, error

    return read


def reason(settings: KafkaSettings, error: Exception) -> Reason | None:
    """What an error says of the way in; None when it is about something else."""
    text = str(error)
    by_kind = _by_kind(settings, error) or _by_certificate(settings, text)
    if by_kind is not None:
        return by_kind
    if any(word in text.lower() for word in _CLOSED) or isinstance(error, kafka_errors.KafkaProtocolError):
        return Reason(
            f"the broker closed the connection before it had answered ({text})",
            f"is 'kafka.security: {settings.security}' what this port takes? {_other_way(settings)}",
            False,
        )
    return None


def _by_kind(settings: KafkaSettings, error: Exception) -> Reason | None:
    match error:
        case kafka_errors.SaslAuthenticationFailedError():
            return Reason(
                f"the broker refuses user '{settings.username}' by {settings.sasl_mechanism}",
                "check 'kafka.username', the password (RTA_KAFKA_PASSWORD or 'kafka.password_file') "
                "and 'kafka.sasl_mechanism'",
                True,
            )
        case kafka_errors.UnsupportedSaslMechanismError():
            return Reason(
                f"the broker does not take {settings.sasl_mechanism}: {error}", "check 'kafka.sasl_mechanism'", True
            )
        case kafka_errors.IllegalSaslStateError():
            return Reason(
                "the broker asks for no user at this port",
                f"check 'kafka.security': it is {settings.security}, try {settings.security.removeprefix('SASL_')}",
                True,
            )
        case _:
            return None


def _by_certificate(settings: KafkaSettings, text: str) -> Reason | None:
    """TLS says what it dislikes in words only."""
    lower = text.lower()
    if "mismatch" in lower or "is not valid for" in lower:
        return Reason(
            f"the broker's certificate is of another host: {text}",
            "write in 'log' the host names that the certificates are made for",
            True,
        )
    if "certificate_verify_failed" in lower or "certificate verify failed" in lower:
        ca = "the system's authorities" if settings.ca_file is None else f"'{settings.ca_file}'"
        return Reason(
            f"the broker's certificate is not signed by {ca}: {text}",
            "check 'kafka.ca_file': it has to hold the authority that signed the brokers' certificates",
            True,
        )
    if "wrong_version_number" in lower or "record layer failure" in lower:
        return Reason(
            f"the broker speaks no TLS at this port: {text}",
            f"check 'kafka.security': it is {settings.security}. {_other_way(settings)}",
            True,
        )
    if "alert" in lower and ("certificate" in lower or "unknown_ca" in lower or "unknown ca" in lower):
        return Reason(
            f"the broker does not accept our certificate: {text}",
            "check 'kafka.cert_file' and 'kafka.key_file': brokers ask for a certificate that their authority has signed",
            True,
        )
    return None


def _other_way(settings: KafkaSettings) -> str:
    with_tls = "SSL or SASL_SSL for a port with TLS"
    with_user = "one that begins with SASL_ where users have to log in"
    return f"It can be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL: {with_tls}, {with_user}"


def check_files(settings: KafkaSettings) -> None:
    """Raises ConfigError for a file that holds no certificate or no key, or a key that is not the certificate's."""
    if "SSL" not in settings.security:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    name = "ca_file"
    try:
        if settings.ca_file is not None:
            context.load_verify_locations(settings.ca_file)
        if settings.cert_file is not None:
            name = "cert_file"
            context.load_cert_chain(settings.cert_file, settings.key_file, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"setting 'kafka.{name}' is '{getattr(settings, name)}', which can't be used: {error}",
            "write PEM files; 'key_file' has to be the key of 'cert_file' and to have no passphrase",
        ) from error


def _no_passphrase() -> str:
    """OpenSSL would ask for one at the terminal."""
    raise ValueError("the key is encrypted")
