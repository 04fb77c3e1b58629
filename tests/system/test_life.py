"""Starting, stopping, starting again; a second one on the same folder or port; what dies comes back with a reason."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

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
