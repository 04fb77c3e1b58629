"""The settings tree: `rta.yaml`, then `RTA_<KEY>` from the environment, read once and validated as a whole.

No other module reads the environment. Sizes are bytes and durations milliseconds once they are in here.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from rta.errors import BadRequestError, ConfigError
from rta.events.units import parse_duration_ms, parse_size_bytes


def _parsed(parse: Callable[[str], int], examples: str) -> BeforeValidator:
    """Texts by `parse`; numbers as they are. What pydantic is to name with its path must be a ValueError."""

    def read(value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"it takes a number or a text such as {examples}")
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except BadRequestError as error:
            raise ValueError(f"it takes a text such as {examples}") from error

    return BeforeValidator(read)


SizeBytes = Annotated[int, _parsed(parse_size_bytes, "'16MiB'"), Field(gt=0)]
DurationMs = Annotated[int, _parsed(parse_duration_ms, "'30s', '24h' or '365d'"), Field(gt=0)]


KAFKA_SCHEME = "kafka://"
KAFKA_PORT = 9092
REDIS_PORT = 6379
S3_PLACE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{2,62}(/[A-Za-z0-9_][A-Za-z0-9_.=-]*)*/?")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitSettings(_Section):
    """Bounds on one request and one query. `backlog` is how far the aggregators may fall behind before 503."""

    body: SizeBytes = 16 << 20
    unpacked: SizeBytes = 64 << 20
    event: SizeBytes = 1 << 20
    query_time: DurationMs = 10_000
    query_rows: int = Field(default=100_000, gt=0)
    query_memory: SizeBytes = 1 << 30
    backlog: SizeBytes = 4 << 30


class KafkaOptions(_Section):
    """How to get into the brokers that `log: kafka://…` names, and what rta's topics are like there."""

    topic_prefix: str = Field(default="rta.", pattern=r"^[A-Za-z0-9._-]{1,40}$")
    replication: int | None = Field(default=None, ge=1, le=16)
    in_sync: int | None = Field(default=None, ge=1, le=16)
    retention: DurationMs = 7 * 86_400_000
    delivery: DurationMs = 10_000
    request: DurationMs = 5_000
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password: SecretStr | None = None
    """Only from the environment (`RTA_KAFKA_PASSWORD`); or `password_file`."""
    password_file: Path | None = None

    @model_validator(mode="after")
    def _complete(self) -> KafkaOptions:
        for name in ("ca_file", "cert_file", "key_file", "password_file"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"'{name}' is '{path}', and there is no such file")
        if "SASL" in self.security and None in (self.sasl_mechanism, self.username):
            raise ValueError(f"security '{self.security}' needs 'sasl_mechanism' and 'username'")
        if "SASL" in self.security and self.password is None and self.password_file is None:
            raise ValueError(f"security '{self.security}' needs RTA_KAFKA_PASSWORD or 'password_file'")
        if "SASL" not in self.security and self.username is not None:
            raise ValueError(f"'username' has no effect with security '{self.security}'; use SASL_SSL")
        if self.replication is not None and self.in_sync is not None and self.in_sync > self.replication:
            raise ValueError(f"'in_sync' is {self.in_sync}, more than the {self.replication} of 'replication'")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("'key_file' has no effect without 'cert_file'")
        for name in ("ca_file", "cert_file"):
            if "SSL" not in self.security and getattr(self, name) is not None:
                raise ValueError(f"'{name}' has no effect with security '{self.security}'; use SSL or SASL_SSL")
        return self

    @property
    def secret(self) -> str | None:
        """The password, read from its file if it has one."""
        if self.password_file is not None:
            return self.password_file.read_text().strip()
        return None if self.password is None else self.password.get_secret_value()


class QuotaSettings(_Section):
    """What each source may send: `events_per_second` in the long run, `burst` at once. A larger request never fits."""

    events_per_second: float = Field(gt=0, le=1e12, allow_inf_nan=False)
    burst: int = Field(ge=1, le=10**12)


