"""What can be done to a plant. Each fault is over when its function returns; whether the plant recovers is asked afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import zlib
from collections.abc import Callable, Mapping

import psutil

from rta.actors.crash import BEFORE_PROJECTION, FILES_WRITTEN, MANIFEST_PUT, arming_file
from tests.faults.damage import flipped_byte, truncated_state
from tests.faults.plant import Plant
from tests.services.disk import can_mount
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
        plant.until_answered("/v1/scale", json={"aggregators": count})
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


def crash(point: str) -> Fault:
    """The next process that reaches this step of a commit is gone, as with kill -9."""

    def run(plant: Plant, hold_s: float) -> None:
        armed = arming_file(plant.running.folder / "data" / "run", point)
        armed.touch()
        wait_for(lambda: not armed.exists(), f"a process ends at '{point}'", 60)

    return run


def disk_full(plant: Plant, hold_s: float) -> None:
    """No room for another byte in the data folder. What dies meanwhile comes back all the same."""
    assert plant.disk is not None
    plant.disk.fill()
    try:
        _pause(hold_s / 2)
        plant.running.kill(AGGREGATOR)
        plant.recovered()
        plant.running.kill(COORDINATOR)
        plant.recovered()
        _pause(hold_s / 2)
    finally:
        plant.disk.free()


def clock_stepped(plant: Plant, hold_s: float) -> None:
    """Of all of rta's processes: an hour ahead, an hour behind, right again. What dies meanwhile comes back."""
    try:
        for ahead_s in (3600, -3600):
            plant.clock.step(ahead_s)
            _pause(hold_s / 2)
            plant.recovered()
            plant.running.kill(AGGREGATOR)
            plant.recovered()
    finally:
        plant.clock.step(0)
    # Serve measures by the clock that was just set: a replica has to come back all the same.
    plant.running.kill(INGEST)


def impatient(plant: Plant, hold_s: float) -> None:
    """Senders that hang up before the answer is there, and send the same again."""
    before = sum(sender.cut_off for sender in plant.senders)
    for sender in plant.senders:
        sender.impatient = True
    _pause(hold_s)
    for sender in plant.senders:
        sender.impatient = False
    assert sum(sender.cut_off for sender in plant.senders) > before, "nobody hung up"


def _ignore(_: object) -> None:
    return


DISK_FULL = "disk full"


def possible() -> list[str]:
    """The faults that can be done on this machine; a small disk can be mounted by root alone."""
    return [name for name in FAULTS if name != DISK_FULL or can_mount()]


FAULTS: Mapping[str, Fault] = {
    "kill an aggregator": kill(AGGREGATOR),
    "kill the coordinator": kill(COORDINATOR),
    "kill an ingest replica": kill(INGEST),
    "kill a query replica": kill(QUERY),
    "kill an aggregator twice": kill_twice(AGGREGATOR),
    "kill the coordinator twice": kill_twice(COORDINATOR),
    "crash after the files": crash(FILES_WRITTEN),
    "crash after the manifest": crash(MANIFEST_PUT),
    "crash before the tables": crash(BEFORE_PROJECTION),
    "kill everything": kill_everything,
    "freeze an aggregator": freeze(AGGREGATOR),
    "freeze the coordinator": freeze(COORDINATOR),
    "kill the broker": broker_killed,
    "freeze the broker": broker_frozen,
    "bucket down": bucket(Faults(down=True)),
    "bucket slow": bucket(Faults(delay_s=0.3)),
    "bucket fails each third": bucket(Faults(every=3)),
    "bucket forgets answers": bucket(
        Faults(forget=lambda method, path: method == "PUT" and zlib.crc32(path.encode()) % 2 == 0)
    ),
    "truncated state": truncated_state,
    "flipped byte": flipped_byte,
    DISK_FULL: disk_full,
    "clock stepped": clock_stepped,
    "impatient senders": impatient,
    "kill Redis": redis_killed,
    "freeze Redis": redis_frozen,
    "scale": scaled,
    "second system": second_system,
    "kill the Ray node": raylet_killed,
}
