"""A bucket as the store, on any S3 API: conditional puts fence, everything else is plain objects.

Owns keys under a prefix, time limits and the words of errors. Credentials, region and endpoint are looked up as the SDKs do:
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, or the role of the machine.

A call that fails for a moment is repeated a few times inside; a put-if-absent may then find its own object and say False:
whoever calls it compares what is there (`rta.store.chain`).
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import BinaryIO, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store as Bucket

from rta.errors import BadRequestError, ConfigError, NotFoundError, UnavailableError
from rta.store.objects import KEY, ObjectInfo

SCHEME = "s3://"
CONNECT_S = 3
REQUEST_S = 20
RETRIES_MAX = 4
RETRY_S = 15
SPOOL_BYTES = 64 << 20
"""An object that is being written is kept in memory up to this size, beyond in a temporary file."""
PART_BYTES = 16 << 20
READERS = 8
"""Objects that are read at the same time: a recovery may need hundreds."""
_FAILURES = (BaseError, OSError, ValueError)


class S3Store:
    """An `ObjectStore`. Cheap to make; travels to other processes by its name.

    Args:
        url: `s3://bucket` or `s3://bucket/prefix`.

    Raises:
        ConfigError: the url is not of that form.
    """

    def __init__(self, url: str) -> None:
        bucket, _, self._prefix = url.removeprefix(SCHEME).rstrip("/").partition("/")
        self.url = f"{SCHEME}{bucket}/{self._prefix}".rstrip("/")
        if not url.startswith(SCHEME) or len(bucket) < 3 or (self._prefix and KEY.fullmatch(self._prefix) is None):
            raise ConfigError(f"the store '{url}' is no place in a bucket", "write s3://bucket/prefix")
        self._bucket = Bucket(
            bucket,
            prefix=self._prefix or None,
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=CONNECT_S),
                "timeout": timedelta(seconds=REQUEST_S),
            },
            retry_config={
                "max_retries": RETRIES_MAX,
                "retry_timeout": timedelta(seconds=RETRY_S),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=50),
                    "max_backoff": timedelta(seconds=2),
                    "base": 2,
                },
            },
        )

    def __reduce__(self) -> tuple[type[S3Store], tuple[str]]:
        return S3Store, (self.url,)

    def get(self, key: str) -> bytes:
        with self._named_errors("reading", key):
            return bytes(obstore.get(self._bucket, _checked(key)).bytes())

    def put(self, key: str, data: bytes) -> None:
        with self._named_errors("writing", key):
            obstore.put(self._bucket, _checked(key), data, use_multipart=False)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._named_errors("writing", key):
            try:
                obstore.put(self._bucket, _checked(key), data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

    def delete(self, key: str) -> None:
        with self._named_errors("deleting", key):
            try:
                obstore.delete(self._bucket, _checked(key))
            except FileNotFoundError:
                return

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found: list[ObjectInfo] = []
        with self._named_errors("listing", prefix):
            for batch in obstore.list(self._bucket, prefix=_checked(prefix) if prefix else None):
                found += [
                    ObjectInfo(entry["path"], entry["size"], int(entry["last_modified"].timestamp() * 1000))
                    for entry in batch
                ]
        yield from sorted(found, key=lambda info: info.key.split("/"))

    def exists(self, key: str) -> bool:
        with self._named_errors("looking for", key):
            try:
                obstore.head(self._bucket, _checked(key))
            except FileNotFoundError:
                return False
            return True

    def size(self, key: str) -> int:
        with self._named_errors("reading", key):
            return int(obstore.head(self._bucket, _checked(key))["size"])

    def buffer(self, key: str) -> bytes:
        return self.get(key)

    def buffers(self, keys: Sequence[str]) -> Sequence[bytes | mmap.mmap]:
        if len(keys) < 2:
            return [self.get(key) for key in keys]
        with ThreadPoolExecutor(min(READERS, len(keys)), thread_name_prefix="s3") as pool:
            return tuple(pool.map(self.get, keys))

    def part(self, key: str, first: int, length: int) -> bytes:
        with self._named_errors("reading", key):
            return bytes(obstore.get_range(self._bucket, _checked(key), start=first, length=length)) if length else b""

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        _checked(key)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
            yield cast(BinaryIO, file)
            file.seek(0)
            with self._named_errors("writing", key):
                obstore.put(self._bucket, key, cast(BinaryIO, file), chunk_size=PART_BYTES)

    def uri(self, key: str) -> str:
        return f"{self.url}/{_checked(key)}"

    def storage_options(self) -> dict[str, str]:
        return {"aws_allow_http": "true", "aws_conditional_put": "etag"}

    def discard_unfinished(self, before_ms: int) -> int:
        """Nothing to do: an object has its name when it is whole. Uploads in parts that were never finished are the bucket's
        business (docs/operations.md)."""
        return 0

    @contextmanager
    def _named_errors(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if doing == "writing":
                hint = "there is no such bucket: make it, or give another one"
                raise UnavailableError(f"{doing} '{key}' in '{self.url}': {_first_line(error)}", hint, 30) from error
            raise NotFoundError(f"{doing} '{key}' in '{self.url}': it is not there") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            hint = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do in the bucket"
            raise UnavailableError(f"{doing} '{key}' in '{self.url}': {_first_line(error)}", hint, 30) from error
        except _FAILURES as error:
            hint = "is the bucket there, and AWS_ENDPOINT_URL right? it is tried again"
            raise UnavailableError(f"{doing} '{key}' in '{self.url}': {_first_line(error)}", hint, 5) from error


def _checked(key: str) -> str:
    if KEY.fullmatch(key) is None:
        raise BadRequestError(f"'{key}' is no object key", "use letters, digits and _.=- in parts joined by /")
    return key


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]
