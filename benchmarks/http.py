"""rta over HTTP, from outside: throughput, single events, freshness, questions, bytes, memory.

Starts a system of its own, or takes the one at `--url`. The load generator runs on the same cores, and is part of every
figure. `python -m benchmarks.http --events 200000` is a short run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.input import CHUNK, COUNTRIES, DEVICES, EVENTS, START_MS, TYPES, Bodies, document, lines
from benchmarks.load import Asker, drive, request
from benchmarks.running import Running, running
from rta.client import Client

CONNECTIONS = 8
PACED_CONNECTIONS = 4
FRESH_RATE = 10_000
FRESH_BATCH = 100
STORED_S_MAX = 120.0
MINUTE_MS = 60_000
ALL_TIME = "2000-01-01T00:00:00Z/2100-01-01T00:00:00Z"
COUNT = {"name": "n", "type": "count"}
REVENUE = {"name": "revenue", "type": "sum", "field": "price"}
PEERS = {
    "D1": "Druid 5.9 / 9.2; 465",
    "D2": "Druid 5.0 / 6.3; 646",
    "D3": "Druid 22 / 29; 88",
    "D4": "Druid 6.4 / 9.5; 480",
    "D1 again": "Druid 2.8 / 4.0; 1,027",
    "D3 again": "Druid 3.0 / 4.9; 960",
}


class Figure(NamedTuple):
    """A line of the table."""

    name: str
    value: str
    peers: str = ""


def iso(time_ms: int) -> str:
    return f"{np.datetime64(time_ms, 'ms')}Z"


class Bench:
    """One run against one system."""

    def __init__(self, system: Running, events: int, seconds: float) -> None:
        self.system = system
        self.events = events
        self.seconds = seconds
        self.name = f"bench_{uuid.uuid4().hex[:6]}"
        self.client = Client(system.url)
        self.client.create_datasource(document(self.name))
        self.asker = Asker(system.url)
        self.random = random.Random(7)

    # -- in --------------------------------------------------------------------------------------------------------

    def warm(self) -> None:
        """A first batch into another datasource: what is compiled or imported once is not what is measured."""
        other = f"warm_{uuid.uuid4().hex[:6]}"
        self.client.create_datasource(document(other))
        receipt = self.client.send(lines(0, 1_000), other)
        assert receipt.position is not None
        self.client.wait(other, receipt.position)

    def throughput(self) -> Iterator[Figure]:
        bodies = Bodies(self.events)
        whole = (
            request(self.system.url, f"/v1/events/{self.name}", body, "application/x-ndjson", f"{self.name}:{n}")
            for n, body in enumerate(bodies)
        )
        cpu_s, begun_s = self.system.cpu_s(), time.monotonic()
        tally = drive(self.system.url, lambda: next(whole, None), CONNECTIONS)
        acknowledged_s = time.monotonic() - begun_s
        self._until_counted(self.events)
        counted_s = time.monotonic() - begun_s
        self.until_stored(self.events)
        stored_s = time.monotonic() - begun_s
        for what, spent_s in (("durable", acknowledged_s), ("counted", counted_s), ("stored", stored_s)):
            peers = "Druid, Kafka, rollup 92,000-97,000" if what == "counted" else ""
            yield Figure(f"batches of 1,000, events/s until {what}", f"{self.events / spent_s:,.0f}", peers)
        if cpu_s is not None:
            used_s = (self.system.cpu_s() or 0.0) - cpu_s
            yield Figure("  events per CPU-second of rta", f"{self.events / used_s:,.0f}", "Druid 65,000")
        p50, p99 = np.percentile(tally.seconds, [50, 99]) * 1000
        yield Figure("  acknowledgement of a batch, ms p50 / p99", f"{p50:.0f} / {p99:.0f}")
        if tally.sent_again:
            yield Figure("  batches sent again after 503", f"{tally.sent_again:,}")
        stored_bytes = self.system.table_bytes(self.name)
        if stored_bytes is not None:
            yield Figure("bytes stored per event, all tables", f"{stored_bytes / self.events:.0f}", "Druid raw 120")

    def _until_counted(self, expected: int) -> None:
        question = self.request_of({"time_range": ALL_TIME, "granularity": "all", "metrics": [COUNT]})
        deadline = time.monotonic() + STORED_S_MAX
        found = 0
        while found < expected:
            rows = self.asker.ask(question)["rows"]
            found = rows[0]["n"] if rows else 0
            assert found <= expected, f"{found:,} counted of {expected:,}: something is there twice"
            assert time.monotonic() < deadline, f"only {found:,} of {expected:,} counted after {STORED_S_MAX:.0f} s"

    def until_stored(self, expected: int) -> None:
        deadline = time.monotonic() + STORED_S_MAX
        while True:
            ledger = self.client.ledger(self.name)
            if ledger["stages"]["committed"] >= expected:
                assert ledger["lost"] == ledger["duplicated"] == 0, ledger
                return
            assert time.monotonic() < deadline, f"not committed after {STORED_S_MAX:.0f} s: {ledger['stages']}"
            time.sleep(0.05)

    def single_events(self) -> Iterator[Figure]:
        """One event a request, from many connections at once."""
        for connections in (1, 32):
            singles = lines(self.events // CHUNK * CHUNK + CHUNK, CHUNK).splitlines()
            self.random.shuffle(singles)
            ready = [request(self.system.url, f"/v1/events/{self.name}", single) for single in singles]
            tally, spent_s = self._for_a_while(itertools.cycle(ready), connections)
            p50, p99 = np.percentile(tally, [50, 99]) * 1000
            text = f"{len(tally) / spent_s:,.0f}; {p50:.1f} / {p99:.1f}"
            peers = "RudderStack 850 per vCPU" if connections > 1 else ""
            yield Figure(f"single-event POSTs/s, {connections} connections; ms p50 / p99", text, peers)

    def _for_a_while(self, requests: Iterator[bytes], connections: int) -> tuple[list[float], float]:
        begun_s = time.monotonic()
        end_s = begun_s + self.seconds
        tally = drive(self.system.url, lambda: next(requests) if time.monotonic() < end_s else None, connections)
        return tally.seconds, time.monotonic() - begun_s

    def freshness(self) -> Iterator[Figure]:
        """Acknowledged → counted by a question that is asked over and over, beside a steady load."""
        stop, problems = threading.Event(), list[BaseException]()
        threads = [
            threading.Thread(target=self._steady, args=(stop, k, problems), daemon=True)
            for k in range(PACED_CONNECTIONS)
        ]
        for thread in threads:
            thread.start()
        spent: list[float] = []
        end_s = time.monotonic() + 4 * self.seconds
        sender = Asker(self.system.url)
        while time.monotonic() < end_s:
            spent.append(self._probe(sender, f"probe_{len(spent)}"))
        stop.set()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]
        p50, p95, p99 = np.percentile(spent, [50, 95, 99]) * 1000
        text = f"{p50:.0f} / {p95:.0f} / {p99:.0f} / {max(spent) * 1000:.0f}"
        name = f"fresh: acknowledged → counted at {FRESH_RATE:,} events/s, ms p50 / p95 / p99 / max"
        yield Figure(name, text, "Druid at 2,000/s 17 / 26 / - / 34")
        shares = ", ".join(
            f"<{limit} ms {np.mean(np.array(spent) * 1000 < limit):.0%}" for limit in (10, 20, 50, 100, 250)
        )
        yield Figure(f"  {len(spent):,} probes", shares)

    def _steady(self, stop: threading.Event, number: int, problems: list[BaseException]) -> None:
        """A share of the rate, in small batches, at fixed times."""
        try:
            line = Asker(self.system.url)
            chunk = lines(10 * self.events + number * CHUNK, CHUNK).splitlines(keepends=True)
            batches = [b"".join(chunk[at : at + FRESH_BATCH]) for at in range(0, CHUNK, FRESH_BATCH)]
            interval_s = FRESH_BATCH * PACED_CONNECTIONS / FRESH_RATE
            due_s = time.monotonic()
            for turn in itertools.count():
                due_s += interval_s
                if stop.wait(max(0.0, due_s - time.monotonic())):
                    return
                # Ids of a later turn must not repeat those of an earlier one: repetitions are not counted.
                body = batches[turn % len(batches)].replace(b'"event_id":"', b'"event_id":"%d-' % turn)
                line.ask(request(self.system.url, f"/v1/events/{self.name}", body, "application/x-ndjson"))
        except (RuntimeError, OSError) as error:
            problems.append(error)

    def _probe(self, sender: Asker, kind: str) -> float:
        body = {"event_id": uuid.uuid4().hex, "timestamp": START_MS, "event_type": kind, "user_id": kind}
        question = self.request_of(
            {"time_range": ALL_TIME, "granularity": "all", "metrics": [COUNT], "filters": {"event_type": kind}}
        )
        sender.ask(request(self.system.url, f"/v1/events/{self.name}", json.dumps(body).encode()))
        begun_s = time.perf_counter()
        while True:
            rows = self.asker.ask(question)["rows"]
            if rows and rows[0]["n"] == 1:
                return time.perf_counter() - begun_s
            assert time.perf_counter() - begun_s < 30, f"{kind} is not counted 30 s after its acknowledgement"

    # -- out -------------------------------------------------------------------------------------------------------

    def questions(self) -> Iterator[Figure]:
        """Each asked differently every time, then two of them again and again."""
        for name, make in (("D1", self.d1), ("D2", self.d2), ("D3", self.d3), ("D4", self.d4)):
            sources = "+".join(self.asker.ask(self.request_of(make()))["meta"]["sources"])
            asked = iter(lambda make=make: self.request_of(make()), None)  # type: ignore[misc]  # mypy sees no default
            yield self._asked(f"{name} ({sources})", asked, PEERS[name])
        for name, make in (("D1", self.d1), ("D3", self.d3)):
            yield self._asked(f"{name} again", itertools.repeat(self.request_of(make())), PEERS[f"{name} again"])

    def _asked(self, name: str, requests: Iterator[bytes], peers: str) -> Figure:
        alone, _ = self._for_a_while(requests, 1)
        cpu_s = self.system.cpu_s()
        together, spent_s = self._for_a_while(requests, 8)
        p50, p99 = np.percentile(alone, [50, 99]) * 1000
        text = f"{p50:.1f} / {p99:.1f}; {len(together) / spent_s:,.0f}"
        if cpu_s is not None:
            text += f"; {((self.system.cpu_s() or 0.0) - cpu_s) / len(together) * 1000:.2f}"
        return Figure(f"{name}, ms p50 / p99; q/s with 8 clients; CPU ms of rta each", text, peers)

    def request_of(self, question: dict[str, Any]) -> bytes:
        body = json.dumps({"datasource": self.name, **question}).encode()
        return request(self.system.url, "/v1/query", body)

    @property
    def minutes(self) -> int:
        return max(1, self.events // MINUTE_MS)

    def _range(self, first_minute: int, minutes: int) -> str:
        start_ms = START_MS + first_minute * MINUTE_MS
        return f"{iso(start_ms)}/{iso(start_ms + minutes * MINUTE_MS)}"

    def d1(self) -> dict[str, Any]:
        first = self.random.randint(0, max(0, self.minutes - 15))
        return {
            "time_range": self._range(first, 15),
            "granularity": "minute",
            "metrics": [COUNT, REVENUE],
            "filters": {"country": self.random.choice(COUNTRIES)},
        }

    def d2(self) -> dict[str, Any]:
        before = self.random.randint(1, 10_000)
        return {
            "time_range": self._range(-before, before + self.minutes + 1),
            "granularity": "all",
            "metrics": [REVENUE],
            "group_by": ["country"],
            "order_by": "-revenue",
            "limit": 10,
        }

    def d3(self) -> dict[str, Any]:
        quantile = {"name": "p", "type": "quantile", "field": "price", "q": self.random.uniform(0.9, 0.99)}
        return {
            "time_range": self._range(self.random.randint(0, max(0, self.minutes - 5)), 5),
            "granularity": "all",
            "metrics": [quantile, {"name": "users", "type": "unique_count", "field": "user_id"}],
            "group_by": ["device_type"],
        }

    def d4(self) -> dict[str, Any]:
        before = self.random.randint(1, 10_000)
        return {
            "time_range": self._range(-before, before + self.minutes + 1),
            "granularity": "hour",
            "metrics": [COUNT],
            "group_by": ["country", "device_type"],
            "filters": {"event_type": self.random.sample(TYPES, 2)},
        }


SECTIONS = ("throughput", "questions", "single_events", "freshness")


def measure(system: Running, events: int, seconds: float, sections: Sequence[str] = SECTIONS) -> Iterator[Figure]:
    assert len(DEVICES) == 3, "the peers were asked about three device types"
    if system.ready_s is not None:
        yield Figure("seconds to ready", f"{system.ready_s:.0f}")
    pss = system.pss_bytes()
    if pss is not None:
        yield Figure("memory at rest, GB PSS", f"{pss / 1e9:.2f}", "Druid 2.3")
    bench = Bench(system, events, seconds)
    bench.warm()
    for section in sections:
        yield from getattr(bench, section)()
    pss = system.pss_bytes()
    if pss is not None:
        yield Figure("memory after all of it, GB PSS", f"{pss / 1e9:.2f}", "Druid 5.1 at peak")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__)
    parser.add_argument("--url", help="a running rta (default: start one)")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each rate")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="questions need throughput")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {options.events:,} events; load generator on the same cores", flush=True)
    with running(options.url) as system:
        for figure in measure(system, options.events, options.seconds, options.only):
            print(f"{figure.name:<92} {figure.value:>32}   {figure.peers}", flush=True)


if __name__ == "__main__":
    main()
