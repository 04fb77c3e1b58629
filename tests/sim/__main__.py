"""`python -m tests.sim`: many schedules, one after the other; ends at the first that fails and says how to see it again."""

from __future__ import annotations

import argparse
import sys
import time

import pyarrow as pa

from tests.sim.rules import RULES, broken
from tests.sim.schedule import run_schedule


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000, help="how many (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed; the others follow it")
    parser.add_argument("--rule", choices=sorted(RULES), help="break this rule of the commit protocol")
    parser.add_argument("--all", action="store_true", help="go on after a schedule that failed")
    options = parser.parse_args()
    pa.set_cpu_count(1)
    began = time.monotonic()
    failed = steps = 0
    for seed in range(options.seed, options.seed + options.schedules):
        outcome = run_schedule(seed, broken(options.rule) if options.rule else None)
        steps += outcome.steps
        if outcome.violation is not None:
            failed += 1
            rule = f" --rule {options.rule}" if options.rule else ""
            print(f"seed {seed}: {outcome.violation}")
            print(f"again: python -m tests.sim --schedules 1 --seed {seed}{rule}", flush=True)
            if not options.all:
                break
    done = seed - options.seed + 1
    seconds = time.monotonic() - began
    print(f"{done} schedules of {steps / done:.0f} steps, {failed} failed, {done / seconds:.1f} a second")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
