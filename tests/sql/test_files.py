"""How the engine reaches files: those of a folder by itself, those of a bucket or of a path like a pattern through the store."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from rta.errors import CorruptFileError
from rta.serve.sql_files import PROTOCOL, engine_folders, engine_path
from rta.store.layout import table_file
from rta.store.objects import LocalStore
from tests.query import wikipedia
from tests.query.world import World, build_world
from tests.sql.asker import Asker, run


class Bucket(LocalStore):
    """A folder that calls its objects as a bucket does; `parts` counts the reads of them."""

    parts = 0

    def uri(self, key: str) -> str:
        return f"s3://bucket/prefix/{key}"

    def part(self, key: str, first: int, length: int) -> bytes:
        Bucket.parts += 1
        return super().part(key, first, length)


def in_a_bucket(folder: Path) -> World:
    built = build_world(folder)
    return World(Bucket(folder), built.view)


def test_a_folders_files_have_their_paths_and_all_others_a_name_of_ours(tmp_path: Path) -> None:
    plain, odd = LocalStore(tmp_path), LocalStore(tmp_path / "a[1]*?")
    assert engine_path(plain, "a/b.parquet") == str(tmp_path / "a/b.parquet")
    assert engine_path(odd, "a/b.parquet") == f"{PROTOCOL}://a/b.parquet"
    assert engine_path(Bucket(tmp_path), "a/b.parquet") == f"{PROTOCOL}://a/b.parquet"
    assert engine_folders(Bucket(tmp_path)) == [f"{PROTOCOL}://"]
    assert engine_folders(plain) == [f"{PROTOCOL}://", f"{tmp_path}/"]


def test_files_of_a_bucket_are_read_in_parts_through_the_store(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        before = Bucket.parts
        channels = (
            "SELECT channel, count(*) AS n, max(page) AS p FROM wikipedia GROUP BY channel ORDER BY n DESC LIMIT 3"
        )
        found = await ask.rows(channels)
        assert [row["n"] for row in found] == [11_549, 9_747, 2_523]
        assert Bucket.parts > before
        assert (await ask.rows("SELECT sum(n) AS n FROM wikipedia.edits"))[0]["n"] == 39_244

    run(tmp_path, scenario, in_a_bucket(tmp_path))


def test_a_folder_that_is_named_like_a_pattern_is_read_and_so_is_one_with_quotes(tmp_path: Path) -> None:
    async def scenario(ask: Asker) -> None:
        assert await ask.rows("SELECT count(*) AS n, max(page) > '' AS p FROM wikipedia") == [{"n": 39_244, "p": True}]

    for name in ("a[1]*?", "it's"):
        folder = tmp_path / name
        run(folder, scenario, build_world(folder))


def test_a_file_that_is_gone_from_a_bucket_is_named(tmp_path: Path) -> None:
    world = in_a_bucket(tmp_path)
    file = world.view.by_table["events"][0]
    world.store.delete(table_file(wikipedia.datasource().folder, "events", file.path))

    async def scenario(ask: Asker) -> None:
        with pytest.raises(CorruptFileError, match=file.path):
            await ask("SELECT max(page) AS p FROM wikipedia")

    run(tmp_path, scenario, world)


def test_the_engine_can_not_write_through_the_store(tmp_path: Path) -> None:
    from rta.serve.sql_engine import Engine

    engine = Engine(Bucket(tmp_path), 1 << 28)
    with engine.holding(()) as connection, pytest.raises((duckdb.Error, PermissionError)):
        connection.cursor().execute(f"COPY (SELECT 1 AS a) TO '{PROTOCOL}://x.parquet' (FORMAT parquet)")
    engine.close()
    assert not (tmp_path / "x.parquet").exists()
