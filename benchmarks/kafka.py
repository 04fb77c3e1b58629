"""rta reading a Kafka topic: events/s by wall time and by CPU time, memory, freshness, catching up.

Starts a broker and, for each workload, a system of its own: two aggregators, 4 partitions, epochs of 10 s. The topic is
full before the datasource is made. The time runs from then until a question counts all events, and until the
ledger has all of them committed. The first run of a system is its cold one, the second, with another datasource of the same
shape, its warm one. CPU is that of rta's own processes and Ray's: not the broker's, not this one's. Answers are compared
with polars each time.

`python -m benchmarks.kafka --only w1 --events 200000` is a short run. `--format own` reads rta's own topic, written while
it is read, as the edge writes it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import polars as pl

from benchmarks.costs import Cpu, Meter
from benchmarks.input import CHUNK, COUNTRIES, EVENTS, lines
from benchmarks.kafka_answers import ALL_TIME, COMPARED, COUNT, check_count
from benchmarks.kafka_input import Feed, Producer, Shape, columns, fill, partition_of_users, send_one
from benchmarks.kafka_own import write_own
from benchmarks.kafka_workloads import W1, WORKLOADS, Workload
from benchmarks.load import Asker, request
from benchmarks.running import Running, running
from rta.client import Client
from rta.launch import prepare
from rta.log.kafka.settings import KafkaSettings
from tests.services.kafka import Kafka

AGGREGATORS, PARTITIONS = 2, 4
EPOCH = "10s"
LIMIT_S = 300.0
SETTLE_S = 5.0
IDLE_S = 20.0
ASK_S_MAX, ASK_S_MIN = 0.5, 0.02
FRESH_RATE, FRESH_S = 2_000, 20.0
LAG_RATE = 5_000
SECTIONS = (*WORKLOADS, "arrow", "fresh", "lag", "idle")
SHOWN = 7


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run over the topic. `checked` says what was compared."""

    events: int
    counted_s: float
    committed_s: float
    counted_cpu: Cpu
    committed_cpu: Cpu
    pss_bytes_max: int
    pss_at_peak: Mapping[str, int]
    checked: str

    def line(self, name: str, peers: str) -> str:
        wall = f"{self.events / self.counted_s:>9,.0f} {self.events / self.committed_s:>9,.0f}"
        cpu = f"{self.events / self.counted_cpu.total_s:>9,.0f} {self.events / self.committed_cpu.total_s:>9,.0f}"
        return f"{name:<16} {wall} {cpu} {self.pss_bytes_max / 1e9:>7.2f}   {peers}"


HEADING = f"{'':<16} {'events/s':>9} {'committed':>9} {'per CPU-s':>9} {'committed':>9} {'GB PSS':>7}   others"


