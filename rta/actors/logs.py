"""The log that a site names, opened: readers, writers and admins of whichever kind it is. Imports only that kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from rta.actors.links import Site
from rta.errors import RtaError
from rta.log.base import LogAdmin, LogReader, LogWriter


def open_reader(site: Site) -> LogReader:
    if site.kafka is not None:
        from rta.log.kafka.reader import KafkaReader

        return KafkaReader(site.kafka)
    from rta.log.embedded import EmbeddedReader

    return EmbeddedReader(Path(site.log_folder), Path(site.log_socket))


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
    """What `/v1/status` says of the log; `alive` is false, with a `reason`, when it can't be reached."""
    try:
        stats = _kafka_stats(site) if site.kafka is not None else _embedded_stats(site)
    except RtaError as error:
        stats = {"alive": False, "reason": str(error)}
    return {"kind": "embedded" if site.kafka is None else "kafka", **stats}


def _embedded_stats(site: Site) -> dict[str, Any]:
    from rta.log.embedded import EmbeddedAdmin

    admin = EmbeddedAdmin(Path(site.log_socket))
    try:
        stats: dict[str, Any] = msgspec.to_builtins(admin.stats())
        return {"alive": True, **stats}
    finally:
        admin.close()


def _kafka_stats(site: Site) -> dict[str, Any]:
    from rta.log.kafka.admin import KafkaAdmin

    assert site.kafka is not None
    admin = KafkaAdmin(site.kafka)
    try:
        return {"alive": True, "servers": list(site.kafka.servers), "topics": admin.topics()}
    finally:
        admin.close()
