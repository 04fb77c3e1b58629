"""The rules of the commit protocol as switches: each breaks one rule in the project's code for as long as a block lasts.

Test code only; the project has no such switch. A rule that can be broken without any schedule noticing is either not
needed or not tested, so `test_sim` holds every one of these to some schedule that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import msgspec
import polars as pl

from rta.actors import commit_queue, committer, coordinator, housekeeper, load, shard
from rta.errors import PartRefusedError
from rta.serve import hot, views
from rta.store import chain, commit, delta_log, fill, layout, manifests, sweep, versions
from rta.store.chain import Outcome, Verdict
from rta.store.model import Assignment, FileRef, Manifest, Part, PartitionEntry, PartitionPart
from tests.sim.kernel import Task, kernel

Patch = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """`broken` says what is done instead; `damage` are first words of the violations that it leads to.

    `seeds` are some that noticed it once: they are looked at first.
    """

    broken: str
    damage: tuple[str, ...]
    patches: Callable[[], Sequence[Patch]]
    seeds: tuple[int, ...] = ()


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The rule of this name does not hold inside the block."""
    with ExitStack() as stack:
        for target, attribute, value in RULES[name].patches():
            stack.enter_context(mock.patch.object(target, attribute, value))
        yield


def _nothing_carried() -> Sequence[Patch]:
    true = commit.next_manifest

    def next_manifest(previous: Manifest, parts: Sequence[Part], generation: int, now_ms: int) -> Manifest:
        made = true(previous, parts, generation, now_ms)
        touched = {piece.partition for part in parts for piece in part.partitions}
        return msgspec.structs.replace(
            made, partitions=tuple(e if e.partition in touched else _bare(e) for e in made.partitions)
        )

    return [(committer, "next_manifest", next_manifest), (coordinator, "next_manifest", next_manifest)]


def _bare(entry: PartitionEntry) -> PartitionEntry:
    return msgspec.structs.replace(entry, state=None, runs=(), buffered=0, buffered_sum=0)


def _wherever_it_begins() -> Sequence[Patch]:
    return [(commit, "_check_continues", lambda part, piece, entry, number: None)]


def _piece_by_piece() -> Sequence[Patch]:
    true_check, true_next = commit.check_part, commit.next_manifest
    shares: dict[str, Sequence[int]] = {}

    def fits(part: Part, piece: PartitionPart, previous: Manifest, owned: Sequence[int]) -> bool:
        entry = next(e for e in previous.partitions if e.partition == piece.partition)
        return piece.partition in owned and piece.from_offset == entry.to_offset and piece.based_on == entry.part

    def check(part: Part, previous: Manifest, assignment: Assignment) -> None:
        try:
            true_check(part, previous, assignment)
        except PartRefusedError:
            owner = assignment.actors.get(part.actor)
            owned = owner.partitions.get(part.datasource, ()) if owner is not None else ()
            shares[part.id] = owned
            same = owner is not None and owner.generation == part.generation
            if not same or not any(fits(part, piece, previous, owned) for piece in part.partitions):
                raise

    def next_manifest(previous: Manifest, parts: Sequence[Part], generation: int, now_ms: int) -> Manifest:
        everything = range(len(previous.partitions))
        cut = [
            msgspec.structs.replace(
                part,
                partitions=tuple(
                    p for p in part.partitions if fits(part, p, previous, shares.get(part.id, everything))
                ),
            )
            for part in parts
        ]
        return true_next(previous, cut, generation, now_ms)

    return [(commit, "check_part", check), (committer, "next_manifest", next_manifest)]


def _older_definitions() -> Sequence[Patch]:
    return [(commit, "_check_definition", lambda part, previous: None)]


def _put_over() -> Sequence[Patch]:
    true = chain.Chain.append

    def append(self: chain.Chain, number: int, content: bytes) -> Outcome:
        if not self.prefix.endswith("/manifests"):
            return true(self, number, content)
        key = layout.number_key(self.prefix, number)
        if not self._store.put_if_absent(key, content):
            self._store.put(key, content)
        return Outcome(Verdict.DONE, number, content)

    return [(chain.Chain, "append", append)]


def _numbers_set_free() -> Sequence[Patch]:
    true = manifests.ManifestLog.archive

    def archive(self: manifests.ManifestLog, below: int) -> int:
        moved = true(self, below)
        if moved:
            first = (self._first_unarchived_block() - 1) * manifests.BLOCK
            for number in range(first, first + moved):
                self._store.delete(layout.number_key(self._chain.prefix, number))
        return moved

    return [(manifests.ManifestLog, "archive", archive)]


def _own_runs_only() -> Sequence[Patch]:
    true_load, true_partition = load.load_newest, load._partition
    loading: dict[Task, str] = {}

    def load_newest(store: Any, spec: load.LoadSpec, reader: Any, site: Any) -> load.Load:
        loading[kernel().current] = spec.actor
        return true_load(store, spec, reader, site)

    def partition(entry: PartitionEntry, saved: Any, runs: Any) -> Any:
        actor = loading[kernel().current]
        own = tuple(r for r in entry.runs if (name := layout.parse_name(r.path)) is not None and name.actor == actor)
        return true_partition(msgspec.structs.replace(entry, runs=own), saved, runs)

    return [(shard, "load_newest", load_newest), (load, "_partition", partition)]


def _state_or_segments() -> Sequence[Patch]:
    def partials(self: views.ReplicaView, rollup: str) -> Sequence[pl.DataFrame]:
        hot_frames = [frame for use in self.moment.uses for frame in use.partials.get(rollup, ())]
        return hot_frames or [state.partials[rollup] for state in self.states if rollup in state.partials]

    return [(views.ReplicaView, "partials", partials)]


