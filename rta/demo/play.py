"""The demo: Wikipedia's edits of one day with a published answer to compare with, and a web shop that never closes.

Owns the order of things and what is said about them. Everything goes through the same client as any user's events;
starting and stopping rta is `rta.launch`'s.
"""

from __future__ import annotations

import importlib.resources
import math
import threading
from collections.abc import Callable
from typing import Any

import orjson

from rta.client import Client
from rta.errors import ConflictError, RtaError
from rta.generate.run import Counts, Plan, ServerSink, generate
from rta.send import send_file

DAY = "2015-09-12T00:00:00.000Z/2015-09-13T00:00:00.000Z"
EDITS = 39_244
SAMPLE = "wikiticker-2015-09-12-sampled.json.gz"
RATE = 1_000
STOPPING_S = 15.0
"""While rta stops its routes go first: what fails then is no failure of the demo."""
Say = Callable[[str], None]


class DemoError(RtaError):
    """The demo did not get the published answer."""

    code = "demo"


def play(url: str, stop: threading.Event, say: Say) -> None:
    """Load the edits, compare with the published answer, then run the shop until `stop` is set.

    Raises:
        RtaError: rta did not take the events, or its answer differs from the published one.
    """
    with Client(url, retry_s=60) as client:
        load_wikipedia(client, say)
        compare(client, say)
        say(_where_to_look(url))
    run_shop(url, stop, say)


def load_wikipedia(client: Client, say: Say) -> None:
    """Create the datasource and send the sample; on a folder that has it already, do nothing."""
    try:
        client.create_datasource(orjson.loads(_read("wikipedia.json")))
    except ConflictError:
        found = _count(client)
        if found >= EDITS:
            say(f"wikipedia: {found:,} edits are here already")
            return
    say(f"wikipedia: sending {EDITS:,} edits of 2015-09-12 ...")
    with importlib.resources.as_file(importlib.resources.files("rta.demo") / SAMPLE) as path:
        report = send_file(client, str(path), "wikipedia")
    if report.failed or report.position is None:
        raise DemoError(f"{report.failed:,} of {report.total:,} edits were refused", "see 'rta status'")
    client.wait("wikipedia", report.position)
    say(f"wikipedia: {report.successful:,} edits are durable and counted")


def compare(client: Client, say: Say) -> None:
    """Ask for the ten most edited pages, as Druid's tutorial does."""
    expected = [(str(page), int(edits)) for page, edits in published_pages()]
    answer = client.query(
        datasource="wikipedia",
        time_range=DAY,
        granularity="all",
        metrics=[{"name": "edits", "type": "count"}],
        group_by=["page"],
        order_by="-edits",
        limit=len(expected),
    )
    found = [(str(row["page"]), int(row["edits"])) for row in answer.rows]
    for page, edits in found:
        say(f"  {edits:>4}  {page}")
    if sorted(found) != sorted(expected):
        missing = ", ".join(f"'{page}' {edits}" for page, edits in sorted(set(expected) - set(found)))
        raise DemoError(f"the ten most edited pages differ from the published ones; missing: {missing}")
    say("the ten most edited pages: matches the published answer")


def run_shop(url: str, stop: threading.Event, say: Say) -> None:
    """Send the shop's events until stopped; a server that is away for a while is waited for."""
    say(f"events: a web shop at {RATE:,} events/s until you press Ctrl-C")
    counts = Counts()
    sink = ServerSink(Client(url, retry_s=math.inf), "events", counts)
    ender = threading.Thread(target=_close_on, args=(stop, sink), name="demo-stop", daemon=True)
    ender.start()
    try:
        generate(Plan(rate=RATE), sink, counts, lambda _: None, stop)
    except RtaError:
        if not stop.wait(STOPPING_S):
            raise
    finally:
        sink.close()
    say(f"events: {counts.acknowledged:,} sent")


def published_pages() -> list[tuple[str, int]]:
    """Pages and edits that Druid's tutorial prints."""
    document: dict[str, Any] = orjson.loads(_read("wikipedia_published.jsonl").splitlines()[0])
    return [(page, edits) for page, edits in document["expected_pages"]]


def _close_on(stop: threading.Event, sink: ServerSink) -> None:
    """End the pauses of requests that wait for a server that is being stopped."""
    stop.wait()
    sink.close()


def _count(client: Client) -> int:
    edits = [{"name": "edits", "type": "count"}]
    answer = client.query(datasource="wikipedia", time_range=DAY, granularity="all", metrics=edits)
    return sum(int(row["edits"]) for row in answer.rows)


def _read(name: str) -> bytes:
    return (importlib.resources.files("rta.demo") / name).read_bytes()


def _where_to_look(url: str) -> str:
    question = orjson.dumps(
        {
            "datasource": "events",
            "time_range": "last 15m",
            "granularity": "minute",
            "metrics": [{"name": "events", "type": "count"}],
            "group_by": ["event_type"],
        }
    ).decode()
    event = """{"event_id": "1", "timestamp": '$(date +%s000)', "event_type": "hello"}"""
    curl = f"curl {url}/v1/{{}} -H 'Content-Type: application/json' -d '{{}}'"
    return f"""
look at   {url}/        a live page
          {url}/docs    every request
ask       {curl.format("query", question)}
send      {curl.format("events", event)}
see       rta status --url {url}
"""
