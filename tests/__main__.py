"""Every test, in two lanes at a time: those that start the real system and mostly wait for it, and all others beside them.

`python -m tests [ARGUMENTS]` gives the arguments to both. What the lane beside says comes when it has ended. Plain `pytest` runs
the same tests one after the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REAL = ("tests/system", "tests/faults")
"""Folders of tests that start the whole system, and kill it."""
BESIDE_NICE = 10
"""The lane beside only takes what the real system leaves."""
NO_TESTS = 5


def main(arguments: list[str]) -> int:
    begun = time.monotonic()
    pytest = [sys.executable, "-m", "pytest", *arguments]
    with tempfile.TemporaryFile() as said:
        beside = subprocess.Popen(
            [*pytest, "tests", *(f"--ignore={folder}" for folder in REAL)],
            stdout=said,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.nice(BESIDE_NICE),
        )
        try:
            print(f"tests that start the real system ({', '.join(REAL)}); the others run beside them", flush=True)
            real = subprocess.run([*pytest, *REAL], check=False).returncode
            others = beside.wait()
        finally:
            if beside.poll() is None:
                beside.terminate()
                beside.wait()
        said.seek(0)
        print("all other tests", flush=True)
        sys.stdout.buffer.write(said.read())
    print(f"both lanes: {(time.monotonic() - begun) / 60:.1f} minutes")
    codes = {real, others}
    if codes == {NO_TESTS}:
        return NO_TESTS
    return next((code for code in (real, others) if code not in (0, NO_TESTS)), 0)


if __name__ == "__main__":
    os.chdir(Path(__file__).parent.parent)
    sys.exit(main(sys.argv[1:]))