class Bench:
    """One system and one broker."""

    def __init__(self, system: Running, broker: Kafka, meter: Meter) -> None:
        self.system, self.broker, self.meter = system, broker, meter
        self.client = Client(system.url)
        self.asker = Asker(system.url)

    # -- throughput ------------------------------------------------------------------------------------------------

    def run(self, workload: Workload, shape: Shape, topic: str | None) -> Outcome:
        """One datasource over the whole topic, removed again; `topic` of None is rta's own."""
        name = f"{workload.name}_{uuid.uuid4().hex[:6]}"
        self.meter.reset_memory()
        before, begun_s = self.meter.cpu(), time.monotonic()
        source = None if topic is None else {"topic": topic, "format": shape.format, "start": "earliest"}
        self.client.create_datasource(workload.document(name, source))
        if topic is None:
            self._write(name, workload, shape.events)
        self.until_counted(name, shape.events)
        counted_s, counted = time.monotonic() - begun_s, self.meter.cpu().since(before)
        self.until_committed(name, shape.events)
        committed_s, committed = time.monotonic() - begun_s, self.meter.cpu().since(before)
        peak, at_peak = self.meter.pss_bytes_max, self.meter.pss_at_peak
        check_count(self.client, name, shape.events)
        checked = workload.check(self.client, name, pl.DataFrame(columns(shape.events, COMPARED)))
        self._remove(name)
        return Outcome(shape.events, counted_s, committed_s, counted, committed, peak, at_peak, checked)

    def _write(self, name: str, workload: Workload, events: int) -> None:
        folder = self.client.status()["datasources"][name]["folder"]
        write_own(KafkaSettings(servers=(self.broker.servers,)), folder, workload.document(name, None), events)

    def until_counted(self, name: str, expected: int) -> None:
        """Asks seldom at first: questions take CPU too. The nearer the end, the oftener."""
        begun_s, found = time.monotonic(), 0
        while found < expected:
            spent_s = time.monotonic() - begun_s
            assert spent_s < LIMIT_S, f"'{name}': only {found:,} of {expected:,} counted after {LIMIT_S:.0f} s"
            left_s = spent_s * (expected - found) / found if found else ASK_S_MAX
            time.sleep(min(ASK_S_MAX, max(ASK_S_MIN, left_s / 2)))
            found = self.count(name)
            assert found <= expected, f"'{name}' counts {found:,} of {expected:,}: something is there twice"

    def count(self, name: str) -> int:
        rows = self.asker.ask(self._question(name, {}))["rows"]
        return int(rows[0]["n"]) if rows else 0

    def _question(self, name: str, more: dict[str, Any]) -> bytes:
        question = {"datasource": name, "time_range": ALL_TIME, "granularity": "all", "metrics": [COUNT], **more}
        return request(self.system.url, "/v1/query", json.dumps(question).encode())

    def until_committed(self, name: str, expected: int) -> None:
        deadline = time.monotonic() + LIMIT_S
        while True:
            ledger = self.client.ledger(name)
            if ledger["stages"]["committed"] >= expected:
                assert ledger["lost"] == ledger["duplicated"] == 0, ledger
                return
            assert time.monotonic() < deadline, f"'{name}': not committed after {LIMIT_S:.0f} s: {ledger['stages']}"
            time.sleep(0.1)

    def _remove(self, name: str) -> None:
        answer = httpx.delete(f"{self.system.url}/v1/datasources/{name}", params={"confirm": name}, timeout=60)
        assert answer.status_code == 200, answer.text
        time.sleep(SETTLE_S)

    # -- freshness, lag, rest --------------------------------------------------------------------------------------

    def fresh(self, seconds: float) -> Iterator[str]:
        """Produced and acknowledged → counted by a question that is asked over and over, beside a steady load."""
        topic, name = f"fresh_{uuid.uuid4().hex[:6]}", "fresh"
        fill(self.broker.servers, topic, Shape(CHUNK))
        source = {"topic": topic, "format": "json", "start": "earliest"}
        self.client.create_datasource(W1.document(name, source))
        self.until_counted(name, CHUNK)
        # Its looks would be in the latencies.
        self.meter.stop()
        users, producer = partition_of_users(), Producer(self.broker.servers, topic)
        feed = Feed(self.broker.servers, topic, FRESH_RATE)
        feed.start()
        begun_s, cpu, spent = time.monotonic(), self.meter.cpu(), list[float]()
        while time.monotonic() - begun_s < seconds:
            spent.append(self._probe(name, producer, f"user_{len(spent)}", users[f"user_{len(spent)}"]))
        used = self.meter.cpu().since(cpu)
        elapsed_s = time.monotonic() - begun_s
        feed.finish()
        producer.close()
        self.until_counted(name, CHUNK + feed.sent + len(spent))
        ms = np.array(spent) * 1000
        p50, p95, p99 = np.percentile(ms, [50, 95, 99])
        said = f"{p50:.0f} / {p95:.0f} / {p99:.0f} / {ms.max():.0f}   Druid 17 / 26 / - / 34"
        yield f"acknowledged → counted beside {FRESH_RATE:,}/s, ms p50 / p95 / p99 / max: {said}"
        shares = ", ".join(f"<{limit} ms {np.mean(ms < limit):.0%}" for limit in (10, 20, 50, 100, 250))
        sent, cpu_s = feed.sent / elapsed_s, used.total_s / elapsed_s
        yield f"  {len(spent):,} probes: {shares}; {sent:,.0f}/s were sent; {cpu_s:.2f} CPU-seconds a second"
        self._remove(name)

    def _probe(self, name: str, producer: Producer, user: str, partition: int) -> float:
        """An event with a country of its own, by which it is found in the rollup."""
        country = uuid.uuid4().hex
        template = lines(0, 1).splitlines()[0].decode()
        known = next(each for each in COUNTRIES if f'"country":"{each}"' in template)
        question = self._question(name, {"filters": {"country": country}})
        value = template.replace(f'"country":"{known}"', f'"country":"{country}"').encode()
        send_one(producer, user, value, partition)
        begun_s = time.perf_counter()
        while True:
            rows = self.asker.ask(question)["rows"]
            if rows and rows[0]["n"] == 1:
                return time.perf_counter() - begun_s
            assert time.perf_counter() - begun_s < 30, f"{country} is not counted 30 s after its acknowledgement"

    def lag(self, events: int, times: int) -> Iterator[str]:
        """A backlog worked off while more arrives, until everything that was sent is counted."""
        topic, name = f"lag_{uuid.uuid4().hex[:6]}", "lag"
        fill(self.broker.servers, topic, Shape(events), times)
        feed = Feed(self.broker.servers, topic, LAG_RATE, events)
        feed.start()
        begun_s, backlog = time.monotonic(), events * times
        self.client.create_datasource(W1.document(name, {"topic": topic, "format": "json", "start": "earliest"}))
        while True:
            sent, counted = feed.sent, self.count(name)
            spent_s = time.monotonic() - begun_s
            if counted >= backlog + sent:
                break
            assert spent_s < LIMIT_S, f"'{name}': {backlog + sent - counted:,} left after {LIMIT_S:.0f} s"
            time.sleep(0.1)
        feed.finish()
        self.until_counted(name, backlog + feed.sent)
        rate = counted / spent_s
        arriving = sent / spent_s
        said = f"{rate:,.0f} events/s, {rate / arriving:.0f} × the arrival rate"
        yield f"{backlog:,} events of lag worked off in {spent_s:.1f} s while {arriving:,.0f}/s arrived: {said}"
        self.until_committed(name, backlog + feed.sent)
        self._remove(name)

    def idle(self, seconds: float) -> Iterator[str]:
        """What the system takes while nothing flows."""
        time.sleep(SETTLE_S)
        before, begun_s = self.meter.cpu(), time.monotonic()
        time.sleep(seconds)
        used, elapsed_s = self.meter.cpu().since(before), time.monotonic() - begun_s
        yield f"idle: {used.total_s / elapsed_s:.3f} CPU-seconds a second, {self.meter.memory_bytes() / 1e9:.2f} GB PSS"
        yield split(used, elapsed_s, "a second")


