"""How long answers are incomplete after kill -9 of an aggregator, and what the time goes to."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from rta.actors.warm import IDLE
from tests.faults.plant import EVER, Plant
from tests.system.running import AGGREGATOR, is_warm, wait_for

PAUSE_S = 10.0
"""Between two kills, about: enough for another worker to be started and warmed up, and the epochs are met at varying ages."""
STEP_S = 0.02
WARM_S_MAX = 120.0
"""Until a worker waits, on a machine that is busy with other things; a death before that is another measurement."""


class Recovery(NamedTuple):
    """Seconds after the kill: another process was there, it was registered, answers were complete again."""

    process_s: float
    registered_s: float
    complete_s: float


def recoveries(folder: Path, count: int, *, seed: int, rate: int) -> list[Recovery]:
    """Kill an aggregator so many times under load, each in turn. Judges at the end as every campaign does."""
    plant = Plant(folder, rate, seed)
    try:
        plant.start()
        found = []
        for number in range(count):
            threading.Event().wait(PAUSE_S * (0.9 + number % 4 / 10))
            found.append(_kill_one(plant, number))
            print("kill {:>3}: process {:.2f}, registered {:.2f}, complete {:.2f} s".format(number + 1, *found[-1]))
        plant.settle()
        return found
    except BaseException:
        print(plant.describe(), flush=True)
        raise
    finally:
        plant.close()


def _kill_one(plant: Plant, number: int) -> Recovery:
    """Complete is an answer that has every partition's owner, and in it what was acknowledged after the kill."""
    wait_for(lambda: len(plant.running.processes(AGGREGATOR)) == 2, "two aggregators run")
    wait_for(lambda: any(map(is_warm, plant.running.processes(IDLE))), "a warm worker waits", WARM_S_MAX)
    victims = sorted(plant.running.processes(AGGREGATOR), key=lambda p: " ".join(p.cmdline()))
    victim, known = victims[number % 2], {p.pid for p in victims}
    seen = _Seen(plant, known)
    began = time.monotonic()
    victim.kill()
    seen.start()
    positions = [s.position for s in plant.senders]
    wait_for(lambda: all(s.position != p for s, p in zip(plant.senders, positions, strict=True)), "events are taken")
    question = {
        "datasource": "events",
        "time_range": EVER,
        "metrics": [{"name": "n", "type": "count"}],
        "after": plant.senders[0].position,
    }
    wait_for(lambda: _complete(plant, question), "answers are complete again")
    complete_s = time.monotonic() - began
    seen.join(30)
    return Recovery(seen.process - began, seen.registered - began, complete_s)


def _complete(plant: Plant, question: Mapping[str, object]) -> bool:
    try:
        answer = plant.running.http.post("/v1/query", json=question)
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and bool(answer.json()["meta"]["complete"])


class _Seen(threading.Thread):
    """Looks when the successor's process is there, and when the coordinator knows it."""

    def __init__(self, plant: Plant, known: set[int]) -> None:
        super().__init__(daemon=True)
        self._plant, self._known = plant, known
        self._lives = plant.running.folder / "data" / "run" / "lives.json"
        self._before = self._lives.read_bytes()
        self.process = self.registered = time.monotonic()

    def run(self) -> None:
        pause = threading.Event()
        while self._lives.read_bytes() == self._before and not pause.wait(STEP_S):
            if any(p.pid not in self._known for p in self._workers()) and self.process <= self.registered:
                self.process = time.monotonic()
        self.registered = time.monotonic()

    def _workers(self) -> list[psutil.Process]:
        return self._plant.running.processes(AGGREGATOR)


def spread(found: Sequence[Recovery]) -> str:
    complete = [r.complete_s for r in found]
    return f"{len(found)} kills: complete again after {statistics.median(complete):.2f} s (median), {max(complete):.2f} s (max)"
