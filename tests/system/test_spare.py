"""An aggregator that dies goes on in a worker that was waiting for it, warm."""

from __future__ import annotations

from pathlib import Path

import psutil

from rta.actors.warm import IDLE
from tests.system.running import AGGREGATOR, Running, is_warm, wait_for


def waiting(running: Running) -> list[psutil.Process]:
    return running.processes(IDLE)


def test_the_successor_of_a_dead_aggregator_is_the_worker_that_waited(own_folder: Path) -> None:
    running = Running(own_folder).start()
    try:
        wait_for(lambda: len(waiting(running)) == 1 and is_warm(waiting(running)[0]), "a warm worker waits")
        [spare] = waiting(running)
        before = {process.pid for process in running.processes(AGGREGATOR)}
        running.kill(AGGREGATOR)
        wait_for(lambda: spare.pid in {process.pid for process in running.processes(AGGREGATOR)}, "it takes over")
        assert spare.pid not in before
        wait_for(lambda: running.http.get("/readyz").status_code == 200, "it is ready again")
        wait_for(lambda: len(waiting(running)) == 1 and waiting(running)[0].pid != spare.pid, "another one waits")
        assert running.stop() == 0
    finally:
        if running.process is not None and running.process.poll() is None:
            running.kill_everything()
