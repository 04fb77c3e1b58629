"""Nothing is lost and nothing is counted twice, whatever is killed, while events flow in and questions are asked.

The oracle is what the sender knows: every id that was acknowledged must be in the raw table exactly once, with its value,
read from the Delta table by another program than ours.
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest
from deltalake import DeltaTable

from rta.actors.crash import POINTS
from tests.system.running import (
    AGGREGATOR,
    COORDINATOR,
    INGEST,
    LOG_HOST,
    QUERY,
    Running,
    Sender,
    Watcher,
    wait_for,
)

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "6"))
RATE = int(os.environ.get("FAULT_RATE", "6000"))
SEED = int(os.environ.get("FAULT_SEED", "20260101"))
KINDS = (AGGREGATOR, COORDINATOR, INGEST, LOG_HOST, QUERY, "everything")
PAUSE_S = 3.0


def stored_ids(running: Running) -> dict[str, float]:
    """id → price out of the open-format table. Raises AssertionError for an id that is there twice."""
    tables = sorted((running.folder / "data" / "store").glob("events.*/tables/events"))
    assert len(tables) == 1, tables
    rows = DeltaTable(str(tables[0])).to_pyarrow_table(columns=["event_id", "price"])
    ids = rows.column("event_id").to_pylist()
    found = dict(zip(ids, rows.column("price").to_pylist(), strict=True))
    assert len(found) == len(ids), f"{len(ids) - len(found)} rows are there twice"
    return found


def check_nothing_lost(running: Running, senders: list[Sender]) -> None:
    """The ledger says 0 and 0, the live answer is exact, and after a stop the table holds each id once."""
    acknowledged = {key: price for s in senders for key, price in s.acknowledged.items()}
    row = running.rows(
        datasource="events",
        time_range="2000-01-01T00:00:00Z/2100-01-01T00:00:00Z",
        after=senders[-1].position,
        metrics=[{"name": "n", "type": "count"}, {"name": "s", "type": "sum", "field": "custom_properties.price"}],
    )[0]
    assert row["n"] == len(acknowledged)
    assert row["s"] == pytest.approx(sum(acknowledged.values()), abs=0.005)
    ledger = running.wait_committed("events", len(acknowledged))
    assert (ledger["lost"], ledger["duplicated"]) == (0, 0), ledger
    assert ledger["mismatches"] == []
    assert running.stop() == 0
    assert stored_ids(running) == acknowledged


@pytest.mark.timeout(900)
def test_kills_of_every_process_lose_and_double_nothing(own_folder: Path) -> None:
    print(f"seed {SEED}, {ROUNDS} kills at {RATE} events/s")
    order = random.Random(SEED)
    kills = [KINDS[k % len(KINDS)] for k in range(ROUNDS)]
    order.shuffle(kills)
    running = Running(own_folder).start()
    senders = [Sender(running, RATE // 2, seed=SEED + k) for k in range(2)]
    watcher = Watcher(running, senders)
    for thread in (*senders, watcher):
        thread.start()
    pause = threading.Event()
    for kind in kills:
        pause.wait(PAUSE_S * order.random() + 0.5)
        print("kill -9", kind)
        if kind == "everything":
            running.kill_everything()
            running.start()
        else:
            running.kill(kind)
        before = sum(len(s.acknowledged) for s in senders)
        wait_for(lambda: sum(len(s.acknowledged) for s in senders) > before + RATE, "events are taken again", 90)  # noqa: B023 - called in this round
    for sender in senders:
        sender.finish()
    check_nothing_lost(running, senders)
    watcher.finish()
    assert watcher.wrong == []
    assert watcher.answers > ROUNDS
    assert [s.refused for s in senders] == [[], []]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", POINTS)
def test_a_crash_between_the_steps_of_a_commit_loses_and_doubles_nothing(own_folder: Path, point: str) -> None:
    running = Running(own_folder, epoch="1s", crash_at=f"{point}:3").start()
    sender = Sender(running, 2000, seed=SEED)
    sender.start()
    marker = own_folder / "data" / "run" / f"crashed-{point}"
    wait_for(marker.exists, f"the process crashes at '{point}'", 90)
    count = len(sender.acknowledged)
    wait_for(lambda: len(sender.acknowledged) > count + 4000, "events are taken on", 60)
    sender.finish()
    check_nothing_lost(running, [sender])
