"""`python -m tests.faults`: the long campaign, under full load. Prints the seed, each fault, and how recovery was spread."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.campaign import calm, campaign
from tests.faults.faults import FAULTS, possible
from tests.faults.lag import TIMES_MIN, work_off
from tests.faults.recovery import recoveries, spread


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Inject faults under load and judge.")
    parser.add_argument("--minutes", type=float, default=30.0, help="at least so long (default: 30)")
    parser.add_argument("--rate", type=int, default=20_000, help="events per second (default: 20000)")
    parser.add_argument("--hold", type=float, default=60.0, help="seconds that an outage lasts (default: 60)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="draws the order and the events")
    parser.add_argument("--only", action="append", choices=sorted(FAULTS), metavar="NAME", help="only these faults")
    parser.add_argument(
        "--recovery",
        type=int,
        metavar="N",
        help="instead: kill an aggregator so many times, and say how long each took",
    )
    parser.add_argument(
        "--lag-minutes", type=float, metavar="M", help="instead: work off the lag of so many minutes at the rate"
    )
    parser.add_argument("--calm", type=float, metavar="S", help="instead: no fault for so many seconds; what is taken")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rta-faults-") as folder:
        if options.calm is not None:
            calm(Path(folder), seed=options.seed, rate=options.rate, seconds=options.calm)
        elif options.recovery is not None:
            print(spread(recoveries(Path(folder), options.recovery, seed=options.seed, rate=options.rate)))
        elif options.lag_minutes is not None:
            caught_up = work_off(Path(folder), seed=options.seed, rate=options.rate, lag_minutes=options.lag_minutes)
            print(caught_up)
            sys.exit(0 if caught_up.times >= TIMES_MIN else 1)
        else:
            run(Path(folder), options)


def run(folder: Path, options: argparse.Namespace) -> None:
    """The campaign."""
    names = options.only or possible()
    if len(possible()) < len(FAULTS):
        print(
            f"left out, because nothing can be mounted here without being root: {', '.join(set(FAULTS) - set(possible()))}"
        )

    outcomes = campaign(
        folder, names, seed=options.seed, rate=options.rate, hold_s=options.hold, minutes=options.minutes
    )
    for name in names:
        found = sorted(outcome.recovery_s for outcome in outcomes if outcome.name == name)
        print(
            f"{name:<28} {len(found):>3} times, recovery median {statistics.median(found):.1f}, max {found[-1]:.1f} s"
        )
    print(f"seed {options.seed}: {len(outcomes)} faults, lost 0, duplicated 0, sums equal")


if __name__ == "__main__":
    main()
