"""A seeded run through the faults: each once in an order that the seed draws, again and again until the time is over."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults.faults import FAULTS
from tests.faults.plant import Plant

SETTLED_S = 5.0


class Outcome(NamedTuple):
    """A fault, and how long after it the plant took events and answered completely again."""

    name: str
    recovery_s: float


def calm(folder: Path, *, seed: int, rate: int, seconds: float) -> float:
    """Events per second that a plant takes when nothing is done to it and the senders try for `rate`. Judged as ever."""
    plant = Plant(folder, rate, seed)
    try:
        plant.start()
        pause = threading.Event()
        pause.wait(SETTLED_S)
        began, before = time.monotonic(), plant.acknowledged
        pause.wait(seconds)
        taken = (plant.acknowledged - before) / (time.monotonic() - began)
        behind_s = plant.recovered()
        print(f"{taken:.0f} events/s taken; then an answer had the newest ones after {behind_s:.1f} s", flush=True)
        plant.settle()
    except BaseException:
        print(plant.describe(), flush=True)
        raise
    finally:
        plant.close()
    return taken


def drawn(seed: int, names: Sequence[str]) -> Iterator[str]:
    """Every name in a drawn order, for ever."""
    draw = random.Random(seed)
    while True:
        order = list(names)
        draw.shuffle(order)
        yield from order


def campaign(
    folder: Path, names: Sequence[str], *, seed: int, rate: int, hold_s: float, minutes: float
) -> list[Outcome]:
    """Start a plant, do to it what the seed draws, judge. At least every name once, however short the time.

    Raises AssertionError when anything was lost, doubled, wrong or did not come back.
    """
    print(f"seed {seed}: {rate} events/s, faults held {hold_s:g} s", flush=True)
    outcomes: list[Outcome] = []
    plant = Plant(folder, rate, seed)
    try:
        plant.start()
        began = time.monotonic()
        pause, until = threading.Event(), time.monotonic() + minutes * 60
        for number, name in enumerate(drawn(seed, names)):
            if number >= len(names) and time.monotonic() > until:
                break
            pause.wait(1.0)
            print(f"{plant.acknowledged:>10} events; {name}", flush=True)
            FAULTS[name](plant, hold_s)
            outcomes.append(Outcome(name, plant.recovered()))
            print(f"{'':>10} whole again after {outcomes[-1].recovery_s:.1f} s", flush=True)
        taken, seconds = plant.acknowledged, time.monotonic() - began
        print(f"{taken:>10} events in {seconds:.0f} s: {taken / seconds:.0f} a second, outages and all", flush=True)
        plant.settle()
    except BaseException:
        print(plant.describe(), flush=True)
        raise
    finally:
        plant.close()
    return outcomes
