"""The generator: what it makes, when, and that an outage loses and repeats nothing."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest

from rta.client import Client
from rta.generate import vocabulary
from rta.generate.run import BATCH_EVENTS, Counts, FileSink, Plan, ServerSink, generate
from rta.generate.shop import Shop, busyness
from tests.cli.fake_server import FakeServer

DAY_MS = 86_400_000
START_MS = 20_000 * DAY_MS


def made(plan: Plan) -> list[dict[str, Any]]:
    stream, counts = io.BytesIO(), Counts()
    generate(plan, FileSink(stream, counts), counts, lambda _: None, threading.Event())
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert counts.made == counts.acknowledged == len(events)
    return events


def day(seed: int = 0, rate: float = 0.5) -> list[dict[str, Any]]:
    return made(Plan(rate, seed=seed, range_ms=(START_MS, START_MS + DAY_MS)))


def without_run(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "event_id": event["event_id"].split("-")[1], "session_id": event["session_id"].split("-s")[1]}


def test_the_same_seed_makes_the_same_shop_but_other_ids() -> None:
    one, two = day(seed=7), day(seed=7)
    assert [without_run(event) for event in one] == [without_run(event) for event in two]
    assert not {event["event_id"] for event in one} & {event["event_id"] for event in two}
    assert [without_run(event) for event in day(seed=8)] != [without_run(event) for event in one]


def test_events_have_the_documented_shape() -> None:
    events = day()
    assert len({event["event_id"] for event in events}) == len(events) == DAY_MS // 2000
    kinds = {"page_view", "search", "add_to_cart", "checkout", "purchase", "error"}
    assert {event["event_type"] for event in events} == kinds
    countries = {code for code, _, _ in vocabulary.COUNTRIES}
    for event in events:
        properties = event["properties"]
        assert properties["page_url"] == vocabulary.HOST + properties["page_path"]
        assert {"page_title", "user_agent", "ip_address", "device_type", "browser"} <= set(properties)
        assert properties["country"] in countries
    for event in (event for event in events if event["event_type"] == "purchase"):
        assert event["custom_properties"]["price"] > 0
        assert {"product_id", "category"} <= set(event["custom_properties"])


def test_most_sessions_begin_outside_and_few_buy() -> None:
    sessions = defaultdict(list)
    for event in day(rate=1):
        if event["properties"]["device_type"] != "bot":
            sessions[event["session_id"]].append(event)
    whole = [events for events in sessions.values() if events[0]["properties"]["page_path"] == "/"]
    outside = [e[0] for e in whole if not e[0]["properties"].get("referrer", "").startswith(vocabulary.HOST)]
    assert len(outside) > 0.8 * len(whole)
    assert all(len({event.get("user_id") for event in events}) == 1 for events in sessions.values())
    buying = [events for events in sessions.values() if any(event["event_type"] == "purchase" for event in events)]
    assert 0.005 < len(buying) / len(sessions) < 0.2


def test_few_bots_make_many_requests() -> None:
    events = day(rate=1)
    bots = Counter(event["session_id"] for event in events if event["properties"]["device_type"] == "bot")
    people = Counter(event["session_id"] for event in events if event["properties"]["device_type"] != "bot")
    assert len(bots) == len(vocabulary.BOTS)
    assert min(bots.values()) > 10 * (sum(people.values()) / len(people))


def test_a_day_has_a_curve_and_keeps_its_mean() -> None:
    hours = np.arange(START_MS, START_MS + DAY_MS, 60_000)
    curve = busyness(hours)
    assert curve.mean() == pytest.approx(1)
    assert curve.max() / curve.min() > 1.5
    times = [event["timestamp"] for event in day()]
    assert times == sorted(times)
    by_hour = Counter(text[11:13] for text in times)
    assert max(by_hour.values()) / min(by_hour.values()) > 1.5


def test_now_means_now_and_the_number_is_kept() -> None:
    begun_ms = time.time_ns() // 1_000_000
    events = made(Plan(rate=0, events=3 * BATCH_EVENTS + 1))
    assert len(events) == 3 * BATCH_EVENTS + 1
    seen = np.array([np.datetime64(event["timestamp"][:-1], "ms").astype(np.int64) for event in events])
    late = seen < begun_ms - 1
    assert 0 < late.mean() < 0.03
    assert seen.min() >= begun_ms - 31_000
    assert seen.max() <= time.time_ns() // 1_000_000


def test_the_rate_is_kept() -> None:
    begun_s = time.monotonic()
    assert len(made(Plan(rate=400, seconds=0.75, events=300))) == 300
    assert 0.4 < time.monotonic() - begun_s < 10


def test_over_fifty_thousand_events_a_second_on_one_core() -> None:
    shop = Shop(0, "r", 65_536)
    times = np.full(BATCH_EVENTS, START_MS)
    shop.events(times)
    begun_s = time.process_time()
    for _ in range(25):
        shop.events(times)
    assert 25 * BATCH_EVENTS / (time.process_time() - begun_s) > 50_000


def test_an_outage_loses_nothing_and_repeats_nothing(server: FakeServer) -> None:
    server.failures = [(status, "unavailable", "0") for status in (503, 500, 429, 0, 503)]
    counts = Counts()
    sink = ServerSink(Client(server.url), "events", counts)
    generate(Plan(rate=0, events=5 * BATCH_EVENTS), sink, counts, lambda _: None, threading.Event())
    sink.close()
    assert counts.made == counts.acknowledged == 5 * BATCH_EVENTS
    ids = [event["event_id"] for event in server.events()]
    assert len(ids) == len(set(ids)) == 5 * BATCH_EVENTS
    assert {taken.key for taken in server.refused} <= {taken.key for taken in server.taken}


def test_stopping_ends_a_run_without_end(server: FakeServer) -> None:
    stop, counts = threading.Event(), Counts()
    sink = ServerSink(Client(server.url), "events", counts)
    enough = threading.Event()

    def report(now: Counts) -> None:
        if now.acknowledged:
            enough.set()

    thread = threading.Thread(target=generate, args=(Plan(rate=2000), sink, counts, report, stop))
    thread.start()
    assert enough.wait(30)
    stop.set()
    thread.join(timeout=30)
    sink.close()
    assert not thread.is_alive()
