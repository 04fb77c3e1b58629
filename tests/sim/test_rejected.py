"""Rejected events under crashes, zombies, moves and lost answers: at every view each is there once, and in the end as well.

The fold of these schedules finds one rejected event in every record; all that the other schedules check holds beside it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pytest

from rta.actors import load
from rta.events.schemas import REJECTED
from rta.serve.views import ReplicaView
from rta.store.delta_log import DeltaLog
from rta.store.manifests import ManifestLog
from rta.store.parquet import read_one
from rta.store.runs import load_state
from rta.stream.fold import Fold
from rta.stream.model import BatchArrived, Increment, SavedPartition
from rta.stream.saved import decode_state, state_rows
from tests.sim import schedule, shop
from tests.sim.kernel import ViolationError
from tests.sim.reader import Replica
from tests.sim.schedule import Schedule, run_schedule
from tests.sim.store import SimStore
from tests.stream.rejections import rejected_rows

SCHEDULES = 60
ID_SUM = 2**63 + 11


class RejectingFold(Fold):
    def fold(self, batches: Sequence[BatchArrived]) -> Increment:
        return super().fold([_with_one_more(batch) for batch in batches])


def _with_one_more(batch: BatchArrived) -> BatchArrived:
    return dataclasses.replace(
        batch,
        events=batch.events + 1,
        id_sum=(batch.id_sum + ID_SUM) % 2**64,
        rejected=rejected_rows([(batch.partition, batch.offset)], batch.append_time_ms),
        rejected_sum=ID_SUM,
    )


def agree(where: str, tables: Iterable[pa.Table], ends: Mapping[int, int]) -> None:
    """One rejected event for every offset below the ends, or a violation."""
    found: Counter[tuple[int, int]] = Counter()
    for table in tables:
        found.update(zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True))
    expected = Counter((partition, offset) for partition, end in ends.items() for offset in range(end))
    if found != expected:
        raise ViolationError(f"rejected: {where} lacks {expected - found} and has {found - expected} too much")


class RejectingReplica(Replica):
    def _ids(self, loop: asyncio.AbstractEventLoop, view: ReplicaView) -> Counter[str]:
        files = [read_one(self._store, self._world.folder, file) for file in view.files(REJECTED)]
        ends = {p: offset for p, (_, offset) in view.offsets.items()}
        agree(f"the answer at manifest {view.manifest}", [loop.run_until_complete(view.rows(REJECTED)), *files], ends)
        return super()._ids(loop, view)


class RejectingSchedule(Schedule):
    def _account(self) -> None:
        super()._account()
        world = self.world
        objects, folder = world.disk.objects, world.folder
        store = SimStore(world.disk, self.sim.driver.process)
        newest = ManifestLog(objects, folder).newest()
        assert newest is not None
        states = [(load_state(store, folder, e.state), e.partition) for e in newest.partitions if e.state is not None]
        tables = [state_rows(data, (partition,), shop.datasource()).rejected for data, partition in states]
        files = DeltaLog(objects, folder, REJECTED).refresh().files.values()
        agree("the table", [*tables, *(read_one(store, folder, file) for file in files)], world.log.ends())
        counted = {e.partition: e.rejected for e in newest.partitions}
        if counted != world.log.ends():
            raise ViolationError(f"rejected: the ledger counts {counted}, the log ends at {world.log.ends()}")


@contextmanager
def rejecting(forgetful: bool = False) -> Iterator[None]:
    """With `forgetful`, rejected rows that wait in a saved state are not taken up by the next load."""

    def forgetting(data: bytes) -> dict[int, SavedPartition]:
        saved = decode_state(data)
        return {p: dataclasses.replace(s, rejected=s.rejected.slice(0, 0)) for p, s in saved.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "Fold", RejectingFold)
        patch.setattr(schedule, "Replica", RejectingReplica)
        patch.setattr(schedule, "Schedule", RejectingSchedule)
        if forgetful:
            patch.setattr(load, "decode_state", forgetting)
        yield


@pytest.mark.parametrize("first", range(0, SCHEDULES, 20))
def test_every_rejected_event_is_there_once_in_any_schedule(first: int) -> None:
    for seed in range(first, first + 20):
        outcome = run_schedule(seed, rejecting())
        assert outcome.violation is None, f"seed {seed}: {outcome.violation}"


def test_a_load_that_forgets_rejected_rows_is_noticed() -> None:
    violations = (run_schedule(seed, rejecting(forgetful=True)).violation for seed in range(SCHEDULES))
    assert any(violation is not None and violation.startswith("rejected: ") for violation in violations)
