"""A disk of a few megabytes that can be filled: a tmpfs of its own, mounted over a folder."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

from tests.services.places import program, run

SIZE_MB = 64
BLOCK_BYTES = 1 << 16


def can_mount() -> bool:
    """Whether a disk can be mounted here. In CI it has to be: there a refusal is an error."""
    if os.geteuid() == 0 or "CI" in os.environ:
        return True
    sudo = shutil.which("sudo")
    return sudo is not None and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0


class SmallDisk:
    """See the module. Mounting needs root, by itself or by a sudo that asks nothing. Raises MissingServiceError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._sudo = [] if os.geteuid() == 0 else [program("sudo", "mounting a small disk needs root"), "-n"]
        options = f"size={SIZE_MB}m,uid={os.getuid()},gid={os.getgid()},mode=755"
        run(
            [*self._sudo, "mount", "-t", "tmpfs", "-o", options, "rta-small-disk", str(folder)], "mounting a small disk"
        )

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> int:
        """Until there is no room for another byte; bytes that were written."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (BLOCK_BYTES, 1):
                while True:
                    try:
                        file.write(bytes(size))
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        break
            return file.tell()

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        run([*self._sudo, "umount", "-l", str(self.folder)], "unmounting the small disk")
