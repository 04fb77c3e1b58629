"""The durable log of one machine, in SQLite files.

One process writes (`LogServer`); everybody else appends through its socket (`EmbeddedWriter`), reads the files directly
(`EmbeddedReader`) and makes, drops and trims topics through the socket (`EmbeddedAdmin`).

The modules, from the disk up: `topic` (a topic's document), `segments` (one SQLite file), `checkpoints`, `storage` (a
topic as its writer sees it), `folder` (all topics), `committer` (the writing thread), `wire`, `server`; and for the
clients `client`, `channel`, `admin`, `reader`.
"""

from rta.log.embedded.admin import EmbeddedAdmin
from rta.log.embedded.client import EmbeddedWriter
from rta.log.embedded.reader import EmbeddedReader
from rta.log.embedded.server import LogServer
from rta.log.embedded.settings import EmbeddedSettings
from rta.log.embedded.wire import LogStats, TopicStats

__all__ = [
    "EmbeddedAdmin",
    "EmbeddedReader",
    "EmbeddedSettings",
    "EmbeddedWriter",
    "LogServer",
    "LogStats",
    "TopicStats",
]
