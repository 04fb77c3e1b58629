"""Runs the benchmarks one after the other, each in a process of its own: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import argparse
import ast
import os
import platform
import subprocess
import sys
from pathlib import Path

ORDER = ("edge", "log", "fold", "commit", "questions", "kafka_parts", "kafka", "http", "soak")
NOT_RUN = {"__init__", "__main__", "costs", "input", "load", "running"}
NOT_RUN |= {"kafka_answers", "kafka_batches", "kafka_input", "kafka_own", "kafka_workloads"}


def available() -> list[str]:
    """The names of the benchmarks, those that build on others last."""
    found = {path.stem for path in Path(__file__).parent.glob("*.py")} - NOT_RUN
    return [name for name in ORDER if name in found] + sorted(found - set(ORDER))


def purpose(name: str) -> str:
    source = (Path(__file__).parent / f"{name}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


def processor() -> str:
    """What the machine calls its cores, where it says so."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def main() -> int:
    names = available()
    described = "\n".join(f"  {name:<12} {purpose(name)}" for name in names)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measure this machine.\n\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="*", choices=[*names, []], metavar="NAME", help="which (default: all)")
    chosen = parser.parse_args().name or names
    print(f"{os.cpu_count()} cores of {processor()}, Python {platform.python_version()}, {platform.system()}")
    print(
        "Figures of other systems are from another machine with 2 cores and 24 GB; see docs/benchmarks.md.", flush=True
    )
    failed = []
    for name in chosen:
        print(f"\n== {name}: {purpose(name)}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
