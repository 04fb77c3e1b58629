"""The log that a site names, opened: readers, writers and admins of whichever kind it is. Imports only that kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rta.actors.links import Site
from rta.errors import BadRequestError, RtaError
from rta.events.schemas import Datasource, Source
from rta.log.base import LogAdmin, LogReader, LogWriter

if TYPE_CHECKING:
    from rta.log.kafka.source import SourceReader


def open_reader(site: Site, datasource: Datasource | None = None) -> LogReader:
    """Of rta's own topics, or of the topic of other producers that a datasource reads."""
    if datasource is not None and datasource.source is not None:
        return open_source(site)
    if site.kafka is not None:
        from rta.log.kafka.reader import KafkaReader

        return KafkaReader(site.kafka)
    from rta.log.embedded import EmbeddedReader

    return EmbeddedReader(Path(site.log_folder), Path(site.log_socket))


def open_source(site: Site) -> SourceReader:
    """Raises BadRequestError where no brokers are configured."""
    if site.kafka is None:
        raise BadRequestError(
            "a 'source' needs Kafka, and this system's log is 'embedded'", "set 'log' to kafka://host:9092"
        )
    from rta.log.kafka.source import SourceReader

    return SourceReader(site.kafka)


def source_partitions(site: Site, source: Source) -> int:
    """How many partitions the topic has now. Raises NotFoundError, UnavailableError, BadRequestError."""
    reader = open_source(site)
    try:
        return len(reader.partitions(source.topic))
    finally:
        reader.close()


def open_writer(site: Site) -> LogWriter:
    if site.kafka is not None:
        from rta.log.kafka.writer import KafkaWriter

        return KafkaWriter(site.kafka)
    from rta.log.embedded import EmbeddedWriter

    return EmbeddedWriter(Path(site.log_socket))


def open_admin(site: Site) -> LogAdmin:
    if site.kafka is not None:
        from rta.log.kafka.admin import KafkaAdmin

        return KafkaAdmin(site.kafka)
    from rta.log.embedded import EmbeddedAdmin

    return EmbeddedAdmin(Path(site.log_socket))


def check_log(site: Site) -> None:
    """Whether the brokers let us in. The embedded log is a part of this system and comes up with it.

    Raises:
        ConfigError: a certificate or key can't be used.
        AccessError: they don't; the hint names the setting to mend.
        UnavailableError: none answers.
    """
    if site.kafka is None:
        return
    from rta.log.kafka.access import check_files
    from rta.log.kafka.admin import KafkaAdmin

    check_files(site.kafka)
    admin = KafkaAdmin(site.kafka)
    try:
        admin.topics()
    finally:
        admin.close()


def log_stats(site: Site) -> dict[str, Any]:
    """What the embedded log says of itself for `/v1/status`; `alive` is false, with a `reason`, when it can't be reached."""
    from rta.log.embedded import EmbeddedAdmin

    try:
        admin = EmbeddedAdmin(Path(site.log_socket))
        try:
            return {"kind": "embedded", "alive": True, **msgspec.to_builtins(admin.stats())}
        finally:
            admin.close()
    except RtaError as error:
        return {"kind": "embedded", "alive": False, "reason": str(error)}
