"""What makes an epoch true: which parts a manifest may take, and what the next manifest says.

Owns rules 4-8 of the commit protocol as pure functions over documents (`check_part`, `choose`, `next_manifest`,
`genesis`). Does not look whether files exist, that is the caller's; the chain itself is `rta.store.manifests`; Delta
tables follow the manifests (`rta.store.tables`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import msgspec

from rta.errors import ConflictError, FencedError, InvariantError, PartRefusedError
from rta.events.schemas import Datasource
from rta.log.base import PartitionState
from rta.store import layout
from rta.store.model import (
    GENESIS,
    Assignment,
    Gap,
    LedgerLine,
    Manifest,
    Part,
    PartitionEntry,
    PartitionPart,
    commit_id,
)

WORD = 1 << 64


def part_id(part: Part) -> str:
    """The hash of a part's content, whatever id it carries now."""
    return commit_id(msgspec.json.encode(msgspec.structs.replace(part, id="")))


def sealed(part: Part) -> Part:
    """The part under its own id: what an aggregator offers."""
    return msgspec.structs.replace(part, id=part_id(part))


def genesis(
    datasource: Datasource, log_partitions: Mapping[int, PartitionState], coordinator: int, now_ms: int
) -> Manifest:
    """Manifest 0: every partition of the log, nothing folded yet, from the log's first offset on."""
    if sorted(log_partitions) != list(range(datasource.partitions)):
        raise InvariantError(
            f"the log of '{datasource.folder}' has partitions {sorted(log_partitions)}, "
            f"its definition says {datasource.partitions}"
        )
    entries = tuple(_first(number, state) for number, state in sorted(log_partitions.items()))
    return Manifest(
        number=0,
        datasource=datasource.folder,
        previous="",
        definition_version=datasource.version,
        coordinator=coordinator,
        created_ms=now_ms,
        partitions=entries,
        parts=(),
        files=(),
        ledger=(),
    )


def check_part(part: Part, previous: Manifest, assignment: Assignment) -> None:
    """Whether `previous` can be followed by a manifest that takes this part, as a whole.

    Raises:
        PartRefusedError: it can't, ever. Its aggregator throws away its fold and loads the newest manifest (rule 6).
    """
    if part.datasource != previous.datasource:
        raise _refused(part, f"it is for '{part.datasource}', the manifests are of '{previous.datasource}'")
    if part.id != part_id(part):
        raise _refused(part, "its id is not the hash of its content")
    _check_owner(part, assignment)
    _check_definition(part, previous)
    _check_names(part)
    entries = {entry.partition: entry for entry in previous.partitions}
    numbers = [piece.partition for piece in part.partitions]
    if not numbers or len(set(numbers)) != len(numbers):
        raise _refused(part, f"it names partitions {numbers}, each must be named once")
    for piece in part.partitions:
        entry = entries.get(piece.partition)
        if entry is None:
            raise _refused(part, f"partition {piece.partition} is not in manifest {previous.number}")
        _check_continues(part, piece, entry, previous.number)
    strangers = {line.partition for line in part.ledger} - set(numbers)
    if strangers:
        raise _refused(part, f"its ledger speaks of partitions {sorted(strangers)} that it does not name")


def _refused(part: Part, why: str) -> PartRefusedError:
    return PartRefusedError(
        f"part '{part.id}' of actor '{part.actor}' generation {part.generation}, epoch {part.epoch}: {why}",
        "load the newest manifest and fold from its offsets",
    )


def _check_owner(part: Part, assignment: Assignment) -> None:
    owner = assignment.actors.get(part.actor)
    if owner is None:
        raise _refused(part, f"assignment {assignment.number} does not name the actor")
    if owner.generation != part.generation:
        raise _refused(part, f"assignment {assignment.number} names generation {owner.generation}")
    owned = owner.partitions.get(part.datasource, ())
    foreign = sorted({piece.partition for piece in part.partitions} - set(owned))
    if foreign:
        raise _refused(part, f"assignment {assignment.number} gives partitions {foreign} to another actor")


def _check_definition(part: Part, previous: Manifest) -> None:
    if part.definition_version < previous.definition_version:
        raise _refused(
            part,
            f"it was folded with version {part.definition_version} of the definitions, "
            f"manifest {previous.number} has version {previous.definition_version}",
        )


def _check_names(part: Part) -> None:
    """Rule 18: nobody else, and no earlier self, can have written these files."""
    for path in (*(file.path for file in part.files), part.state):
        if layout.parse_name(path) != layout.FileName(part.actor, part.generation, part.epoch):
            raise _refused(part, f"its file '{path}' carries another actor, generation or epoch")


