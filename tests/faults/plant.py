"""rta on Kafka, a bucket and a Redis, with a proxy that spoils the bucket, senders, a watcher, and the oracle."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import httpx
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from rta.actors.crash import BY_FILE
from rta.events.builtin import events_document
from rta.store.objects import ObjectStore, open_store
from tests.faults.oracle import cents, judge_table
from tests.faults.senders import SteadySender, body_of
from tests.services.clock import Clock
from tests.services.disk import SmallDisk, can_mount
from tests.services.faulty import FaultyProxy
from tests.services.kafka import Kafka
from tests.services.redis import RedisServer
from tests.services.versitygw import BUCKET, SECRET, VersityGw
from tests.system.running import Running, Watcher, wait_for


class Closes(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closes)
RECOVERY_S_MAX = 60.0
SENDERS = 2
PREFIX = "plant"
ASIDE, ASIDE_EVENTS = "aside", 1000
"""A second datasource that answers whatever becomes of the first one."""
EVER = "2000-01-01T00:00:00Z/2100-01-01T00:00:00Z"


class _Stranger(NamedTuple):
    """What came another way than from a sender."""

    sent: int


class Plant:
    """See the module. Everything runs when it is handed out; `close` leaves nothing behind.

    Args:
        folder: For rta's own files.
        rate: Events per second over both senders.
        seed: Draws the events.
    """

    def __init__(self, folder: Path, rate: int, seed: int) -> None:
        self.rate, self.seed = rate, seed
        self._around = ExitStack()
        try:
            self.clock = self._kept(Clock())
            self.disk = self._kept(SmallDisk(folder / "data")) if can_mount() else None
            self.kafka = self._kept(Kafka())
            self.bucket = self._kept(VersityGw())
            self.proxy = self._kept(FaultyProxy(self.bucket.port, SECRET))
            self.redis = self._kept(RedisServer())
        except BaseException:
            self._around.close()
            raise
        self.running = Running(
            folder,
            environment={**os.environ, **self.bucket.environment(self.proxy.endpoint), **self.clock.environment()},
            log=self.kafka.url,
            store=self.bucket.url(PREFIX),
            kafka={"delivery": "5s", "request": "2s"},
            redis=self.redis.url,
            quotas={"events_per_second": 10_000_000, "burst": 10_000_000},
            crash_at=BY_FILE,
            datasources=[{**events_document(), "name": ASIDE}],
        )
        self.senders: list[SteadySender] = []
        self.strangers: dict[int, int] = {}
        """Events that came another way: how many of each number."""
        self.watcher: Watcher | None = None

    def _kept(self, thing: T) -> T:
        """Closed with the plant, the last one first."""
        self._around.callback(thing.close)
        return thing

    def start(self) -> Plant:
        self.start_system()
        self.start_senders()
        return self

    def start_system(self) -> None:
        self.running.start()
        body = body_of(0, 0, ASIDE_EVENTS, time.time_ns() // 1_000_000)
        self.until_answered(f"/v1/events/{ASIDE}", content=body, headers={"content-type": "application/x-ndjson"})
        wait_for(self.aside_answers, f"'{ASIDE}' answers", RECOVERY_S_MAX)

    def start_senders(self) -> None:
        first = self.stranger + 1
        self.senders = [SteadySender(self.running, first + k, self.rate // SENDERS) for k in range(SENDERS)]
        others = [_Stranger(events) for events in self.strangers.values()]
        self.watcher = Watcher(self.running, [*self.senders, *others])
        for thread in (*self.senders, self.watcher):
            thread.start()

    @property
    def stranger(self) -> int:
        """A number for events that come another way than from the senders."""
        return 1 + self.seed % 1_000_000 * (SENDERS + 1)

    def store(self) -> ObjectStore:
        """The bucket as rta's own modules read it, past the proxy."""
        os.environ.update(self.bucket.environment())
        return open_store(self.bucket.url(PREFIX))

    @property
    def acknowledged(self) -> int:
        return sum(sender.acknowledged for sender in self.senders)

    def recovered(self) -> float:
        """Until new events are taken and a complete answer has them; seconds that took."""
        began = time.monotonic()
        before = [sender.acknowledged for sender in self.senders]
        wait_for(
            lambda: all(s.acknowledged > count + s.batch for s, count in zip(self.senders, before, strict=True)),
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

    def until_answered(self, path: str, **request: Any) -> None:
        """Ask again for as long as the answer is that something is being restarted."""

        def answered() -> bool:
            answer = self.running.http.post(path, **request)
            assert answer.status_code in (200, 503), answer.text
            return answer.status_code == 200

        wait_for(answered, f"an answer to {path}", RECOVERY_S_MAX)

    def aside_answers(self) -> bool:
        """Whether the datasource that nothing is done to gives its complete answer now."""
        question = {"datasource": ASIDE, "time_range": EVER, "metrics": [{"name": "n", "type": "count"}]}
        try:
            answer = self.running.http.post("/v1/query", json=question)
        except httpx.TransportError:
            return False
        if answer.status_code != 200 or not answer.json()["meta"]["complete"]:
            return False
        return bool(answer.json()["rows"][0]["n"] == ASIDE_EVENTS)

    def objects(self) -> Path:
        """The folder of what the store has put into the bucket."""
        return self.bucket.root / "data" / BUCKET / PREFIX

    def said(self, path: str) -> str:
        """What rta says at this path; nothing while it does not answer."""
        try:
            return self.running.http.get(path).text
        except httpx.TransportError:
            return ""

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
        known = {**self.strangers, **{sender.number: sender.acknowledged for sender in self.senders}}
        events = sum(known.values())
        [row] = self.running.rows(
            datasource="events",
            time_range=EVER,
            after=self.senders[-1].position,
            metrics=[{"name": "n", "type": "count"}, {"name": "s", "type": "sum", "field": "custom_properties.price"}],
        )
        assert (row["n"], round(row["s"] * 100)) == (events, cents(known))
        ledger = self.running.wait_committed("events", events)
        assert (ledger["lost"], ledger["duplicated"], ledger["mismatches"]) == (0, 0, []), ledger
        assert self.watcher is not None
        self.watcher.finish()
        assert self.watcher.wrong == []
        assert [sender.refused for sender in self.senders] == [[]] * SENDERS
        assert self.running.stop() == 0
        assert judge_table(self.table(), self.options, known) == events

    @property
    def options(self) -> dict[str, str]:
        """What another program needs to read the bucket."""
        return {name.lower(): value for name, value in self.bucket.environment().items()}

    def raw_files(self) -> list[Path]:
        """The files of the open-format table of raw events, in the server's folder."""
        try:
            table = DeltaTable(self.table(), storage_options=self.options)
        except TableNotFoundError:
            return []
        root = self.bucket.root / "data"
        return [root / uri.removeprefix("s3://") for uri in table.file_uris()]

    def table(self) -> str:
        """Where the open-format table of raw events lies."""
        [table] = self.objects().glob("events.*/tables/events")
        return f"s3://{BUCKET}/{table.relative_to(self.bucket.root / 'data' / BUCKET)}"

    def close(self) -> None:
        for sender in self.senders:
            sender.stop()
        if self.watcher is not None:
            self.watcher.finish()
        if self.running.process is not None and self.running.process.poll() is None:
            self.running.kill_everything()
        self._around.close()
