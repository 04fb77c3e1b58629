from __future__ import annotations

import itertools
from typing import Any

import pytest

from rta.errors import BadRequestError, TooLargeError, UnavailableError
from rta.serve import http
from rta.serve.http import ClientGoneError, ForbiddenError, Message, Scope


def scope(peer: str | None = "127.0.0.1", method: str = "POST", **headers: str) -> Scope:
    wire = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    return {"type": "http", "method": method, "path": "/", "client": (peer, 5) if peer else None, "headers": wire}


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", None])
def test_this_machine_is_served(peer: str | None) -> None:
    http.check_caller(scope(peer))


@pytest.mark.parametrize("peer", ["192.0.2.1", "10.0.0.300", "2001:db8::1", "::ffff:192.0.2.1", "nonsense"])
def test_other_machines_are_refused(peer: str) -> None:
    with pytest.raises(ForbiddenError, match="not on this machine"):
        http.check_caller(scope(peer))


def test_a_proxy_on_this_machine_is_believed_about_its_last_client() -> None:
    http.check_caller(scope(x_forwarded_for="192.0.2.1, 127.0.0.1"))
    with pytest.raises(ForbiddenError, match=r"192\.0\.2\.1"):
        http.check_caller(scope(x_forwarded_for="127.0.0.1, 192.0.2.1"))


def test_of_several_forwarded_headers_the_last_one_counts() -> None:
    request = scope(x_forwarded_for="127.0.0.1")
    request["headers"].append((b"x-forwarded-for", b"192.0.2.7"))
    with pytest.raises(ForbiddenError, match=r"192\.0\.2\.7"):
        http.check_caller(request)


def test_a_proxy_elsewhere_is_not_believed() -> None:
    with pytest.raises(ForbiddenError):
        http.check_caller(scope("192.0.2.1", x_forwarded_for="127.0.0.1"))


def test_own_interfaces_are_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "own_addresses", lambda: frozenset({"198.51.100.7"}))
    http.is_this_machine.cache_clear()
    http.check_caller(scope("198.51.100.7"))
    with pytest.raises(ForbiddenError):
        http.check_caller(scope("198.51.100.8"))
    http.is_this_machine.cache_clear()


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9999", "http://[", ""])
def test_pages_of_other_sites_may_not_write(origin: str) -> None:
    with pytest.raises(ForbiddenError, match="browser"):
        http.check_caller(scope(origin=origin, host="localhost:8000"))


def test_own_pages_may_write_and_other_pages_may_read() -> None:
    http.check_caller(scope(origin="http://localhost:8000", host="localhost:8000"))
    http.check_caller(scope(method="GET", origin="https://evil.example", host="localhost:8000"))


class Chunks:
    """An ASGI `receive` over chunks."""

    def __init__(self, *chunks: bytes | None) -> None:
        self.left = list(chunks)

    async def __call__(self) -> Message:
        chunk = self.left.pop(0)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": bool(self.left)}


@pytest.mark.anyio
async def test_a_body_of_chunks_is_joined() -> None:
    assert await http.read_body(Chunks(b"ab", b"", b"c"), 3) == b"abc"


@pytest.mark.anyio
async def test_a_body_that_passes_the_limit_is_not_read_further() -> None:
    chunks = Chunks(*[b"x" * 10 for _ in range(100)])
    with pytest.raises(TooLargeError, match="limit is 25 bytes"):
        await http.read_body(chunks, 25)
    assert len(chunks.left) == 97


@pytest.mark.anyio
async def test_a_client_that_leaves_while_it_sends_is_told_apart() -> None:
    with pytest.raises(ClientGoneError):
        await http.read_body(Chunks(b"x", None), 25)


@pytest.mark.parametrize(("text", "length"), [("0", 0), ("17", 17), ("9" * 30, 1 << 62)])
def test_content_length_is_read(text: str, length: int) -> None:
    assert http.declared_length(scope(content_length=text)) == length


@pytest.mark.parametrize("text", ["-1", "", "abc", "1e3", "٣"])
def test_a_content_length_that_is_no_number_is_refused(text: str) -> None:
    request = scope()
    request["headers"] = [(b"content-length", text.encode())]
    with pytest.raises(BadRequestError):
        http.declared_length(request)


def test_an_error_says_when_to_come_again() -> None:
    answer = http.error_answer(UnavailableError("the log is full", "wait", retry_after_s=7))
    assert (answer.status, answer.headers) == (503, ((b"retry-after", b"7"),))
    assert answer.body == b'{"error":"unavailable","message":"the log is full","hint":"wait"}'


def test_lone_surrogates_in_a_message_do_not_break_the_answer() -> None:
    assert b"no '?'" in http.error_answer(BadRequestError("no '\ud800'")).body


@pytest.mark.anyio
async def test_an_exception_nobody_foresaw_becomes_an_error_document() -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await http.CallerGate(broken)(scope(), Chunks(), send)
    assert sent[0]["status"] == 500
    assert b'"error":"internal"' in sent[1]["body"]


def test_every_address_is_judged_only_once_per_text() -> None:
    http.is_this_machine.cache_clear()
    for peer in itertools.islice(itertools.cycle(["127.0.0.1", "192.0.2.1"]), 100):
        http.is_this_machine(peer)
    assert http.is_this_machine.cache_info().misses == 2
