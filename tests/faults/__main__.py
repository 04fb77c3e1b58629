"""`python -m tests.faults`: the long campaign, under full load. Prints the seed, each fault, and how recovery was spread."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from tests.faults.campaign import campaign
from tests.faults.faults import FAULTS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Inject faults under load and judge.")
    parser.add_argument("--minutes", type=float, default=30.0, help="at least so long (default: 30)")
    parser.add_argument("--rate", type=int, default=20_000, help="events per second (default: 20000)")
    parser.add_argument("--hold", type=float, default=60.0, help="seconds that an outage lasts (default: 60)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="draws the order and the events")
    parser.add_argument("--only", action="append", choices=sorted(FAULTS), metavar="NAME", help="only these faults")
    options = parser.parse_args()
    names = options.only or list(FAULTS)
    with tempfile.TemporaryDirectory(prefix="rta-faults-") as folder:
        outcomes = campaign(
            Path(folder), names, seed=options.seed, rate=options.rate, hold_s=options.hold, minutes=options.minutes
        )
    for name in names:
        found = sorted(outcome.recovery_s for outcome in outcomes if outcome.name == name)
        print(
            f"{name:<28} {len(found):>3} times, recovery median {statistics.median(found):.1f}, max {found[-1]:.1f} s"
        )
    print(f"seed {options.seed}: {len(outcomes)} faults, lost 0, duplicated 0, sums equal")


if __name__ == "__main__":
    main()
