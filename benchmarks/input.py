"""The events that everything is measured with: 2,000,000 of about 806 bytes, as docs/benchmarks.md describes them.

Owns the shape and the datasource that takes it. The same number always gives the same bytes.
`python -m benchmarks.input --events N -o FILE` writes them as NDJSON.
"""

from __future__ import annotations

import argparse
import itertools
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import polars as pl

from rta.events.builtin import events_document

EVENTS = 2_000_000
START_MS = 1_767_225_600_000
CHUNK = 10_000
BATCH = 1_000
COUNTRIES = (
    *("US", "DE", "GB", "IN", "BR", "FR", "JP", "VN", "CA", "IT"),
    *("ES", "AU", "NL", "KR", "PL", "SE", "MX", "ID", "NG", "NZ"),
)
DEVICES = ("desktop", "mobile", "tablet")
TYPES = ("page_view", "click", "search", "add_to_cart", "checkout", "purchase", "signup", "error")
CATEGORIES = ("electronics", "clothing", "books", "toys")
USERS, SESSIONS, PRODUCTS = 200_000, 100_000, 5_000
AGENT = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.0.0 Safari/537.36"
AGENTS = tuple(AGENT % version for version in range(120, 140))


def document(name: str = "bench") -> dict[str, Any]:
    """The built-in event shape, with the rollup of four dimensions that the other systems were given."""
    shape = events_document()
    metrics = [
        {"name": "n", "type": "count"},
        {"name": "revenue", "type": "sum", "field": "price"},
        {"name": "users", "type": "unique_count", "field": "user_id"},
        {"name": "price_q", "type": "quantile", "field": "price"},
    ]
    columns = {
        **shape["columns"],
        "category": {"path": "custom_properties.category", "type": "string"},
        "product_id": {"path": "custom_properties.product_id", "type": "string"},
    }
    rollup = {
        "name": "by_kind",
        "granularity": "minute",
        "dimensions": ["event_type", "country", "device_type", "category"],
        "metrics": metrics,
    }
    kept = {"minute": "100y", "hour": "100y", "day": "100y"}
    retention = {"events": "100y", "rejected": "30d", "sessions": "365d", "rollups": kept}
    return {**shape, "name": name, "columns": columns, "rollups": [rollup], "retention": retention}


def lines(first: int, count: int, start_ms: int = START_MS) -> bytes:
    """Events `first` to `first + count`, as NDJSON. `first` is a multiple of `CHUNK`."""
    rng = np.random.default_rng([7, first])

    def pick(words: Sequence[str]) -> pl.Series:
        return pl.Series(words).gather(rng.integers(0, len(words), count))

    def number(below: int) -> pl.Series:
        return pl.Series(rng.integers(0, below, count))

    product, cents = number(PRODUCTS), rng.integers(0, 20_000, count)
    high, low = rng.integers(0, 2**63, count), rng.integers(0, 2**63, count)
    ids = pl.Series([f"{a:016x}{b:016x}" for a, b in zip(high.tolist(), low.tolist(), strict=True)])
    times = pl.Series(start_ms + first + np.arange(count)).cast(pl.Datetime("ms"))
    parts = (
        pl.lit('{"event_id":"'),
        ids,
        pl.lit('","timestamp":"'),
        times.dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ"),
        pl.lit('","event_type":"'),
        pick(TYPES),
        pl.lit('","user_id":"user_'),
        number(USERS),
        pl.lit('","session_id":"session_'),
        number(SESSIONS),
        pl.lit('","properties":{"page_url":"https://shop.example.com/product/'),
        product,
        pl.lit("?utm_source=newsletter&utm_medium=email&utm_campaign=winter"),
        pl.lit('","page_path":"/product/'),
        product,
        pl.lit('","page_title":"Product '),
        product,
        pl.lit(' in many colours and sizes, delivered the day after you order it, free from 30 on"'),
        pl.lit(
            ',"referrer":"https://www.google.com/search?q=product+in+many+colours+and+sizes&hl=en&source=web&gl=us","user_agent":"'
        ),
        pick(AGENTS),
        pl.lit('","ip_address":"198.18.'),
        number(256),
        pl.lit("."),
        number(256),
        pl.lit('","country":"'),
        pick(COUNTRIES),
        pl.lit('","device_type":"'),
        pick(DEVICES),
        pl.lit('"},"custom_properties":{"product_id":"'),
        product,
        pl.lit('","category":"'),
        pick(CATEGORIES),
        pl.lit('","price":'),
        pl.Series(cents / 100),
        pl.lit("}}\n"),
    )
    text: str = pl.select(pl.concat_str(*parts).str.join("")).item()
    return text.encode()


def bodies(events: int) -> Iterator[bytes]:
    """All events as NDJSON bodies of `BATCH`."""
    for first in range(0, events, CHUNK):
        text = lines(first, min(CHUNK, events - first))
        ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == 10)[BATCH - 1 :: BATCH] + 1
        cuts = [0, *ends.tolist()]
        if cuts[-1] != len(text):
            cuts.append(len(text))
        yield from (text[start:end] for start, end in itertools.pairwise(cuts))


class Bodies(Sequence[bytes]):
    """The same, made once and read from a file in the temporary folder: a load generator must cost little."""

    def __init__(self, events: int) -> None:
        path = Path(tempfile.gettempdir()) / f"rta-benchmark-{os.getuid()}-{events}.ndjson"
        index = path.with_suffix(".npy")
        if not index.exists():
            offsets = [0]
            with path.open("wb") as file:
                for body in bodies(events):
                    file.write(body)
                    offsets.append(offsets[-1] + len(body))
            np.save(index, np.array(offsets))
        self._offsets = np.load(index)
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: Any) -> Any:
        return self._map[int(self._offsets[number]) : int(self._offsets[number + 1])]

    @property
    def total_bytes(self) -> int:
        return int(self._offsets[-1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input", description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    with options.output.open("wb") as file:
        for body in bodies(options.events):
            file.write(body)
    print(f"{options.events:,} events, {options.output.stat().st_size / options.events:.0f} bytes each")


if __name__ == "__main__":
    main()
