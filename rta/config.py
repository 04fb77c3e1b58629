"""The settings tree: `rta.yaml`, then `RTA_<KEY>` from the environment, read once and validated as a whole.

No other module reads the environment. Sizes are bytes and durations milliseconds once they are in here.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

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


class Settings(_Section):
    """Everything that a person can set. Field by field as in the README."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    data_dir: Path = Path("./rta-data")
    log: Literal["embedded"] = "embedded"
    store: Literal["local"] = "local"
    partitions: int = Field(default=8, ge=1, le=1024)
    aggregators: int | Literal["auto"] = "auto"
    epoch: DurationMs = 30_000
    epoch_events: int = Field(default=500_000, gt=0)
    dedup_window: DurationMs = 86_400_000
    dedup_memory_ids: int = Field(default=20_000_000, gt=0)
    ingress: Literal["auto", "haproxy", "python"] = "auto"
    limits: LimitSettings = LimitSettings()
    datasources: list[dict[str, Any]] = Field(default_factory=list)
    crash_at: str | None = None
    """For fault tests only: see `rta.actors.crash`."""

    @property
    def aggregator_count(self) -> int:
        """One per core, at most one per partition of a new datasource."""
        wanted = (os.cpu_count() or 1) if self.aggregators == "auto" else self.aggregators
        return max(1, min(wanted, self.partitions))


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
    return document


def _apply_environment(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, text in environment.items():
        if not name.startswith("RTA_"):
            continue
        key = name.removeprefix("RTA_").lower()
        if key.startswith("limits_"):
            document["limits"] = {**(document.get("limits") or {}), key.removeprefix("limits_"): yaml.safe_load(text)}
        elif key in Settings.model_fields:
            document[key] = yaml.safe_load(text)
        else:
            raise ConfigError(f"unknown setting '{name}' in the environment", _nearest(key, Settings))


def _nearest(key: str, model: type[BaseModel]) -> str:
    near = difflib.get_close_matches(key, model.model_fields, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(model.model_fields)}"


def _explain(error: ValidationError) -> tuple[str, str]:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model = LimitSettings if first["loc"][0] == "limits" else Settings
        return f"unknown setting '{path}'", _nearest(str(first["loc"][-1]), model)
    said = first["msg"].removeprefix("Value error, ")
    return f"setting '{path}' is {first.get('input')!r}: {said}", "docs/operations.md lists the settings"
