"""How many bytes an Arrow IPC stream will take once its buffers are unpacked, found without unpacking them.

A compressed buffer begins with its size unpacked (8 bytes), which Arrow allocates before it looks further; where the
buffers lie says the message's metadata, a flatbuffer (`Message.fbs` of the Arrow format). Owns that little of both.
"""

from __future__ import annotations

import struct

import pyarrow as pa

_DICTIONARY = 2
_RECORD_BATCH = 3
_HEADER_TYPE, _HEADER = 1, 2
_DATA = 1
_BUFFERS, _COMPRESSION = 2, 3


def unpacked_bytes(data: bytes) -> int:
    """Bytes of all buffers of all messages, as far as the stream can be read.

    Raises:
        pa.ArrowInvalid: a message that contradicts itself.
    """
    total = 0
    reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(data))
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return total
        try:
            total += _message_bytes(message.metadata.to_pybytes(), message.body)
        except (struct.error, IndexError) as error:
            raise pa.ArrowInvalid("a message's metadata does not fit its body") from error


def _message_bytes(metadata: bytes, body: pa.Buffer | None) -> int:
    message = _table(metadata, 0)
    kind_at = _field(metadata, message, _HEADER_TYPE)
    header_at = _field(metadata, message, _HEADER)
    kind = metadata[kind_at] if kind_at else 0
    if body is None or not header_at or kind not in (_DICTIONARY, _RECORD_BATCH):
        return 0
    batch = _table(metadata, header_at)
    if kind == _DICTIONARY:
        batch = _table(metadata, _field(metadata, batch, _DATA))
    buffers_at = _field(metadata, batch, _BUFFERS)
    if not buffers_at or not _field(metadata, batch, _COMPRESSION):
        return int(body.size)
    vector = _table(metadata, buffers_at)
    (count,) = struct.unpack_from("<I", metadata, vector)
    content = memoryview(body)
    total = 0
    for offset, length in struct.iter_unpack("<qq", metadata[vector + 4 : vector + 4 + 16 * count]):
        if length <= 0:
            continue
        (unpacked,) = struct.unpack_from("<q", content, offset)
        total += length if unpacked < 0 else unpacked
    return total


def _table(data: bytes, at: int) -> int:
    """Where the table, vector or root that `at` refers to begins."""
    (offset,) = struct.unpack_from("<I", data, at)
    return at + int(offset)


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a table lies, or 0 if the table does not have it."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    (size,) = struct.unpack_from("<H", data, vtable)
    entry = 4 + 2 * number
    if vtable < 0 or entry >= size:
        return 0
    (offset,) = struct.unpack_from("<H", data, vtable + entry)
    return table + int(offset) if offset else 0
