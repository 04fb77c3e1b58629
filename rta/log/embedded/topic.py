"""The document of a topic: which partitions, floors and segment files it has. `topic.json` in the topic's folder.

The document is the truth about which files belong to the topic; it is replaced as a whole and durably, before a new
file is written to and before an old one is deleted. Only the log server writes it; readers read it at every step, so
floors and the list of files are always seen together. Records are not this module's business.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable
from pathlib import Path

import msgspec

from rta.errors import BadRequestError, CorruptFileError, NotFoundError, StoreFormatError
from rta.log.base import PartitionState
from rta.log.embedded.settings import PARTITIONS_MAX

FORMAT = 1
DOCUMENT = "topic.json"
_TOPIC_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class PartitionEntry(msgspec.Struct, frozen=True):
    """`floor_bytes` counts the partition's bytes below `floor` since it was made, so that a backlog is a difference."""

    incarnation: str
    floor: int
    floor_bytes: int


class SegmentEntry(msgspec.Struct, frozen=True):
    """One file, and what was true when it was begun: the last append time, per partition its end and all its bytes."""

    first: int
    append_time_ms: int
    ends: list[int]
    bytes: list[int]


class TopicDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Segments ascend by offset; the last one is being written to."""

    format: int
    topic: str
    id: str
    created_ms: int
    partitions: list[PartitionEntry]
    segments: list[SegmentEntry]

    def file_name(self, segment: SegmentEntry) -> str:
        """Unique over all incarnations: SQLite names a database's companions by path, so a path must not come back."""
        return f"{segment.first:020d}-{self.id[:8]}.db"

    def check_partitions(self, numbers: Iterable[int]) -> None:
        """Raises NotFoundError when a partition does not exist."""
        for partition in numbers:
            if not 0 <= partition < len(self.partitions):
                raise NotFoundError(
                    f"topic '{self.topic}' has no partition {partition}",
                    hint=f"its partitions are 0 to {len(self.partitions) - 1}",
                )

    def may_hold(self, index: int, partition: int, offset: int) -> bool:
        """Whether segment `index` can hold records of the partition at or beyond the offset."""
        if index + 1 == len(self.segments):
            return True
        end = self.segments[index + 1].ends[partition]
        return end > offset and end > self.segments[index].ends[partition]

    def deletable(self) -> int:
        """How many segments, from the oldest on, lie wholly below every partition's floor."""
        count = 0
        for following in self.segments[1:]:
            if any(entry.floor < end for entry, end in zip(self.partitions, following.ends, strict=True)):
                break
            count += 1
        return count

    def states(self, ends: list[int]) -> dict[int, PartitionState]:
        return {
            number: PartitionState(entry.incarnation, entry.floor, end)
            for number, (entry, end) in enumerate(zip(self.partitions, ends, strict=True))
        }


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(TopicDocument)


class _Versioned(msgspec.Struct):
    format: int


def new_document(topic: str, partitions: int, now_ms: int) -> TopicDocument:
    """A topic that has no records yet, with incarnations that no other topic has or had. Raises BadRequestError."""
    check_topic_name(topic)
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise BadRequestError(f"topic '{topic}' can't have {partitions} partitions", hint=f"use 1 to {PARTITIONS_MAX}")
    return TopicDocument(
        format=FORMAT,
        topic=topic,
        id=uuid.uuid4().hex,
        created_ms=now_ms,
        partitions=[PartitionEntry(uuid.uuid4().hex, 0, 0) for _ in range(partitions)],
        segments=[SegmentEntry(0, 0, [0] * partitions, [0] * partitions)],
    )


def check_topic_name(topic: str) -> None:
    """Raises BadRequestError for a name that can't be a folder's."""
    if _TOPIC_NAME.fullmatch(topic) is None:
        raise BadRequestError(
            f"'{topic[:200]}' can't be a topic's name",
            hint="use up to 200 letters, digits, '.', '_' and '-', with no '.' in front",
        )


def unknown_topic(topic: str) -> NotFoundError:
    return NotFoundError(f"the log has no topic '{topic}'", hint="create it first")


def read_raw_document(folder: Path, topic: str) -> bytes:
    """Raises NotFoundError when there is no such topic."""
    try:
        return (folder / DOCUMENT).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise unknown_topic(topic) from error


def read_document(folder: Path, topic: str) -> TopicDocument:
    """Raises NotFoundError, CorruptFileError or StoreFormatError."""
    return decode_document(read_raw_document(folder, topic), folder / DOCUMENT)


def decode_document(raw: bytes, path: Path) -> TopicDocument:
    """Raises CorruptFileError, or StoreFormatError when a newer version wrote it."""
    try:
        written = msgspec.json.decode(raw, type=_Versioned)
        if written.format > FORMAT:
            raise StoreFormatError(
                f"'{path}' has format {written.format}, this version reads up to {FORMAT}", hint="install a newer rta"
            )
        return _decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise CorruptFileError(f"topic document '{path}' can't be read: {error}") from error


def write_document(folder: Path, document: TopicDocument) -> None:
    """Replace the document durably. Raises OSError; then the old one stands."""
    fresh = folder / f"{DOCUMENT}.new"
    with fresh.open("wb") as file:
        file.write(_encoder.encode(document))
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(folder / DOCUMENT)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make created, renamed and removed names durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
