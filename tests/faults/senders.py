"""Senders that cost next to nothing, so that the machine is rta's: bodies are put together as columns of digits.

Event k of a sender is decided by arithmetic: its id is `<sender>-<k>`, its price `cents_of(k)`. A sender begins the next batch
when the one before was acknowledged. So what was acknowledged is a number: events 0 to n-1, each with a known price.
"""

from __future__ import annotations

import random
import threading
import time

import httpx
import numpy as np
import numpy.typing as npt

from tests.system.running import Running

Longs = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

ID_WIDTH = 18
NAME_WIDTH, NUMBER_WIDTH = 8, 9
KINDS = (b"search", b"basket", b"refund", b"signup")
COUNTRIES = (b"US", b"DE", b"VN")
TEMPLATE = (
    b'{"event_id":"NNNNNNNN-KKKKKKKKK","timestamp":TTTTTTTTTTTTT,"event_type":"EEEEEE","user_id":"user-UUUU",'
    b'"properties":{"country":"CC","page_path":"/p/PP"},"custom_properties":{"price":DDD.FF}}\n'
)
TIMEOUT_S = 20.0
AGAIN_S = 0.1
MULTIPLIER, SHIFT = 7919, 104_729


def cents_of(sender: int, numbers: Longs) -> Longs:
    """100.00 to 299.99, so that every price has as many digits."""
    return 10_000 + (numbers * MULTIPLIER + sender * SHIFT) % 20_000


def body_of(sender: int, first: int, count: int, now_ms: int) -> bytes:
    """NDJSON of events `first` to `first + count - 1`."""
    numbers = np.arange(first, first + count, dtype=np.int64)
    rows: Bytes = np.tile(np.frombuffer(TEMPLATE, np.uint8), (count, 1))
    cents = cents_of(sender, numbers)
    _write(rows, b"N", np.full(count, sender, np.int64))
    _write(rows, b"K", numbers)
    _write(rows, b"T", now_ms - numbers * 31 % 2000)
    _write(rows, b"U", (numbers * 2_654_435_761 >> 7) % 2000)
    _write(rows, b"P", numbers * 7 % 50)
    _write(rows, b"D", cents // 100)
    _write(rows, b"F", cents % 100)
    _choose(rows, b"E", KINDS, numbers % len(KINDS))
    _choose(rows, b"C", COUNTRIES, numbers % len(COUNTRIES))
    return rows.tobytes()


def _place(mark: bytes) -> slice:
    """Where a field of the template is: the only stretch of two or more of its letter."""
    first = TEMPLATE.index(mark * 2)
    last = first
    while TEMPLATE[last : last + 1] == mark:
        last += 1
    return slice(first, last)


def _write(rows: Bytes, mark: bytes, numbers: Longs) -> None:
    """Decimal digits of the numbers, with zeros in front, into the field."""
    place = _place(mark)
    for column in range(place.stop - 1, place.start - 1, -1):
        rows[:, column] = 48 + numbers % 10
        numbers = numbers // 10


def _choose(rows: Bytes, mark: bytes, words: tuple[bytes, ...], which: Longs) -> None:
    rows[:, _place(mark)] = np.stack([np.frombuffer(word, np.uint8) for word in words])[which]


class SteadySender(threading.Thread):
    """Sends batches at a steady rate; whatever is not acknowledged is sent again, the same, until it is.

    It is a difficult client: some batches it sends again although they were acknowledged, ten times, or twice at the same time.
    While it is `impatient` it hangs up after some milliseconds, up to three times for a batch, and sends the same again.

    Args:
        name: Eight digits at most; the first part of its events' ids.
        rate: Events per second..
    """

    def __init__(self, running: Running, name: int, rate: int) -> None:
        super().__init__(daemon=True)
        self.running = running
        self.number, self.rate = name, rate
        self.batch = max(100, min(5000, rate // 8))
        self.sent = 0
        self.acknowledged = 0
        self.position: str | None = None
        self.impatient = False
        self.cut_off = 0
        self.resent = 0
        self.refused: list[str] = []
        self.last = ""
        self._stop_now = threading.Event()
        self._random = random.Random(name)

    def stop(self) -> None:
        """Stop as soon as possible; what is under way may stay unacknowledged."""
        self._stop_now.set()

    def finish(self, timeout_s: float = 90.0) -> None:
        """Stop after the batch under way has been acknowledged."""
        self._stop_now.set()
        self.join(timeout_s)
        assert not self.is_alive(), f"the last batch was never acknowledged: {self.last}"

    def run(self) -> None:
        due = time.monotonic()
        with httpx.Client(base_url=self.running.url, timeout=TIMEOUT_S) as http:
            while not self._stop_now.is_set():
                body = body_of(self.number, self.sent, self.batch, time.time_ns() // 1_000_000)
                self.sent += self.batch
                self._send_as_it_likes(http, body)
                self.acknowledged += self.batch
                # What could not be sent during an outage is not made up for: the rate is what the plant is to hold.
                due = max(due + self.batch / self.rate, time.monotonic() - 1.0)
                self._stop_now.wait(max(0.0, due - time.monotonic()))

    def _send_as_it_likes(self, http: httpx.Client, body: bytes) -> None:
        draw = self._random.random()
        if self.impatient:
            self._hang_up(body)
        if draw < 0.02:
            with httpx.Client(base_url=self.running.url, timeout=TIMEOUT_S) as other:
                twin = threading.Thread(target=self._send, args=(other, body))
                twin.start()
                self._send(http, body)
                twin.join()
            return
        for _ in range(10 if draw < 0.025 else 1):
            self._send(http, body)

    def _hang_up(self, body: bytes) -> None:
        """Close the connection before the answer is there; what became of the batch nobody knows."""
        for _ in range(self._random.randrange(4)):
            patience_s = self._random.randrange(1, 50) / 1000
            try:
                with httpx.Client(base_url=self.running.url, timeout=patience_s) as http:
                    http.post("/v1/events", content=body, headers={"content-type": "application/x-ndjson"})
            except httpx.TransportError:
                self.cut_off += 1

    def _send(self, http: httpx.Client, body: bytes) -> None:
        pause = threading.Event()
        while True:
            try:
                answer = http.post("/v1/events", content=body, headers={"content-type": "application/x-ndjson"})
                if answer.status_code == 200:
                    said = answer.json()
                    assert said["successful"] == self.batch, said
                    self.position = said["position"]
                    return
                self.last = answer.text
                if answer.status_code not in (429, 500, 502, 503, 504):
                    self.refused.append(answer.text)
            except httpx.TransportError as error:
                self.last = repr(error)
            self.resent += 1
            pause.wait(AGAIN_S)