def split(cpu: Cpu, by: float = 1.0, unit: str = "") -> str:
    """The largest shares of CPU seconds, by process."""
    largest = list(cpu.by_title.items())[:SHOWN]
    rest = cpu.total_s - sum(seconds for _, seconds in largest)
    shares = [f"{title.removeprefix('ray::')} {seconds / by:.3g}" for title, seconds in largest]
    return f"  CPU-s {unit}: {', '.join(shares)}, others {rest / by:.2g}"


def memory(by_title: Mapping[str, int]) -> str:
    """The largest shares of memory at its peak, by kind of process."""
    largest = sorted(by_title.items(), key=lambda item: -item[1])[:SHOWN]
    return "  GB PSS at the peak: " + ", ".join(f"{t.removeprefix('ray::')} {size / 1e9:.2f}" for t, size in largest)


def measure(section: str, broker: Kafka, options: argparse.Namespace) -> Iterator[str]:
    own = options.format == "own"
    with running(None, log=broker.url, aggregators=AGGREGATORS, partitions=PARTITIONS, epoch=EPOCH) as system:
        assert system.pid is not None
        meter = Meter(system.pid)
        meter.start()
        bench = Bench(system, broker, meter)
        try:
            time.sleep(SETTLE_S)
            if section == "fresh":
                yield from bench.fresh(options.seconds)
            elif section == "lag":
                yield from bench.lag(options.events, options.lag_times)
            elif section == "idle":
                yield from bench.idle(options.seconds)
            else:
                shape = Shape(options.events, "arrow" if section == "arrow" else "json", options.batch_kb)
                yield from throughput(bench, section, shape, None if own else shape.label, options.repeat)
        finally:
            meter.stop()


def throughput(bench: Bench, section: str, shape: Shape, topic: str | None, repeat: int) -> Iterator[str]:
    workload = WORKLOADS.get(section, W1)
    for turn in range(repeat):
        kind = "cold" if turn == 0 else "warm" if turn == 1 else f"warm {turn}"
        outcome = bench.run(workload, shape, topic)
        yield outcome.line(f"{section} {kind}", workload.peers if turn == 0 else "")
        yield split(outcome.committed_cpu)
        yield memory(outcome.pss_at_peak)
        yield f"  {outcome.checked}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kafka", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--format", choices=("topic", "own"), default="topic", help="own: rta's own topic")
    parser.add_argument("--batch-kb", type=int, default=64, help="compressed size of the producer's batches")
    parser.add_argument("--repeat", type=int, default=2, help="runs in each system; the first is cold")
    parser.add_argument("--seconds", type=float, default=FRESH_S, help="of freshness, and of idling")
    parser.add_argument("--lag-times", type=int, default=1, help="the backlog is so many times the events")
    return parser.parse_args()


def main() -> None:
    options = parse()
    prepare()
    print(
        f"{os.cpu_count()} cores, {options.events:,} events, batches of {options.batch_kb} KB; broker on the same cores"
    )
    broker = Kafka()
    try:
        formats = {
            "arrow" if section == "arrow" else "json" for section in options.only if section in (*WORKLOADS, "arrow")
        }
        for shape in [Shape(options.events, kind, options.batch_kb) for kind in sorted(formats)]:  # type: ignore[arg-type]  # the two are formats
            if options.format == "topic":
                spent_s = fill(broker.servers, shape.label, shape)
                print(f"topic '{shape.label}' filled in {spent_s:.1f} s", flush=True)
        print(HEADING)
        for section in options.only:
            for line in measure(section, broker, options):
                print(line, flush=True)
    finally:
        broker.close()


if __name__ == "__main__":
    main()