def _check_continues(part: Part, piece: PartitionPart, entry: PartitionEntry, number: int) -> None:
    """Rule 5: same log, from where the manifest ends, folded on the very state that it names."""
    where = f"partition {piece.partition}"
    if piece.log_incarnation != entry.log_incarnation:
        raise _refused(
            part,
            f"{where} is of log '{piece.log_incarnation}', manifest {number} of '{entry.log_incarnation}'",
        )
    if piece.from_offset != entry.to_offset:
        raise _refused(part, f"{where} begins at {piece.from_offset}, manifest {number} ends at {entry.to_offset}")
    if piece.to_offset < piece.from_offset:
        raise _refused(part, f"{where} ends at offset {piece.to_offset}, before its begin {piece.from_offset}")
    if piece.based_on != entry.part:
        raise _refused(
            part, f"{where} was folded on the state of part '{piece.based_on}', manifest {number} names '{entry.part}'"
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of offered parts: `taken` go into the next manifest together, `waiting` may follow it."""

    taken: tuple[Part, ...] = ()
    waiting: tuple[Part, ...] = ()
    refused: Mapping[str, PartRefusedError] = field(default_factory=dict)


def choose(parts: Iterable[Part], previous: Manifest, assignment: Assignment) -> Choice:
    """Take what is ready and wait for nobody (rule 4).

    Parts of the oldest valid version of the definitions go first, so that fewer have to be folded again (rule 7). A
    part that continues another offered one waits for its turn; one whose predecessor was refused is refused with it.
    """
    offered = {part.id: part for part in parts}
    valid: list[Part] = []
    refused: dict[str, PartRefusedError] = {}
    for part in offered.values():
        try:
            check_part(part, previous, assignment)
        except PartRefusedError as error:
            refused[part.id] = error
        else:
            valid.append(part)
    valid.sort(key=lambda part: (part.definition_version, part.actor, part.epoch))
    taken: list[Part] = []
    waiting: list[Part] = []
    touched: set[int] = set()
    for part in valid:
        numbers = {piece.partition for piece in part.partitions}
        if touched & numbers or part.definition_version != valid[0].definition_version:
            waiting.append(part)
        else:
            taken.append(part)
            touched |= numbers
    for part in _successors(offered, refused, {part.id for part in chain(taken, waiting)}):
        del refused[part.id]
        waiting.append(part)
    return Choice(tuple(taken), tuple(waiting), refused)


def _successors(offered: Mapping[str, Part], refused: Mapping[str, object], alive: set[str]) -> list[Part]:
    """Offered parts that continue, in at least one partition, a part that is still alive."""
    found: list[Part] = []
    grew = True
    while grew:
        grew = False
        for part in offered.values():
            if part.id in refused and part.id not in alive and any(p.based_on in alive for p in part.partitions):
                alive.add(part.id)
                found.append(part)
                grew = True
    return found


def next_manifest(previous: Manifest, parts: Sequence[Part], coordinator: int, now_ms: int) -> Manifest:
    """The manifest after `previous` that takes these parts, each checked before; none at all makes a fence.

    A coordinator that takes over puts such a fence first: what a stalled predecessor still has in hand for this number
    can then no longer succeed.

    Raises:
        FencedError: a newer coordinator has written `previous`.
        InvariantError: two parts share a partition, or are of two versions of the definitions.
    """
    if coordinator < previous.coordinator:
        raise FencedError(
            f"manifest {previous.number} of '{previous.datasource}' is by coordinator generation "
            f"{previous.coordinator}, ours is {coordinator}",
            "stand down unless the newest assignment names this one",
        )
    versions = {part.definition_version for part in parts}
    if len(versions) > 1:
        raise InvariantError(f"parts of versions {sorted(versions)} of the definitions in one manifest")
    pieces: dict[int, tuple[Part, PartitionPart]] = {}
    for part in parts:
        for piece in part.partitions:
            if piece.partition in pieces:
                raise InvariantError(f"partition {piece.partition} stands in two parts of one manifest")
            pieces[piece.partition] = (part, piece)
    ledger = tuple(chain.from_iterable(part.ledger for part in parts))
    return Manifest(
        number=previous.number + 1,
        datasource=previous.datasource,
        previous=previous.commit_id,
        definition_version=max(versions, default=previous.definition_version),
        coordinator=coordinator,
        created_ms=now_ms,
        partitions=tuple(_entry(entry, pieces.get(entry.partition), ledger) for entry in previous.partitions),
        parts=tuple(part.id for part in parts),
        files=tuple(chain.from_iterable(part.files for part in parts)),
        ledger=ledger,
    )


def gaps(previous: Manifest, states: Mapping[int, PartitionState], now_ms: int) -> tuple[Gap, ...]:
    """Where the log does not go on as the manifest ends: other incarnations, begins behind it, ends before it."""
    found = []
    for entry in previous.partitions:
        state = states.get(entry.partition)
        if state is None:
            raise ConflictError(
                f"the log of '{previous.datasource}' has no partition {entry.partition} any more, only {sorted(states)}",
                f"make the topic again with at least {len(previous.partitions)} partitions",
            )
        same = state.incarnation == entry.log_incarnation
        to_offset = min(max(entry.to_offset, state.start), state.end) if same else state.start
        if not same or to_offset != entry.to_offset:
            found.append(
                Gap(
                    partition=entry.partition,
                    from_incarnation=entry.log_incarnation,
                    from_offset=entry.to_offset,
                    to_incarnation=state.incarnation,
                    to_offset=to_offset,
                    accepted_ms=now_ms,
                )
            )
    return tuple(found)


def resumed(previous: Manifest, accepted: Sequence[Gap], coordinator: int, now_ms: int) -> Manifest:
    """The manifest after `previous` that goes on behind the gaps: same state, other place in the log.

    The one manifest whose entries may leave a stretch of the log out, because a person has said so. Raises FencedError.
    """
    by_partition = {gap.partition: gap for gap in accepted}
    following = next_manifest(previous, [], coordinator, now_ms)
    entries = tuple(
        entry
        if (gap := by_partition.get(entry.partition)) is None
        else msgspec.structs.replace(
            entry, log_incarnation=gap.to_incarnation, from_offset=gap.to_offset, to_offset=gap.to_offset
        )
        for entry in following.partitions
    )
    return msgspec.structs.replace(following, partitions=entries, gaps=tuple(accepted))


def grown(previous: Manifest, states: Mapping[int, PartitionState], coordinator: int, now_ms: int) -> Manifest:
    """The manifest after `previous` that also names partitions which the log has got since, each from its beginning on.

    Raises FencedError.
    """
    following = next_manifest(previous, [], coordinator, now_ms)
    known = {entry.partition for entry in following.partitions}
    new = tuple(_first(number, state) for number, state in sorted(states.items()) if number not in known)
    return msgspec.structs.replace(following, partitions=(*following.partitions, *new))


def redefined(previous: Manifest, version: int, coordinator: int, now_ms: int) -> Manifest:
    """The manifest after `previous` from which on no part of an older version of the definitions is taken (rule 7).

    For a datasource that nothing comes into: there the first part of a new version may be long in coming. Raises FencedError.
    """
    return msgspec.structs.replace(next_manifest(previous, [], coordinator, now_ms), definition_version=version)


def _first(number: int, state: PartitionState) -> PartitionEntry:
    """Nothing of the partition has been folded yet."""
    return PartitionEntry(
        partition=number,
        log_incarnation=state.incarnation,
        from_offset=state.start,
        to_offset=state.start,
        part=GENESIS,
        state=None,
    )


def _entry(
    entry: PartitionEntry, taken: tuple[Part, PartitionPart] | None, ledger: Sequence[LedgerLine]
) -> PartitionEntry:
    if taken is None:
        return msgspec.structs.replace(entry, from_offset=entry.to_offset)
    part, piece = taken
    lines = [line for line in ledger if line.partition == entry.partition]
    return PartitionEntry(
        partition=entry.partition,
        log_incarnation=entry.log_incarnation,
        from_offset=piece.from_offset,
        to_offset=piece.to_offset,
        part=part.id,
        state=part.state,
        watermark_ms=piece.watermark_ms,
        append_time_ms=piece.append_time_ms,
        runs=piece.runs,
        buffered=piece.buffered,
        buffered_sum=piece.buffered_sum,
        logged=entry.logged + sum(line.logged for line in lines),
        logged_sum=(entry.logged_sum + sum(line.logged_sum for line in lines)) % WORD,
        folded=entry.folded + sum(line.folded for line in lines),
        folded_sum=(entry.folded_sum + sum(line.folded_sum for line in lines)) % WORD,
        dropped=entry.dropped + sum(line.dropped for line in lines),
        dropped_sum=(entry.dropped_sum + sum(line.dropped_sum for line in lines)) % WORD,
        rejected=entry.rejected + sum(line.rejected for line in lines),
        rejected_sum=(entry.rejected_sum + sum(line.rejected_sum for line in lines)) % WORD,
    )
