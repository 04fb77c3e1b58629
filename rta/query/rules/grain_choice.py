"""Which rollup answers, and at which grain each stretch of time: coarse inside, finer at the edges, raw at the ends.

All grains of a rollup have the same columns and their rows add, so a range is cut into stretches of whole days, hours
and minutes, as far as these tables are there, keep their rows that far back, and do not blur the question's steps. What is
left is shorter than the finest grain and read from raw events; where those are not kept either, the stretch is
named as forgotten. Raw events answer everything when most of the time would be theirs anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rta.errors import InvalidQueryError
from rta.events.schemas import EVENTS, GRAIN_MS, Grain, Rollup
from rta.query.plan import Candidate, Considered, Part, Plan
from rta.query.time import TIME_MS_MIN, divides

ENDS_MS_MAX = 7_200_000
"""So much raw time may stand beside a rollup: more is cheaper to aggregate as it stands than to fold first."""
DIMENSION_FACTOR = 4
"""How many times more rows a rollup is taken to have for each of its dimensions; only settles which one is smaller."""
EVENTS_PER_MS = 10
"""How dense raw events are taken to be; for the same."""
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Level:
    """A table of a rollup at a grain, and the time from which on it holds everything."""

    table: str
    grain: Grain
    from_ms: int

    @property
    def grain_ms(self) -> int:
        return GRAIN_MS[self.grain]


@dataclass(frozen=True, slots=True)
class Cut:
    """The range as one rollup would answer it."""

    candidate: Candidate
    parts: tuple[Part, ...]
    forgotten: tuple[tuple[int, int], ...]

    @property
    def raw_ms(self) -> int:
        return sum(part.end_ms - part.start_ms for part in self.parts if part.grain is None)

    @property
    def rank(self) -> tuple[bool, int]:
        """The smaller, the better: without raw events, then by about how many rows are read."""
        steps = sum((part.end_ms - part.start_ms) // GRAIN_MS[part.grain] for part in self.parts if part.grain)
        rolled = steps * DIMENSION_FACTOR ** len(self.candidate.rollup.dimensions)
        return self.raw_ms > 0, rolled + self.raw_ms * EVENTS_PER_MS


def choose_grains(plan: Plan) -> Plan:
    """Raises InvalidQueryError where no rollup answers and there are no raw events."""
    if plan.query.table != EVENTS:
        return _single_rows(plan, (), "it is asked for by name")
    refused: list[Considered] = []
    cuts: list[Cut] = []
    for candidate in plan.candidates:
        found = _cut(plan, candidate)
        if isinstance(found, Cut):
            cuts.append(found)
        else:
            refused.append(Considered(candidate.rollup.table, False, found))
    if not cuts:
        if plan.datasource.retention.events_ms is None:
            raise _unanswerable(plan, refused)
        return _single_rows(plan, refused, "raw events answer every question")
    best = min(cuts, key=lambda cut: cut.rank)
    main = best.candidate.rollup.table
    reason = f"'{main}' is coarser or has fewer dimensions"
    refused += [Considered(cut.candidate.rollup.table, False, reason) for cut in cuts if cut is not best]
    return replace(
        plan,
        rollup=best.candidate.rollup,
        metrics=best.candidate.metrics,
        parts=best.parts,
        forgotten=best.forgotten,
        candidates=(),
        considered=(*plan.considered, *refused, *_about(plan, best)),
    )


def _single_rows(plan: Plan, refused: list[Considered] | tuple[Considered, ...], reason: str) -> Plan:
    table = plan.query.table
    parts = (Part(table, plan.start_ms, plan.end_ms),) if plan.start_ms < plan.end_ms else ()
    considered = (*plan.considered, *refused, Considered(table, True, reason))
    return replace(plan, parts=parts, candidates=(), considered=considered)


def _unanswerable(plan: Plan, refused: list[Considered]) -> InvalidQueryError:
    considered = (*plan.considered, *refused)
    detail = "; ".join(f"{c.table}: {c.reason}" for c in considered)
    return InvalidQueryError(
        f"datasource '{plan.datasource.name}' keeps no raw events and no rollup answers this question ({detail})",
        "ask for what a rollup holds, or keep raw events (retention.events)",
    )


def _cut(plan: Plan, candidate: Candidate) -> Cut | str:
    """The range cut into the rollup's grains, or why it does not answer the question."""
    rollup = candidate.rollup
    if not _divides(plan, rollup.granularity):
        return _blurs(plan, rollup.granularity)
    levels = _levels(plan, rollup)
    raw_from = _raw_from(plan, levels)
    parts: list[Part] = []
    forgotten: list[tuple[int, int]] = []
    for part in _stretches(plan.start_ms, plan.end_ms, levels):
        if part.grain is not None:
            parts.append(part)
            continue
        known_from = levels[-1].from_ms if raw_from is None else raw_from
        known = min(max(part.start_ms, known_from), part.end_ms)
        if part.start_ms < known:
            forgotten.append((part.start_ms, known))
        if known < part.end_ms:
            parts.append(Part(EVENTS, known, part.end_ms))
    cut = Cut(candidate, tuple(parts), tuple(forgotten))
    return _too_raw(plan, cut, levels, raw_from) or cut


