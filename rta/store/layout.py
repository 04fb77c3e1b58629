"""Where things lie in the store, and how files are named. The only module that puts keys together.

    format.json
    catalog/<number>.json                     chain of whole documents
    assignment/<number>.json                  chain of assignments
    lease.json                                who runs on the store
    identity.json                             the store's own name, made at random
    <folder>/manifests/<number>.json          the commit chain of a datasource; `folder` is `Datasource.folder`
    <folder>/tables/<table>/date=<day>/<file> Parquet, and `_delta_log` beside the dates
    <folder>/state/<file>  <folder>/runs/<file>
    <folder>/archive/<block>.json.zst         contents of old manifests
    <folder>/fills/<table>.json               what filling a rollup from history takes
    <folder>/audit/<generation>.json          what a coordinator has counted; what reaches furthest holds
    <folder>/sweep.json  projection.json  expired.json  jobs/<id>.json

Files that an aggregator writes are named `<actor>-<generation>-<epoch>-<k>.<ending>`; compaction's begin with
`compact-` and those that fill a rollup with `fill-`, which no actor may be called.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rta.errors import BadRequestError

CATALOG = "catalog"
ASSIGNMENT = "assignment"
LEASE = "lease.json"
IDENTITY = "identity.json"
COMPACTION = "compact"
FILL = "fill"
_WHO = r"(?P<actor>[A-Za-z0-9_.\-]+)-(?P<generation>\d+)-(?P<epoch>\d+)"
TABLE_FILE = re.compile(_WHO + r"-\d+\.parquet")
EPOCH_FILE = re.compile(_WHO + r"\.(state|ids)")
ACTOR_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")


class FileName(NamedTuple):
    """Whose file it is: an aggregator's epoch, or a compaction's job (`epoch` is then a sequence number)."""

    actor: str
    generation: int
    epoch: int


def number_key(prefix: str, number: int) -> str:
    return f"{prefix}/{number:020d}.json"


def manifests(folder: str) -> str:
    return f"{folder}/manifests"


def archive(folder: str, block: int) -> str:
    return f"{folder}/archive/{block:020d}.json.zst"


def table(folder: str, name: str) -> str:
    return f"{folder}/tables/{name}"


def tables(folder: str) -> str:
    return f"{folder}/tables"


def table_file(folder: str, name: str, path: str) -> str:
    """`path` as a FileRef has it: relative to the table's folder."""
    return f"{folder}/tables/{name}/{path}"


def delta_checkpoint(folder: str, name: str, version: int) -> str:
    return f"{folder}/tables/{name}/_delta_log/{version:020d}.checkpoint.parquet"


def delta_log(folder: str, name: str) -> str:
    return f"{folder}/tables/{name}/_delta_log"


def dated(date: str, name: str) -> str:
    return f"date={date}/{name}"


def within(folder: str, path: str) -> str:
    """A path that parts name relative to the datasource's folder: state and run files."""
    return f"{folder}/{path}"


def state_path(actor: str, generation: int, epoch: int) -> str:
    return f"state/{actor}-{generation}-{epoch}.state"


def run_path(actor: str, generation: int, epoch: int) -> str:
    return f"runs/{actor}-{generation}-{epoch}.ids"


def parquet_name(actor: str, generation: int, epoch: int, k: int) -> str:
    """Raises BadRequestError for a name that no file can carry."""
    if ACTOR_NAME.fullmatch(actor) is None:
        raise BadRequestError(f"'{actor}' can't name an actor's files", "use letters, digits, '_', '.' and '-'")
    return f"{actor}-{generation}-{epoch}-{k}.parquet"


def parse_name(path: str) -> FileName | None:
    """Actor, generation and epoch out of the last part of a path; None for a file that somebody else named."""
    name = path.rpartition("/")[2]
    found = TABLE_FILE.fullmatch(name) or EPOCH_FILE.fullmatch(name)
    if found is None:
        return None
    return FileName(found["actor"], int(found["generation"]), int(found["epoch"]))


def jobs(folder: str) -> str:
    return f"{folder}/jobs"


def job(folder: str, name: str) -> str:
    return f"{folder}/jobs/{name}.json"


def fill(folder: str, table: str) -> str:
    return f"{folder}/fills/{table}.json"


def audit(folder: str, generation: int) -> str:
    """What the coordinator of this generation has counted."""
    return f"{audits(folder)}/{generation:020d}.json"


def audits(folder: str) -> str:
    return f"{folder}/audit"


def document(folder: str, name: str) -> str:
    """A small document of the datasource that is no chain: sweep, projection, expired; audit, where an older version wrote it."""
    return f"{folder}/{name}.json"
