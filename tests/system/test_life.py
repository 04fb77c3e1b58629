"""Starting, stopping, starting again; a second one on the same folder or port; what dies comes back with a reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil

from tests.system.running import AGGREGATOR, Running, Sender, wait_for

ALL_TIME = "2000-01-01T00:00:00Z/2100-01-01T00:00:00Z"


def test_it_goes_on_where_it_was_after_a_stop(own_folder: Path) -> None:
    running = Running(own_folder).start()
    sender = Sender(running, 2000, seed=7)
    sender.start()
    wait_for(lambda: len(sender.acknowledged) >= 3000, "3,000 events are acknowledged")
    sender.finish()
    count = len(sender.acknowledged)
    assert running.stop() == 0
    running.start()
    rows = running.rows(datasource="events", time_range=ALL_TIME, metrics=[{"name": "n", "type": "count"}])
    assert rows == [{"n": count}]
    assert running.stop() == 0


def test_a_second_up_on_the_same_folder_is_refused_and_names_the_holder(system: Running) -> None:
    second = json.loads(system.config.read_text())
    config = system.folder / "second.yaml"
    config.write_text(json.dumps({**second, "port": second["port"] + 1}))
    done = subprocess.run(system.command("up", "--config", str(config)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert system.process is not None
    assert f"is held by process {system.process.pid}" in done.stderr


def test_a_second_up_on_the_same_port_is_refused_and_names_the_port(system: Running, own_folder: Path) -> None:
    own_folder.mkdir()
    config = own_folder / "rta.yaml"
    config.write_text(json.dumps({"port": system.port, "data_dir": str(own_folder / "data")}))
    done = subprocess.run(system.command("up", "--config", str(config)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"port {system.port}" in done.stderr
    assert "held by process" in done.stderr


def test_a_killed_aggregator_comes_back_with_a_reason(system: Running) -> None:
    before = {name: actor["restarts"] for name, actor in system.status()["actors"].items()}
    pid = system.kill(AGGREGATOR)

    def back() -> bool:
        actors = system.status()["actors"]
        return all(a["alive"] and a["pid"] != pid for a in actors.values()) and any(
            a["restarts"] > before[name] and a["reason"] for name, a in actors.items()
        )

    wait_for(back, "the aggregator is back, and the status says why it went", 60)
    wait_for(lambda: system.http.get("/readyz").status_code == 200, "it is ready again")


def test_a_signal_to_the_whole_group_stops_it_in_order(own_folder: Path) -> None:
    running = Running(own_folder, epoch="60s").start()
    assert running.process is not None
    sender = Sender(running, 1000, seed=3)
    sender.start()
    wait_for(lambda: len(sender.acknowledged) >= 500, "500 events are acknowledged")
    sender.finish()
    family = psutil.Process(running.process.pid).children(recursive=True)
    assert all(os.getpgid(child.pid) != running.process.pid for child in family)
    os.killpg(running.process.pid, signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0
    assert psutil.wait_procs(family, timeout=10)[1] == []
    said = [line for line in running.log.read_text().splitlines() if line]
    assert said[-1].startswith("rta: stopped")
    assert [line for line in said if not line.startswith("rta: ")] == []
    running.start()
    assert running.ledger("events")["stages"]["committed"] == len(sender.acknowledged)
    assert running.stop() == 0


def test_nothing_outlives_a_killed_rta_up_and_the_next_one_goes_on(own_folder: Path) -> None:
    running = Running(own_folder).start()
    assert running.process is not None
    sender = Sender(running, 1000, seed=5)
    sender.start()
    wait_for(lambda: len(sender.acknowledged) >= 500, "500 events are acknowledged")
    sender.finish()
    family = psutil.Process(running.process.pid).children(recursive=True)
    running.process.kill()
    running.process.wait(timeout=10)
    alive = psutil.wait_procs(family, timeout=30)[1]
    assert [" ".join(p.cmdline())[:80] for p in alive] == []
    running.start()
    rows = running.rows(datasource="events", time_range=ALL_TIME, metrics=[{"name": "n", "type": "count"}])
    assert rows == [{"n": len(sender.acknowledged)}]
    assert running.stop() == 0
