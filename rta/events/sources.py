"""Topics of other producers as a datasource's log: the section `source` of a definition, and which columns its fold needs.

Reading them is `rta.log.kafka`'s, making events of their records `rta.events.records`'s.
"""

from __future__ import annotations

import re

import msgspec

from rta.errors import InvalidDatasourceError
from rta.events.document import Section, wrong
from rta.events.exact import iso_ms
from rta.events.schemas import Datasource, RecordFormat, Source
from rta.events.wrapping import MEMBERS, ROOT

TOPIC = re.compile(r"[A-Za-z0-9._\-]{1,249}")
EARLIEST, LATEST = "earliest", "latest"


def parse_source(section: Section) -> Source | None:
    """The topic that a datasource reads, if any. Raises InvalidDatasourceError."""
    if section.get("source") is None:
        return None
    kinds = Section(section.get("source"), "source", ["kafka"])
    if kinds.get("kafka") is None:
        raise InvalidDatasourceError("'source.kafka' is required", 'name the topic: {"kafka": {"topic": …}}')
    if section.get("partitions") is not None:
        raise wrong(section.at("partitions"), section.get("partitions"), "none: the topic in 'source' has its own")
    given = Section(kinds.get("kafka"), "source.kafka", ["topic", "format", "start"])
    topic = given.text("topic")
    if not TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise wrong(given.at("topic"), topic, "a Kafka topic: 1-249 letters, digits, '.', '_' and '-'")
    written = given.text("format") if "format" in given else RecordFormat.JSON
    if written not in list(RecordFormat):
        raise wrong(given.at("format"), written, f"one of {', '.join(RecordFormat)}")
    return Source(topic, RecordFormat(written), _start(given))


def _start(given: Section) -> str | int:
    start = given.get("start")
    if start in (None, EARLIEST, LATEST):
        return start or EARLIEST
    if isinstance(start, int) and not isinstance(start, bool) and start >= 0:
        return start
    time_ms = iso_ms(start) if isinstance(start, str) else None
    if time_ms is None or time_ms < 0:
        expected = "earliest, latest, an ISO 8601 time with a zone, or milliseconds since 1970"
        raise wrong(given.at("start"), start, expected)
    return time_ms


def check_paths(datasource: Datasource) -> None:
    """Columns below `__kafka` must name something that a record has. Raises InvalidDatasourceError."""
    for name, path in [("time", datasource.time_path), *((f"columns.{c.name}", c.path) for c in datasource.columns)]:
        if path[0] != ROOT:
            continue
        if datasource.source is None:
            raise wrong(name, ".".join(path), f"another path: '{ROOT}' is there only with a 'source'")
        if len(path) == 1 or path[1] not in MEMBERS or (len(path) > 2 and path[1] != "headers"):
            raise wrong(name, ".".join(path), f"{ROOT}.<one of {', '.join(MEMBERS)}> or {ROOT}.headers.<name>")
        if datasource.source.format is RecordFormat.ARROW:
            raise wrong(name, ".".join(path), "another path: records in Arrow have many events each")


def described(source: Source | None) -> str | None:
    """A source in a sentence."""
    return None if source is None else f"topic {source.topic}, {source.format}, from {source.start}"


def narrowed(datasource: Datasource) -> Datasource:
    """The datasource as its fold needs it: where no raw rows are kept, only the columns that something is made of.

    What an event must have stays asked for, and so do its identity's fields.
    """
    if datasource.retention.events_ms is not None:
        return datasource
    wanted = {name for rollup in datasource.rollups for name in rollup.dimensions}
    wanted |= {m.field for rollup in datasource.rollups for m in rollup.metrics if m.field is not None}
    if datasource.id is not None:
        wanted |= {datasource.id, *datasource.keys}
    columns = tuple(c for c in datasource.columns if c.required or c.name in wanted)
    return msgspec.structs.replace(datasource, columns=columns, keys=datasource.keys if datasource.id else ())
