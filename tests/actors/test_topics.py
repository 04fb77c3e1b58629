"""Topics of other producers as the coordinator sees them: growth is told, what is not there is waited for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rta.actors import topics
from rta.actors.topics import Topics
from rta.errors import NotFoundError, UnavailableError
from rta.events.definition import parse_datasource
from rta.events.schemas import Datasource
from rta.log.base import PartitionState, Record
from tests.actors.test_housekeeper import NoLog


class Source:
    """A cluster with these topics; asking for one that is away fails."""

    def __init__(self, **partitions: int) -> None:
        self.topics = partitions
        self.away = False

    def partitions(self, topic: str) -> dict[int, PartitionState]:
        if self.away:
            raise UnavailableError("the cluster is away")
        if topic not in self.topics:
            raise NotFoundError(f"no topic '{topic}'")
        return {number: PartitionState(f"{topic}-{number}", 0, 9) for number in range(self.topics[topic])}

    def starts(self, topic: str, start: str | int) -> dict[int, PartitionState]:
        return {p: s._replace(start=s.end if start == "latest" else s.start) for p, s in self.partitions(topic).items()}

    def fetch(self, topic: str, offsets: Mapping[int, int], bytes_max: int) -> list[Record]:
        raise AssertionError("the coordinator reads no records")

    def wait(self, topic: str, offsets: Mapping[int, int], timeout_ms: int) -> bool:
        raise AssertionError("the coordinator waits for no records")

    def close(self) -> None:
        return


def reading(topic: str, partitions: int, **more: Any) -> Datasource:
    document = {"name": topic, "time": "t", "source": {"kafka": {"topic": topic, **more}}}
    return parse_datasource(document, incarnation="i", version=1, partitions=partitions)


def test_a_datasource_begins_where_its_source_says() -> None:
    seen = Topics(NoLog(), lambda: Source(a=2))
    assert [s.start for s in seen.begin(reading("a", 2)).values()] == [0, 0]
    assert [s.start for s in seen.begin(reading("a", 2, start="latest")).values()] == [9, 9]


def test_partitions_that_came_since_the_definition_wait_for_it_to_grow() -> None:
    assert sorted(Topics(NoLog(), lambda: Source(a=3)).begin(reading("a", 2))) == [0, 1]


def test_a_topic_with_fewer_partitions_than_were_defined_is_not_there() -> None:
    with pytest.raises(NotFoundError, match="topic 'a' has 1 partitions, 'a' reads 2"):
        Topics(NoLog(), lambda: Source(a=1)).begin(reading("a", 2))


def test_growth_is_told_and_topics_out_of_reach_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "LOOK_S", 0.0)
    source = Source(a=3, b=2)
    seen = Topics(NoLog(), lambda: source)
    known = [reading("gone", 1), reading("b", 2), reading("a", 2)]
    assert [(d.name, count) for d, count in seen.grown(known)] == [("a", 3)]
    source.away = True
    assert list(seen.grown(known)) == []


def test_nothing_is_asked_where_nobody_reads_other_topics() -> None:
    own = parse_datasource({"name": "own", "time": "t"}, incarnation="i", version=1, partitions=2)
    assert list(Topics(NoLog(), None).grown([own])) == []