class Settings(_Section):
    """Everything that a person can set. Field by field as in docs/operations.md."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    data_dir: Path = Path("./rta-data")
    log: str = "embedded"
    """`embedded`, or `kafka://host:port,host2:port2`."""
    kafka: KafkaOptions = KafkaOptions()
    store: str = "local"
    """`local` is in `data_dir`; or `s3://bucket/prefix`."""
    redis: str | None = None
    """`redis://host:port/0` or `rediss://…`, what replicas share quotas and answers through; never with its password."""
    redis_password: SecretStr | None = None
    """From the environment (`RTA_REDIS_PASSWORD`), or taken out of the url."""
    partitions: int = Field(default=8, ge=1, le=1024)
    aggregators: int | Literal["auto"] = "auto"
    epoch: DurationMs = 30_000
    epoch_events: int = Field(default=500_000, gt=0)
    dedup_window: DurationMs = 86_400_000
    dedup_memory_ids: int = Field(default=20_000_000, gt=0)
    ingress: Literal["auto", "haproxy", "python"] = "auto"
    quotas: QuotaSettings | None = None
    limits: LimitSettings = LimitSettings()
    datasources: list[dict[str, Any]] = Field(default_factory=list)
    crash_at: str | None = None
    """For fault tests only: see `rta.actors.crash`."""

    @field_validator("log")
    @classmethod
    def _known_log(cls, value: str) -> str:
        if value != "embedded":
            parse_servers(value)
        return value

    @field_validator("store")
    @classmethod
    def _known_store(cls, value: str) -> str:
        if value != "local" and S3_PLACE.fullmatch(value) is None:
            raise ValueError("that is no store that rta knows; write 'local' or s3://bucket/prefix")
        return value.rstrip("/")

    @model_validator(mode="before")
    @classmethod
    def _without_secrets(cls, document: Any) -> Any:
        """Before anything can name the url in a message, its password is taken out."""
        if not isinstance(document, dict) or not isinstance(document.get("redis"), str):
            return document
        url, password = _without_password(document["redis"])
        taken = document.get("redis_password") or password
        return {**document, "redis": url, **({"redis_password": taken} if taken else {})}

    @field_validator("redis")
    @classmethod
    def _known_redis(cls, value: str | None) -> str | None:
        if value is not None:
            parse_redis(value)
        return value

    @property
    def kafka_servers(self) -> tuple[str, ...]:
        """`host:port` of each; empty with the embedded log."""
        return () if self.log == "embedded" else parse_servers(self.log)

    @property
    def aggregator_count(self) -> int:
        """One per core, at most one per partition of a new datasource."""
        wanted = (os.cpu_count() or 1) if self.aggregators == "auto" else self.aggregators
        return max(1, min(wanted, self.partitions))


def parse_servers(url: str) -> tuple[str, ...]:
    """`kafka://host:port,host2` → `host:port` of each. Raises ValueError."""
    remedy = "write 'embedded' or kafka://host:9092,host2:9092"
    if not url.startswith(KAFKA_SCHEME):
        raise ValueError(f"that is no log that rta knows; {remedy}")
    servers = []
    for entry in url.removeprefix(KAFKA_SCHEME).rstrip("/").split(","):
        host, separator, port = entry.strip().rpartition(":")
        if not separator:
            host, port = port, str(KAFKA_PORT)
        if not host or not port.isdigit() or not 0 < int(port) < 65536 or set(entry) & set("/@? "):
            raise ValueError(f"'{entry}' is no host:port; {remedy}")
        servers.append(f"{host}:{int(port)}")
    return tuple(servers)


class RedisPlace(NamedTuple):
    host: str
    port: int
    database: int
    tls: bool
    username: str | None


def parse_redis(url: str) -> RedisPlace:
    """`redis://user@host:port/database` without its password. Raises ValueError."""
    remedy = "write redis://host:6379/0 or rediss://host:6380/0"
    try:
        parts = urlsplit(url)
        port, host = parts.port or REDIS_PORT, parts.hostname
    except ValueError as error:
        raise ValueError(f"that is no Redis that rta knows; {remedy}") from error
    database = parts.path.strip("/") or "0"
    if parts.scheme not in ("redis", "rediss") or not host or parts.query or parts.fragment or not database.isdecimal():
        raise ValueError(f"that is no Redis that rta knows; {remedy}")
    username = unquote(parts.username) if parts.username else None
    return RedisPlace(host, port, int(database), parts.scheme == "rediss", username)


def _without_password(url: str) -> tuple[str, str | None]:
    """The url without its password, and the password. Of a query, which is refused later, no more than that there is one."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    userinfo, at, place = rest.rpartition("@")
    user, _, password = userinfo.partition(":")
    place, query, _ = place.partition("?")
    place += query and "?..."
    return f"{scheme}{separator}{user}{at if user else ''}{place}", unquote(password) or None