def _segments_anywhere() -> Sequence[Patch]:
    def beyond(self: hot.LoadCopy, offsets: Mapping[int, int]) -> list[hot.Segment] | None:
        return [s for s in self.segments if any(s.to_offsets[p] > offsets.get(p, -1) for p in self.partitions)]

    return [(hot.LoadCopy, "beyond", beyond)]


def _lower_views() -> Sequence[Patch]:
    true = hot.HotState._assemble

    def assemble(self: hot.HotState, manifest: Manifest) -> hot.Moment | None:
        before, self.moment = self.moment, None
        try:
            return true(self, manifest)
        finally:
            self.moment = before

    return [(hot.HotState, "_assemble", assemble)]


def _newest_tables() -> Sequence[Patch]:
    true = versions.TableVersions._log

    def files_at(self: delta_log.DeltaLog, app: str, number: int) -> tuple[int, dict[str, FileRef]]:
        return self.state.txns.get(app, -1), self.state.files

    def log(self: versions.TableVersions, table: str, number: int) -> delta_log.DeltaLog:
        found = true(self, table, number)
        found.refresh()
        return found

    return [(delta_log.DeltaLog, "files_at", files_at), (versions.TableVersions, "_log", log)]


def _trimmed_to_the_end() -> Sequence[Patch]:
    def trim(house: Any, newest: Manifest, log: Any) -> None:
        log.trim(house.datasource.folder, log._log.ends())

    return [(housekeeper.Housekeeper, "_trim", staticmethod(trim))]


def _swept_at_once() -> Sequence[Patch]:
    true = sweep.Sweep.__init__

    def init(self: sweep.Sweep, store: Any, folder: str, generation: int, grace_ms: int) -> None:
        true(self, store, folder, generation, 0)

    return [(sweep.Sweep, "__init__", init)]


def _names_that_recur() -> Sequence[Patch]:
    names = mock.Mock(wraps=layout)
    names.run_path = lambda actor, generation, epoch: layout.run_path("x", 1, epoch)
    names.state_path = lambda actor, generation, epoch: layout.state_path("x", 1, epoch)
    names.parquet_name = lambda actor, generation, epoch, k: layout.parquet_name("x", 1, epoch, k)
    return [(commit_queue, "layout", names), (commit, "_check_names", lambda part: None)]


def _without_what_is_buffered() -> Sequence[Patch]:
    true = fill._steps

    def steps(files: Sequence[FileRef], states: object, from_ms: int) -> tuple[fill.Step, ...]:
        return true(files, (), from_ms)

    return [(fill, "_steps", steps)]


def _named_whole() -> Sequence[Patch]:
    true = hot.SegmentUse.part

    def part(self: hot.SegmentUse, table: str | None, start_ms: int, end_ms: int) -> str | None:
        return f"{self.load} {self.epoch}" if true(self, table, start_ms, end_ms) else None

    return [(hot.SegmentUse, "part", part)]


RULES: dict[str, Rule] = {
    "names": Rule(
        "cached answers name a segment without the last chunk that touches their range",
        ("names",),
        _named_whole,
        seeds=(5, 39),
    ),
    "4": Rule(
        "partitions without a part keep their offsets, but neither state nor runs",
        ("lost", "doubled"),
        _nothing_carried,
        seeds=(0, 2),
    ),
    "5": Rule(
        "a part is valid wherever it begins and whatever it was folded on",
        ("lost", "doubled", "ledger"),
        _wherever_it_begins,
    ),
    "6": Rule("of a part those partitions are taken that fit", ("doubled",), _piece_by_piece, seeds=(74, 101, 105)),
    "7": Rule("parts of an older definition are taken", ("lost", "doubled"), _older_definitions, seeds=(74, 104)),
    "8": Rule(
        "a manifest is put over the one that is there",
        ("lost", "doubled", "stuck", "ledger"),
        _put_over,
        seeds=(11, 29, 105),
    ),
    "9": Rule(
        "archived manifests leave their numbers free",
        ("stuck", "lost", "doubled", "back"),
        _numbers_set_free,
        seeds=(18, 19),
    ),
    "10": Rule(
        "recovery loads only the id runs that the same actor wrote", ("doubled",), _own_runs_only, seeds=(9, 23, 91)
    ),
    "11": Rule(
        "an answer takes the segments, or the saved state where there are none",
        ("lost",),
        _state_or_segments,
        seeds=(0, 1),
    ),
    "12": Rule(
        "segments are used that end beyond the manifest, wherever they begin",
        ("lost", "doubled"),
        _segments_anywhere,
        seeds=(0, 2),
    ),
    "12-lower": Rule("a view may be lower than the one before", ("back",), _lower_views, seeds=(37, 58)),
    "13": Rule("a view reads the newest version of a table", ("doubled",), _newest_tables, seeds=(0, 2)),
    "15": Rule("the log is trimmed up to its end", ("stuck",), _trimmed_to_the_end, seeds=(0, 2)),
    "16": Rule("the sweep takes what is unreferenced now", ("swept", "stuck"), _swept_at_once, seeds=(101,)),
    "17": Rule(
        "a rollup is filled without the rows that its boundary's states buffer",
        ("lost",),
        _without_what_is_buffered,
        seeds=(0, 3),
    ),
    "18": Rule(
        "file names carry neither actor nor generation", ("lost", "doubled", "stuck"), _names_that_recur, seeds=(0, 2)
    ),
}
