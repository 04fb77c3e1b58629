"""What a coordinator does when it is not the newest any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from rta.actors.coordinator import Coordinator, Outside
from rta.actors.ownership import Ownership
from rta.errors import UnavailableError
from tests.actors.test_aggregator import made_up_site
from tests.actors.test_housekeeper import NoLog
from tests.actors.test_log_watch import MadeUpLog
from tests.store.memory import MemoryStore


def test_a_superseded_coordinator_stands_down_when_an_aggregator_registers(tmp_path: Path) -> None:
    """Nothing else may tell it for as long as nobody can offer a part: aggregators came and went for ever."""
    store, deaths = MemoryStore(), list[str]()
    outside = Outside(
        open_log=NoLog,
        ask=lambda actor, timeout_s: None,
        kill=lambda actor, pid: None,
        open_reader=MadeUpLog,
        log_stats=dict,
        die=deaths.append,
    )
    coordinator = Coordinator(made_up_site(tmp_path), store, outside)
    assert coordinator.register("agg-0", 1).generation == 1
    Ownership(store, ("agg-0",))
    with pytest.raises(UnavailableError, match="stood down"):
        coordinator.register("agg-0", 2)
    assert len(deaths) == 1
