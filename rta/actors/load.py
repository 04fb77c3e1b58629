"""How a load begins: the newest manifest, the state and id runs that it names, and the log where it ends.

Loads exactly the runs that the manifest names, never a listing of a folder (protocol.md, rule 10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rta.actors.arrivals import Arrivals, arrivals_of
from rta.actors.links import Site
from rta.errors import LogGapError, NotFoundError, UnavailableError
from rta.events.schemas import Datasource
from rta.events.sources import narrowed
from rta.log.base import LogReader, PartitionState
from rta.store.manifests import ManifestLog
from rta.store.model import GENESIS, Manifest, PartitionEntry, RunRef
from rta.store.objects import ObjectStore
from rta.store.runs import load_runs, load_state, naming_state
from rta.stream.fold import Fold
from rta.stream.model import FoldLimits, IdRun, PartitionLoaded, SavedPartition
from rta.stream.saved import decode_state

GAP_HINT = "the log was lost or replaced; see 'log_gap' in docs/operations.md"


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """Who owns which partitions of what. `generation` fences."""

    actor: str
    generation: int
    datasource: Datasource
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """A fold as manifest `manifest` left it. `based_on` names, per partition, the part whose state was loaded."""

    fold: Fold
    arrivals: Arrivals
    manifest: int
    offsets: dict[int, int]
    incarnations: dict[int, str]
    based_on: dict[int, str]


def load_newest(store: ObjectStore, spec: LoadSpec, reader: LogReader, site: Site) -> Load:
    """Load the newest manifest of the datasource for these partitions.

    Raises:
        UnavailableError: there is no manifest yet.
        LogGapError: the log ends before the committed offset, starts behind it, or is another incarnation.
    """
    folder = spec.datasource.folder
    newest = ManifestLog(store, folder).newest()
    if newest is None:
        raise UnavailableError(f"datasource '{spec.datasource.name}' has no manifest yet", "the coordinator makes it")
    entries = [e for e in newest.partitions if e.partition in spec.partitions]
    if len(entries) < len(spec.partitions):
        raise UnavailableError(
            f"manifest {newest.number} of '{spec.datasource.name}' lacks partitions that are new",
            "the next one has them",
        )
    states = log_states(reader, spec.datasource)
    for entry in entries:
        check_log(spec.datasource.name, entry, states.get(entry.partition))
    saved = _saved(store, folder, entries)
    runs = {run.key: run for run in id_runs(store, folder, [ref for entry in entries for ref in entry.runs])}
    loaded = [_partition(entry, saved.get(entry.partition), runs) for entry in entries]
    limits = FoldLimits(dedup_memory_ids=site.dedup_memory_ids)
    datasource = narrowed(spec.datasource)
    incarnations = {e.partition: e.log_incarnation for e in entries}
    return Load(
        fold=Fold(datasource, loaded, limits),
        arrivals=arrivals_of(datasource, incarnations, site.event_bytes),
        manifest=newest.number,
        offsets={e.partition: e.to_offset for e in entries},
        incarnations=incarnations,
        based_on={e.partition: e.part for e in entries},
    )


def log_states(reader: LogReader, datasource: Datasource) -> dict[int, PartitionState]:
    """The partitions of a datasource's topic. Raises LogGapError when the topic is gone."""
    try:
        return reader.partitions(datasource.topic)
    except NotFoundError as error:
        raise LogGapError(f"the topic of '{datasource.name}' is gone: {error.message}", GAP_HINT) from error


def check_log(name: str, entry: PartitionEntry, state: PartitionState | None) -> None:
    """Nothing may be skipped silently: the log must go on exactly where the manifest ends."""
    where = f"partition {entry.partition} of '{name}'"
    state = check_incarnation(name, entry.partition, entry.log_incarnation, state)
    if state.start > entry.to_offset:
        raise LogGapError(f"{where} starts at offset {state.start}, {entry.to_offset} comes next", GAP_HINT)
    if state.end < entry.to_offset:
        raise LogGapError(f"{where} ends at offset {state.end}, before the committed {entry.to_offset}", GAP_HINT)


def check_incarnation(name: str, partition: int, incarnation: str, state: PartitionState | None) -> PartitionState:
    """Raises LogGapError when the partition is gone, or is another one under the same name."""
    where = f"partition {partition} of '{name}'"
    if state is None:
        raise LogGapError(f"{where} is no longer in the log", GAP_HINT)
    if state.incarnation != incarnation:
        raise LogGapError(f"{where} has log incarnation '{state.incarnation}', not '{incarnation}'", GAP_HINT)
    return state


def _saved(store: ObjectStore, folder: str, entries: list[PartitionEntry]) -> dict[int, SavedPartition]:
    """Each partition's state out of the file that its own entry names."""
    found: dict[int, SavedPartition] = {}
    for path in sorted({e.state for e in entries if e.state is not None}):
        data = load_state(store, folder, path)
        with naming_state(folder, path):
            states = decode_state(data)
        for entry in entries:
            if entry.state == path:
                if entry.partition not in states:
                    raise NotFoundError(f"state file '{path}' of '{folder}' lacks partition {entry.partition}")
                found[entry.partition] = states[entry.partition]
    return found


def _partition(entry: PartitionEntry, saved: SavedPartition | None, runs: Mapping[object, IdRun]) -> PartitionLoaded:
    return PartitionLoaded(
        partition=entry.partition,
        offset=entry.to_offset,
        append_time_ms=entry.append_time_ms,
        watermark_ms=entry.watermark_ms,
        state=saved,
        runs=tuple(runs[ref] for ref in entry.runs),
    )


def id_runs(store: ObjectStore, folder: str, refs: Sequence[RunRef]) -> list[IdRun]:
    found = load_runs(store, folder, refs)
    return [IdRun(step=ref.step, identities=ids, key=ref) for ref, ids in zip(refs, found, strict=True)]


def part_named(manifest: Manifest, partition: int) -> str:
    """Id of the part that the manifest names for the partition."""
    entry = next((e for e in manifest.partitions if e.partition == partition), None)
    return GENESIS if entry is None else entry.part
