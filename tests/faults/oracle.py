"""The judge: what the open-format table holds against what the senders know. Other programs than rta's own read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import DeltaTable

from tests.faults.senders import ID_WIDTH, NAME_WIDTH, NUMBER_WIDTH, Longs, cents_of

POWERS = 10 ** np.arange(NUMBER_WIDTH, dtype=np.int64)[::-1]


def cents(acknowledged: Mapping[int, int]) -> int:
    """Sum of the prices of all acknowledged events, by sender."""
    return sum(int(cents_of(sender, np.arange(count)).sum()) for sender, count in acknowledged.items())


def judge_table(place: str, options: Mapping[str, str], acknowledged: Mapping[int, int]) -> int:
    """Every acknowledged event is in the Delta table exactly once with its price, and nothing else is; how many rows.

    Args:
        place: `s3://…`.
        options: As deltalake takes them.
        acknowledged: How many events of each sender; they are numbered from 0.

    Raises AssertionError that says which sender's events are lost, there twice, or wrong.
    """
    seen = {sender: np.zeros(count, np.int64) for sender, count in acknowledged.items()}
    for rows in _files(place, options):
        senders, numbers = _identities(rows.column("event_id"))
        prices = np.round(rows.column("price").to_numpy() * 100).astype(np.int64)
        assert set(np.unique(senders)) <= set(seen), f"events of unknown senders: {set(np.unique(senders)) - set(seen)}"
        for sender, counts in seen.items():
            mine = numbers[senders == sender]
            beyond = mine[mine >= len(counts)]
            assert not len(beyond), f"sender {sender}: {len(beyond)} events that were never acknowledged: {beyond[:5]}"
            counts += np.bincount(mine, minlength=len(counts))
            wrong = mine[prices[senders == sender] != cents_of(sender, mine)]
            assert not len(wrong), f"sender {sender}: {len(wrong)} events have another price: {wrong[:5]}"
    for sender, counts in seen.items():
        lost, twice = np.flatnonzero(counts == 0), np.flatnonzero(counts > 1)
        assert not len(lost), f"sender {sender}: {len(lost)} events are lost: {lost[:5]}"
        assert not len(twice), f"sender {sender}: {len(twice)} events are there more than once: {twice[:5]}"
    return sum(map(len, seen.values()))


def _files(place: str, options: Mapping[str, str]) -> Iterator[pa.Table]:
    table = DeltaTable(place, storage_options=dict(options))
    bucket = pa.fs.S3FileSystem(
        access_key=options["aws_access_key_id"],
        secret_key=options["aws_secret_access_key"],
        endpoint_override=options["aws_endpoint_url"].removeprefix("http://"),
        region=options["aws_region"],
        scheme="http",
    )
    for uri in table.file_uris():
        yield pq.read_table(
            uri.removeprefix("s3://"), columns=["event_id", "price"], filesystem=bucket, partitioning=None
        )


def _identities(column: pa.ChunkedArray) -> tuple[Longs, Longs]:
    """Sender and number of each id: all are of one width, so their bytes are a matrix of digits."""
    ids = column.combine_chunks().cast(pa.large_string())
    assert pc.min_max(pc.binary_length(ids)).as_py() == {"min": ID_WIDTH, "max": ID_WIDTH}, "ids of another form"
    offsets, data = ids.buffers()[1], ids.buffers()[2]
    first = np.frombuffer(offsets, np.int64)[ids.offset]
    digits = np.frombuffer(data, np.uint8)[first : first + len(ids) * ID_WIDTH].reshape(-1, ID_WIDTH) - 48
    return digits[:, :NAME_WIDTH] @ POWERS[-NAME_WIDTH:], digits[:, -NUMBER_WIDTH:] @ POWERS
