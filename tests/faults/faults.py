"""What can be done to a plant. Each fault is over when its function returns; whether the plant recovers is asked afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping

import psutil

from tests.faults.plant import Plant
from tests.services.faulty import Faults
from tests.system.running import AGGREGATOR, COORDINATOR, INGEST, QUERY, Running, wait_for

Fault = Callable[[Plant, float], None]
"""(plant, how long to hold what is held)."""
_pause = threading.Event().wait


def kill(title: str) -> Fault:
    return lambda plant, hold_s: _ignore(plant.running.kill(title))


def kill_twice(title: str) -> Fault:
    """The second time as soon as its successor is there."""

    def run(plant: Plant, hold_s: float) -> None:
        first = plant.running.kill(title)
        wait_for(lambda: any(p.pid != first for p in plant.running.processes(title)), f"another '{title}' runs")
        plant.running.kill(title)

    return run


def kill_everything(plant: Plant, hold_s: float) -> None:
    plant.running.kill_everything()
    plant.running.start()


def freeze(title: str) -> Fault:
    """SIGSTOP, then SIGCONT if it still lives: a zombie that wakes up among its successors."""

    def run(plant: Plant, hold_s: float) -> None:
        wait_for(lambda: bool(plant.running.processes(title)), f"a process '{title}' runs")
        pid = plant.running.processes(title)[0].pid
        os.kill(pid, signal.SIGSTOP)
        _pause(hold_s)
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return

    return run


def broker_killed(plant: Plant, hold_s: float) -> None:
    plant.kafka.kill()
    _pause(hold_s / 4)
    plant.kafka.start()


def broker_frozen(plant: Plant, hold_s: float) -> None:
    plant.kafka.freeze()
    _pause(hold_s)
    plant.kafka.thaw()


def redis_killed(plant: Plant, hold_s: float) -> None:
    plant.redis.kill()
    _pause(hold_s / 4)
    plant.redis.start()


def redis_frozen(plant: Plant, hold_s: float) -> None:
    plant.redis.freeze()
    _pause(hold_s)
    plant.redis.thaw()


def bucket(faults: Faults) -> Fault:
    def run(plant: Plant, hold_s: float) -> None:
        plant.proxy.faults = faults
        _pause(hold_s)
        plant.proxy.faults = Faults()

    return run


def scaled(plant: Plant, hold_s: float) -> None:
    """2 → 4 → 1 → 2 aggregators."""
    for count in (4, 1, 2):
        plant.until_answered("/v1/scale", {"aggregators": count})
        _pause(hold_s / 2)


def second_system(plant: Plant, hold_s: float) -> None:
    """Started by mistake on the same bucket and topics: it is refused, and says by whom the store is used."""
    first = plant.running
    settings = json.loads(first.config.read_text())
    del settings["port"], settings["data_dir"]
    second = Running(first.folder / "second", environment=first.environment, **settings)
    started = subprocess.run(
        second.command("up", "--config", str(second.config)),
        env=second.environment,
        cwd=second.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert started.returncode == 1
    assert f"the store is used by the rta of process {first.process.pid if first.process else 0}" in started.stderr


def raylet_killed(plant: Plant, hold_s: float) -> None:
    """The whole Ray node goes; `rta up` ends, and whoever looks after it starts it again."""
    process = plant.running.process
    assert process is not None
    [raylet] = [p for p in psutil.Process(process.pid).children(recursive=True) if p.name() == "raylet"]
    raylet.kill()
    assert process.wait(timeout=90) != 0
    plant.running.start()


def _ignore(_: object) -> None:
    return


FAULTS: Mapping[str, Fault] = {
    "kill an aggregator": kill(AGGREGATOR),
    "kill the coordinator": kill(COORDINATOR),
    "kill an ingest replica": kill(INGEST),
    "kill a query replica": kill(QUERY),
    "kill an aggregator twice": kill_twice(AGGREGATOR),
    "kill the coordinator twice": kill_twice(COORDINATOR),
    "kill everything": kill_everything,
    "freeze an aggregator": freeze(AGGREGATOR),
    "freeze the coordinator": freeze(COORDINATOR),
    "kill the broker": broker_killed,
    "freeze the broker": broker_frozen,
    "bucket down": bucket(Faults(down=True)),
    "bucket slow": bucket(Faults(delay_s=0.3)),
    "bucket fails each third": bucket(Faults(every=3)),
    "bucket forgets answers": bucket(Faults(forget=lambda method, path: method == "PUT" and hash(path) % 2 == 0)),
    "kill Redis": redis_killed,
    "freeze Redis": redis_frozen,
    "scale": scaled,
    "second system": second_system,
    "kill the Ray node": raylet_killed,
}