def load_settings(path: Path | None = None, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings.

    Args:
        path: A YAML file; None takes `rta.yaml` here when there is one.
        environment: Where `RTA_<KEY>` and `RTA_LIMITS_<KEY>` are looked up; the process's own by default.
        overrides: What the command line said; None values are ignored. It wins.

    Raises:
        ConfigError: a file that can't be read, an unknown key (the nearest valid name is given) or a wrong value.
    """
    document = _from_file(path)
    _apply_environment(document, os.environ if environment is None else environment)
    document.update({key: value for key, value in overrides.items() if value is not None})
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigError(*_explain(error)) from error
    return settings.model_copy(update={"data_dir": settings.data_dir.expanduser().resolve()})


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        path = Path("rta.yaml")
        if not path.exists():
            return {}
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"settings file '{path}' can't be read: {error.strerror}", "check --config") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"settings file '{path}' is not YAML: {error}", "see the README for an example") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"settings file '{path}' holds a {type(document).__name__}", "write 'key: value' lines")
    if isinstance(document.get("kafka"), dict) and "password" in document["kafka"]:
        raise ConfigError(
            f"settings file '{path}' holds 'kafka.password'", "set RTA_KAFKA_PASSWORD, or name a 'kafka.password_file'"
        )
    if "redis_password" in document:
        raise ConfigError(f"settings file '{path}' holds 'redis_password'", "set RTA_REDIS_PASSWORD")
    return document


def _apply_environment(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, text in environment.items():
        if not name.startswith("RTA_"):
            continue
        key = name.removeprefix("RTA_").lower()
        section, _, rest = key.partition("_")
        if section in SECTIONS and rest:
            value = text if rest == "password" else yaml.safe_load(text)
            document[section] = {**(document.get(section) or {}), rest: value}
        elif key in Settings.model_fields:
            document[key] = text if key == "redis_password" else yaml.safe_load(text)
        else:
            raise ConfigError(f"unknown setting '{name}' in the environment", _nearest(key, Settings))


SECTIONS: Mapping[str, type[BaseModel]] = {"limits": LimitSettings, "kafka": KafkaOptions, "quotas": QuotaSettings}


def _nearest(key: str, model: type[BaseModel]) -> str:
    near = difflib.get_close_matches(key, model.model_fields, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(model.model_fields)}"


def _explain(error: ValidationError) -> tuple[str, str]:
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model = SECTIONS.get(str(first["loc"][0]), Settings) if len(first["loc"]) > 1 else Settings
        return f"unknown setting '{path}'", _nearest(str(first["loc"][-1]), model)
    if first["type"] == "missing":
        return f"setting '{path}' is missing", "docs/operations.md lists the settings"
    said = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    # What is wrong with a section as a whole is said without its values: a password may be among them.
    shown = f"setting '{path}'" if isinstance(given, dict | list) else f"setting '{path}' is {given!r}"
    return f"{shown}: {said}", "docs/operations.md lists the settings"
