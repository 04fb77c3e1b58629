"""rta on Kafka, a bucket and a Redis, with a proxy that spoils the bucket, senders, a watcher, and the oracle."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
from deltalake import DeltaTable

from tests.services.faulty import FaultyProxy
from tests.services.kafka import Kafka
from tests.services.redis import RedisServer
from tests.services.versitygw import BUCKET, VersityGw
from tests.system.running import Running, Sender, Watcher, wait_for

RECOVERY_S_MAX = 60.0
EVER = "2000-01-01T00:00:00Z/2100-01-01T00:00:00Z"


class Insistent(Sender):
    """Sends some batches again although they were acknowledged: ten times, or twice at the same time."""

    def _send(self, http: httpx.Client, body: bytes, count: int) -> None:
        draw = self._random.random()
        if draw < 0.02:
            with httpx.Client(base_url=self.running.url, timeout=20) as other:
                twin = threading.Thread(target=super()._send, args=(other, body, count))
                twin.start()
                super()._send(http, body, count)
                twin.join()
            return
        for _ in range(10 if draw < 0.03 else 1):
            super()._send(http, body, count)


class Plant:
    """See the module. Everything runs when it is handed out; `close` leaves nothing behind.

    Args:
        folder: For rta's own files.
        rate: Events per second over both senders.
        seed: Draws the events.
    """

    def __init__(self, folder: Path, rate: int, seed: int) -> None:
        self.rate, self.seed = rate, seed
        self.kafka = Kafka()
        self.bucket = VersityGw()
        self.proxy = FaultyProxy(self.bucket.port)
        self.redis = RedisServer()
        self.running = Running(
            folder,
            environment={**os.environ, **self.bucket.environment(self.proxy.endpoint)},
            log=self.kafka.url,
            store=self.bucket.url("plant"),
            kafka={"delivery": "5s", "request": "2s"},
            redis=self.redis.url,
            quotas={"events_per_second": 10_000_000, "burst": 10_000_000},
        )
        self.senders: list[Sender] = []
        self.watcher: Watcher | None = None

    def start(self) -> Plant:
        self.running.start()
        self.senders = [Insistent(self.running, self.rate // 2, seed=self.seed + k) for k in range(2)]
        self.watcher = Watcher(self.running, self.senders)
        for thread in (*self.senders, self.watcher):
            thread.start()
        return self

    @property
    def acknowledged(self) -> int:
        return sum(len(sender.acknowledged) for sender in self.senders)

    def recovered(self) -> float:
        """Until new events are taken and a complete answer has them; seconds that took."""
        began = time.monotonic()
        before = [(len(sender.acknowledged), sender.position) for sender in self.senders]
        wait_for(
            lambda: all(len(s.acknowledged) > n + s.batch for s, (n, _) in zip(self.senders, before, strict=True)),
            "events are taken again",
            RECOVERY_S_MAX,
        )
        question = {
            "datasource": "events",
            "time_range": EVER,
            "metrics": [{"name": "n", "type": "count"}],
            "after": self.senders[0].position,
        }
        wait_for(lambda: self._complete(question), "a complete answer has the newest events", RECOVERY_S_MAX)
        return time.monotonic() - began

    def until_answered(self, path: str, body: Mapping[str, object]) -> None:
        """Ask again for as long as the answer is that something is being restarted."""

        def answered() -> bool:
            answer = self.running.http.post(path, json=body)
            assert answer.status_code in (200, 503), answer.text
            return answer.status_code == 200

        wait_for(answered, f"an answer to {path} {body}", RECOVERY_S_MAX)

    def _complete(self, question: Mapping[str, object]) -> bool:
        try:
            answer = self.running.http.post("/v1/query", json=question)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and bool(answer.json()["meta"]["complete"])

    def describe(self) -> str:
        """What a person would look at first when it went wrong."""
        said = [
            f"senders alive: {[s.is_alive() for s in self.senders]}, last refusals: {[s.last for s in self.senders]}"
        ]
        for path in ("/readyz", "/v1/status"):
            try:
                said.append(f"{path}: {self.running.http.get(path).text[:3000]}")
            except httpx.TransportError as error:
                said.append(f"{path}: {error!r}")
        said.append(self.running.log.read_text(errors="replace")[-2000:])
        return "\n".join(said)

    def settle(self) -> None:
        """Stop sending and judge: nothing lost, nothing twice, sums to the cent, answers never went back."""
        for sender in self.senders:
            sender.finish()
        known = {key: price for sender in self.senders for key, price in sender.acknowledged.items()}
        cents = sum(round(price * 100) for price in known.values())
        [row] = self.running.rows(
            datasource="events",
            time_range=EVER,
            after=self.senders[-1].position,
            metrics=[{"name": "n", "type": "count"}, {"name": "s", "type": "sum", "field": "custom_properties.price"}],
        )
        assert (row["n"], round(row["s"] * 100)) == (len(known), cents)
        ledger = self.running.wait_committed("events", len(known))
        assert (ledger["lost"], ledger["duplicated"], ledger["mismatches"]) == (0, 0, []), ledger
        assert self.watcher is not None
        self.watcher.finish()
        assert self.watcher.wrong == []
        assert [sender.refused for sender in self.senders] == [[], []]
        assert self.running.stop() == 0
        stored = self.stored()
        assert len(stored) == len(known)
        assert stored == known

    def stored(self) -> dict[str, float]:
        """id → price, read from the open-format table by another program, straight from the bucket."""
        tables = sorted((self.bucket.root / "data" / BUCKET / "plant").glob("events.*/tables/events"))
        assert len(tables) == 1, tables
        place = f"s3://{BUCKET}/{tables[0].relative_to(self.bucket.root / 'data' / BUCKET)}"
        options = {name.lower(): value for name, value in self.bucket.environment().items()}
        rows = DeltaTable(place, storage_options=options).to_pyarrow_table(columns=["event_id", "price"])
        ids = rows.column("event_id").to_pylist()
        found = dict(zip(ids, rows.column("price").to_pylist(), strict=True))
        assert len(found) == len(ids), f"{len(ids) - len(found)} rows are there twice"
        return found

    def close(self) -> None:
        for sender in self.senders:
            sender.stop()
        if self.watcher is not None:
            self.watcher.finish()
        if self.running.process is not None and self.running.process.poll() is None:
            self.running.kill_everything()
        self.proxy.close()
        self.redis.close()
        self.bucket.close()
        self.kafka.close()