def _too_raw(plan: Plan, cut: Cut, levels: list[Level], raw_from: int | None) -> str:
    """Why too much of the cut is raw; "" where it is not."""
    rolled_ms = sum(part.end_ms - part.start_ms for part in cut.parts if part.grain is not None)
    if cut.raw_ms == 0:
        return "" if rolled_ms or plan.start_ms >= plan.end_ms or cut.forgotten else "it has nothing of the time range"
    if raw_from is not None and cut.raw_ms <= min(rolled_ms, ENDS_MS_MAX):
        return ""
    finest = levels[-1]
    if plan.start_ms < finest.from_ms and all(part.end_ms <= finest.from_ms for part in cut.parts if not part.grain):
        kept = plan.datasource.retention.rollups_ms.get(finest.grain, 0)
        return f"it keeps {kept // DAY_MS:,} days, the question reaches further back"
    if raw_from is not None and rolled_ms >= cut.raw_ms:
        return f"more than {ENDS_MS_MAX // 3_600_000} hours of the time range lie outside its whole {finest.grain}s"
    return f"the time range does not start and end at a whole {finest.grain}"


def _stretches(start_ms: int, end_ms: int, levels: list[Level]) -> Iterator[Part]:
    """The range in ascending stretches, each at the first level that fits; without a grain where none does."""
    if start_ms >= end_ms:
        return
    if not levels:
        yield Part(EVENTS, start_ms, end_ms)
        return
    level, finer = levels[0], levels[1:]
    low = max(-(-start_ms // level.grain_ms) * level.grain_ms, level.from_ms)
    high = end_ms // level.grain_ms * level.grain_ms
    if low >= high:
        yield from _stretches(start_ms, end_ms, finer)
        return
    yield from _stretches(start_ms, low, finer)
    yield Part(level.table, low, high, level.grain)
    yield from _stretches(high, end_ms, finer)


def _levels(plan: Plan, rollup: Rollup) -> list[Level]:
    """The rollup's tables that can be used, coarsest first."""
    tables = {rollup.granularity: TIME_MS_MIN}
    for grain in rollup.coarser:
        since = plan.stock.derived.get(rollup.table_of(grain))
        if since is not None and _divides(plan, grain):
            tables[grain] = since
    longest = _longest_ms(plan, list(tables))
    found = []
    for grain, since in reversed(tables.items()):
        kept = plan.datasource.retention.rollups_ms.get(grain)
        bound = _complete_from(plan, kept, since, longest)
        aligned = bound if bound == TIME_MS_MIN else -(-bound // GRAIN_MS[grain]) * GRAIN_MS[grain]
        found.append(Level(rollup.table_of(grain), grain, aligned))
    return found


def _raw_from(plan: Plan, levels: list[Level]) -> int | None:
    """From when on raw events are kept; None where there are none."""
    kept = plan.datasource.retention.events_ms
    if kept is None:
        return None
    return _complete_from(plan, kept, TIME_MS_MIN, _longest_ms(plan, [level.grain for level in levels]))


def _longest_ms(plan: Plan, grains: list[Grain]) -> int | None:
    """The longest retention of these tables and the raw one; None if one of them keeps its rows for ever."""
    kept = [plan.datasource.retention.rollups_ms.get(grain) for grain in grains]
    known = [ms for ms in kept if ms is not None]
    if len(known) < len(kept):
        return None
    return max([*known, plan.datasource.retention.events_ms or 0])


def _complete_from(plan: Plan, kept_ms: int | None, since_ms: int, longest_ms: int | None) -> int:
    """From when on a table has all that any table has: what everybody has forgotten it need not have."""
    forgets = kept_ms is not None and (longest_ms is None or kept_ms < longest_ms)
    bound = max(since_ms, plan.now_ms - kept_ms) if forgets and kept_ms is not None else since_ms
    raw, oldest = plan.datasource.retention.events_ms, plan.stock.oldest_ms
    raw_is_longest = raw is not None and longest_ms is not None and raw >= longest_ms
    return TIME_MS_MIN if raw_is_longest and oldest is not None and bound <= oldest else bound


def _divides(plan: Plan, grain: Grain) -> bool:
    return divides(GRAIN_MS[grain], plan.query.granularity, plan.query.timezone, plan.start_ms, plan.end_ms)


def _blurs(plan: Plan, grain: Grain) -> str:
    return f"the steps of the granularity in {plan.query.timezone} do not start at a whole {grain}"


def _about(plan: Plan, best: Cut) -> Iterator[Considered]:
    """What is said of each table of the rollup that answers, and of the raw one."""
    rollup = best.candidate.rollup
    used = {part.table for part in best.parts}
    coarsest = True
    for grain in (*reversed(rollup.coarser), rollup.granularity):
        table = rollup.table_of(grain)
        if table in used:
            reason = "the coarsest rollup that answers exactly" if coarsest else "at the edges of what is coarser"
            coarsest = False
        elif grain is not rollup.granularity and table not in plan.stock.derived:
            reason = "it is not built yet"
        elif not _divides(plan, grain):
            reason = _blurs(plan, grain)
        else:
            reason = f"no whole {grain} of the time range is left for it"
        yield Considered(table, table in used, reason)
    if EVENTS in used:
        yield Considered(EVENTS, True, f"the ends of the time range, into which no whole {rollup.granularity} fits")
    elif plan.datasource.retention.events_ms is not None:
        yield Considered(EVENTS, False, f"'{rollup.table}' answers it")
