"""rta: real-time analytics. Events in over HTTP, exactly once in every answer within a second.

`rta.connect(url)` gives a client. Importing the package costs nothing: what is heavy is imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rta.client import Client

__all__ = ["__version__", "connect"]

__version__ = "0.1.0"


def connect(url: str = "http://127.0.0.1:8000", key: str | None = None) -> Client:
    """A client of the rta at `url`; see `rta.client.Client`."""
    from rta.client import Client

    return Client(url, key)
