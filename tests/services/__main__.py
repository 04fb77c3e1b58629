"""`python -m tests.services`: fetch what the tests run against, once; what can't be fetched is named with what to install."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.services.clock import library
from tests.services.kafka import jars
from tests.services.places import MissingServiceError, program
from tests.services.redis import redis_server
from tests.services.versitygw import versitygw


def main() -> int:
    wanted: tuple[tuple[str, Callable[[], object]], ...] = (
        ("java", lambda: program("java", "install Java 17 or newer (Debian: apt-get install openjdk-17-jre-headless)")),
        ("Apache Kafka", jars),
        ("versitygw", versitygw),
        ("Redis", redis_server),
        ("a clock that can be stepped", library),
    )
    missing = 0
    for name, fetch in wanted:
        try:
            fetch()
        except MissingServiceError as error:
            missing += 1
            print(f"{name}: {error}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
