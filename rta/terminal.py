"""What the command line shows a person: notes, tables, a progress bar.

Tables go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rta.errors import RtaError

LINE_EVERY_S = 10.0
"""How often a progress line is written where there is no terminal to rewrite it on."""
CELL_MAX = 100
GAPS_SHOWN = 8


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show_error(error: RtaError) -> None:
    note(f"error: {error.message}")
    if error.hint:
        note(f"hint: {error.hint}")


def show_rows(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> None:
    """A table of the rows; columns in the order in which they first appear."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(Text(printable(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(row.get(name))) for name in names))
    width = None if sys.stdout.isatty() else 1_000
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def show_status(document: Mapping[str, Any], ledgers: Mapping[str, Mapping[str, Any]]) -> None:
    """`GET /v1/status` and the ledger of each datasource, as a person wants to see them; `--json` has all of it."""
    datasources = []
    for name, row in document.get("datasources", {}).items():
        ledger = ledgers.get(name, {})
        datasources.append(
            {
                "datasource": name,
                "events": row.get("events_folded"),
                "committed": row.get("events_committed"),
                "watermark": moment(row.get("watermark_ms")),
                "lag ms": row.get("lag_ms"),
                "repetitions dropped": row.get("duplicates_dropped"),
                "lost": ledger.get("lost"),
                "duplicated": ledger.get("duplicated"),
                "alarms": row.get("alarms") or None,
            }
        )
    show_rows(datasources)
    filling = _filling(document.get("datasources", {}))
    if filling:
        show_rows(filling)
    actors = document.get("actors", {})
    shown = ("alive", "pid", "events_per_s", "restarts", "reason", "reloads", "last_reload")
    show_rows([{"actor": name, **{key: row.get(key) for key in shown}} for name, row in actors.items()])
    plain = {name: value for name, value in document.get("log", {}).items() if not isinstance(value, dict)}
    show_rows([{"log": name, "value": cell(value)} for name, value in plain.items()])
    show_rows(_shared(document.get("sharing", {})))
    for name, ledger in ledgers.items():
        if ledger.get("pending_gaps"):
            note(lost_range(name, ledger["pending_gaps"]))


def _filling(datasources: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rollups that were added later and are not complete."""
    return [
        {
            "filling": f"{name}.{rollup}",
            "done": f"{fill['done']:.1%}",
            "complete from": moment(fill["complete_from_ms"]),
            "raw events read": fill.get("rows"),
            "of": fill.get("rows_total"),
            "note": fill.get("failure") or ("no raw events to fill it from" if fill["partial"] else None),
        }
        for name, row in datasources.items()
        for rollup, fill in row.get("filling", {}).items()
        if fill["done"] < 1 or fill["partial"]
    ]


def show_advice(advice: Mapping[str, Any]) -> None:
    """The proposals for one datasource as a table, and the document for `PUT` that takes them up."""
    name = advice["datasource"]
    if not advice["proposals"]:
        note(f"{name}: {advice['questions']:,} questions were computed, and no further rollup would have helped")
        return
    rows = [
        {
            "rollup": p["rollup"]["name"],
            "grain": p["rollup"]["granularity"],
            "rows/day": p["rows_per_day"],
            "bytes/day": p["bytes_per_day"],
            "questions": f"{p['share']:.0%}",
            "saves s/day": p["seconds_saved_per_day"],
        }
        for p in advice["proposals"]
    ]
    show_rows(rows, f"{name}: {advice['questions']:,} questions in {advice['watched_s']:,.0f} s")
    note(f"to make them, PUT /v1/datasources/{name} with this; leave out what is not wanted:")
    print(json.dumps(advice["put"], ensure_ascii=False, indent=2))


def _shared(sharing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Whether processes share quotas and the answer cache."""
    quotas, cache, redis = (sharing.get(name) for name in ("quotas", "cache", "redis"))
    rows = [] if not sharing else [{"sharing": "quotas", "state": quotas["how"] if quotas else "no quotas are set"}]
    if cache:
        rows.append({"sharing": "answer cache", "state": cache["how"]})
    if redis:
        state = "reachable" if redis["reachable"] else f"away: {redis['reason']}"
        rows.append({"sharing": redis["place"], "state": state})
    return rows


def lost_range(datasource: str, gaps: Sequence[Mapping[str, Any]]) -> str:
    """What the log of a datasource that stands still has lost, and the command that goes on."""
    shown = [_gap(gap) for gap in gaps[:GAPS_SHOWN]]
    if len(gaps) > GAPS_SHOWN:
        shown.append(f"and {len(gaps) - GAPS_SHOWN} more partitions")
    return (
        f"'{datasource}' stands still: its log lacks {'; '.join(shown)}\n"
        f"hint: bring the log back, or go on without: rta resume --datasource {datasource} --accept-loss"
    )


def _gap(gap: Mapping[str, Any]) -> str:
    where = f"partition {gap['partition']} from offset {gap['from_offset']:,}"
    if gap["records"] is None:
        return f"{where} (another log, or none, has its place: how many records is not known)"
    if gap["to_offset"] < gap["from_offset"]:
        return f"{where} (it ends {gap['records']:,} records before what is committed)"
    return f"{where} to {gap['to_offset']:,} ({gap['records']:,} records)"


def moment(time_ms: int | None) -> str | None:
    """A time as people read it, in UTC."""
    if time_ms is None:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_ms / 1000))


def cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.3f}".rstrip("0").rstrip(".")
        case list():
            text = ", ".join(cell(one) for one in value)
        case dict():
            text = ", ".join(f"{name} {cell(one)}" for name, one in value.items())
        case _:
            text = str(value)
    text = printable(text)
    return text if len(text) <= CELL_MAX else f"{text[: CELL_MAX - 1]}…"


def printable(text: str) -> str:
    """Control characters made visible: what came in as data must not steer the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ProgressLine:
    """One line that says how far it is: rewritten on a terminal, now and then a new one elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown_s = 0.0 if self._live else time.monotonic()

    def show(self, text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.2 if self._live else LINE_EVERY_S):
            return
        self._shown_s = now_s
        if self._live:
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
        else:
            note(text)

    def end(self) -> None:
        if self._live and self._shown_s:
            print(file=sys.stderr, flush=True)


@contextmanager
def byte_progress(total_bytes: int | None, what: str) -> Iterator[Any]:
    """A bar over bytes, on a terminal only. Yields a function of (bytes done, events done)."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TextColumn("{task.fields[events]:,} events"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total_bytes, events=0)
        yield lambda done, events: bar.update(task, completed=done, events=events)
