"""Files of the store that are not as they were written: what can't go on says which file it is, and everything else goes on."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rta.events.schemas import TIME
from rta.store.model import Manifest
from tests.faults.plant import Plant
from tests.system.running import wait_for

SETTLED_S = 2.0
"""A part that a stopped aggregator had offered is in a manifest by then."""
LIMIT_S = 60.0
LONG_AGO = "2000-01-01T00:00:00Z/2000-01-02T00:00:00Z"


def truncated_state(plant: Plant, hold_s: float) -> None:
    """The saved state that an aggregator has to begin from has lost its second half."""
    [folder] = plant.objects().glob("events.*")
    victim = _stopped(plant, folder)
    state = folder / next(state for state in _states(folder) if f"/{victim.name}-" in state)
    with _damaged(state) as content:
        state.write_bytes(content[: len(content) // 2])
        os.kill(victim.pid, signal.SIGKILL)
        wait_for(lambda: state.name in plant.said("/readyz"), f"it is said that '{state.name}' can't be read", LIMIT_S)
        assert state.name in plant.said("/v1/status")
        wait_for(plant.aside_answers, "the other datasource answers", LIMIT_S)
        threading.Event().wait(hold_s / 2)
        assert plant.aside_answers()


def flipped_byte(plant: Plant, hold_s: float) -> None:
    """One bit of a file of raw events is another one."""
    wait_for(lambda: bool(plant.raw_files()), "events are in the tables")
    wait_for(
        lambda: _one_flipped(plant, hold_s), "a damaged file is noticed before compaction has replaced it", LIMIT_S
    )


def _one_flipped(plant: Plant, hold_s: float) -> bool:
    """False when the file left the table at that moment: nobody reads it any more."""
    # The newest one, which no worker has read yet: each compares the checksums of a file once.
    file = max(plant.raw_files(), key=lambda path: path.stat().st_mtime_ns)
    place, event, within = _inside(file)
    with _damaged(file) as content:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])

        def noticed() -> bool:
            return file.name in _asked(plant, within, event)

        wait_for(lambda: noticed() or file not in plant.raw_files(), f"'{file.name}' is named as broken", LIMIT_S)
        if not noticed():
            return False
        assert '"rows"' in _asked(plant, LONG_AGO, event)
        wait_for(plant.aside_answers, "the other datasource answers", LIMIT_S)
        threading.Event().wait(hold_s / 2)
    wait_for(lambda: '"rows"' in _asked(plant, within, event), "it is answered again", LIMIT_S)
    return True


def _inside(file: Path) -> tuple[int, str, str]:
    """A place in the middle of the ids, the first of them, and the range of the events' times: a question about all time
    may read more by then than its time limit allows."""
    metadata = pq.read_metadata(file)
    chunk = metadata.row_group(0).column(metadata.schema.names.index("event_id"))
    events = pq.read_table(file, columns=["event_id", TIME], partitioning=None)
    times = pc.min_max(events.column(TIME).cast(pa.int64())).as_py()
    ends = [datetime.fromtimestamp(ms / 1000, UTC).isoformat() for ms in (times["min"], times["max"] + 1)]
    place = chunk.data_page_offset + chunk.total_compressed_size // 2
    return place, events.column("event_id")[0].as_py(), "/".join(ends)


def _asked(plant: Plant, time_range: str, event: str) -> str:
    """A question that no rollup answers."""
    question = {
        "datasource": "events",
        "time_range": time_range,
        "metrics": [{"name": "n", "type": "count"}],
        "filters": {"event_id": event},
    }
    return plant.running.http.post("/v1/query", json=question).text


class _Victim(msgspec.Struct, frozen=True):
    name: str
    pid: int


def _stopped(plant: Plant, folder: Path) -> _Victim:
    """An aggregator that stands still, so that what the manifests name of it stays."""
    found: list[_Victim] = []

    def named() -> bool:
        """One that has committed something: a state is named after it."""
        answer = plant.running.http.get("/v1/status")
        actors = answer.json()["actors"] if answer.status_code == 200 else {}
        alive = [_Victim(name, actor["pid"]) for name, actor in actors.items() if actor["alive"]]
        found[:] = [victim for victim in alive if any(f"/{victim.name}-" in state for state in _states(folder))]
        return bool(found)

    wait_for(named, "an aggregator has committed", LIMIT_S)
    victim = found[0]
    os.kill(victim.pid, signal.SIGSTOP)
    threading.Event().wait(SETTLED_S)
    return victim


def _states(folder: Path) -> list[str]:
    """Paths of the states that the newest manifest names."""
    newest = max((folder / "manifests").iterdir())
    entries = msgspec.json.decode(newest.read_bytes(), type=Manifest).partitions
    return [entry.state for entry in entries if entry.state is not None]


@contextmanager
def _damaged(file: Path) -> Iterator[bytes]:
    """Its true content; it is put back at the end. The server keeps what it knows of an object beside the content."""
    aside = file.with_name(f".{file.name}.whole")
    shutil.copy2(file, aside)
    try:
        yield aside.read_bytes()
    finally:
        with file.open("r+b") as damaged:
            damaged.write(aside.read_bytes())
            damaged.truncate()
        aside.unlink()
