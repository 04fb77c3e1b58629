"""One connection to a Kafka cluster, driven by the thread that asks: requests in, responses or rta's errors out.

Owns what kafka-python calls a connection manager and its event loop. Knows topics by their id: metadata are asked for
again whenever a broker says that it is not the right one.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import kafka.errors as kafka_errors
from kafka.net import NetworkSelector
from kafka.net.wakeup_notifier import WakeupNotifier
from kafka.protocol.metadata import MetadataRequest

from rta.errors import AccessError, NotFoundError, RtaError, TooLargeError, UnavailableError
from rta.log.kafka.access import Connections
from rta.log.kafka.settings import RECORD_BYTES_MAX, KafkaSettings

T = TypeVar("T")
RESPONSE_BYTES_MAX = 2 * RECORD_BYTES_MAX + (64 << 20)
IN_FLIGHT_MAX = 64
METADATA_VERSION_MIN = 12
"""Topic ids: Kafka 2.8 and newer."""
_DISCONNECTED = (kafka_errors.KafkaConnectionError, kafka_errors.NodeNotReadyError)
_UNKNOWN_TOPIC = (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.UnknownTopicIdError)

for _noisy in ("kafka.net", "kafka.cluster", "kafka.producer", "kafka.admin"):
    # An unreachable broker is said once, as an error of the operation that wanted it, not ten times a second.
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)


class Topic(NamedTuple):
    """A topic as the brokers know it: its id, and per partition the node that leads it (-1: nobody) and since when."""

    id: uuid.UUID
    leaders: Mapping[int, tuple[int, int]]

    def incarnation(self, partition: int) -> str:
        return f"{self.id.hex}-{partition}"


class Session:
    """Not safe for threads: one per reader or admin."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        options = settings.client()
        self._net = NetworkSelector(client_id=options["client_id"], slow_task_threshold_secs=0)
        self._manager = Connections(
            self._net,
            settings,
            **options,
            receive_message_max_bytes=RESPONSE_BYTES_MAX,
            max_in_flight_requests_per_connection=IN_FLIGHT_MAX,
            request_timeout_ms=settings.request_ms,
            socket_connection_setup_timeout_ms=settings.request_ms,
        )
        self._has_thread = False
        self._topics: dict[str, Topic] = {}

    def run(self, doing: str, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Drive the loop until `work(*arguments)` is done.

        Raises:
            NotFoundError: the topic is not there.
            UnavailableError: no answer in time, or one that says to try again.
        """
        deadline = time.monotonic() + self.settings.request_ms / 1000
        while True:
            try:
                if not self._manager.bootstrapped:
                    self._manager.bootstrap(self.settings.request_ms)
                result: T = self._net.run(work, *arguments)
                return result
            except RtaError:
                raise
            except _DISCONNECTED as error:
                # A connection that was left over from before the broker restarted says so at its first use.
                if time.monotonic() > deadline or self.keeps_out(error):
                    raise self.error(doing, error) from error
                self.pause()
            except (kafka_errors.KafkaError, OSError) as error:
                raise self.error(doing, error) from error

    def error(self, doing: str, error: Exception) -> RtaError:
        """In rta's words, with what is behind an error that says only that there is no connection."""
        why = self._manager.reason(error)
        if why is None:
            return to_error(self.settings, doing, error)
        return AccessError(f"{doing} at {self.settings.name}: {why.said}", why.hint, 30 if why.lasting else 2)

    def keeps_out(self, error: Exception) -> bool:
        """Whether asking again can't help: the brokers do not let us in as the settings are."""
        why = self._manager.reason(error)
        return why is not None and why.lasting

    async def send(self, request: Any, node: int | None = None) -> Any:
        """One request, within the time limit for requests."""
        return await self.start(request, node, self.settings.request_ms)

    def start(self, request: Any, node: int | None, timeout_ms: int) -> Any:
        """Send a request; the answer as a future."""
        return self._manager.send(request, node_id=node, request_timeout_ms=timeout_ms)

    async def sleep(self, seconds: float) -> None:
        await self._net.sleep(seconds)

    def pause(self, seconds: float = 0.05) -> None:
        """Let the loop do what it has to do meanwhile."""
        self._net.run(self.sleep, seconds)

    async def first_of(self, futures: list[Any], timeout_ms: int) -> None:
        """Until one of the futures is done, or the time is over."""
        if any(future.is_done for future in futures):
            return
        from kafka.future import Future

        any_done = Future()

        def tell(_: Any) -> None:
            if not any_done.is_done:
                any_done.success(None)

        for future in futures:
            future.add_both(tell)
        timer = self._net.call_later(timeout_ms / 1000, lambda: tell(None))
        try:
            await any_done
        finally:
            self._net.cancel(timer)

    def topic(self, name: str, fresh: bool = False) -> Topic:
        """What the brokers say of a topic; remembered until `fresh` or `forget`. Raises NotFoundError."""
        known = None if fresh else self._topics.get(name)
        if known is None:
            known = self.run(f"looking up topic '{name}'", self.look_up, name)
            self._topics[name] = known
        return known

    def forget(self, name: str) -> None:
        self._topics.pop(name, None)

    async def look_up(self, name: str) -> Topic:
        wanted = [MetadataRequest.MetadataRequestTopic(topic_id=uuid.UUID(int=0), name=self.settings.topic(name))]
        request = MetadataRequest(
            topics=wanted, allow_auto_topic_creation=False, min_version=METADATA_VERSION_MIN, max_version=13
        )
        deadline = time.monotonic() + self.settings.request_ms / 1000
        while True:
            [found] = (await self.send(request)).topics
            error = kafka_errors.for_code(found.error_code)
            if error is kafka_errors.NoError:
                leaders = {p.partition_index: (p.leader_id, p.leader_epoch) for p in found.partitions}
                return Topic(found.topic_id, dict(sorted(leaders.items())))
            if issubclass(error, _UNKNOWN_TOPIC) or error is kafka_errors.InvalidTopicError:
                raise unknown_topic(self.settings, name)
            if not issubclass(error, kafka_errors.RetriableError) or time.monotonic() > deadline:
                raise error(f"topic '{name}'")
            await self.sleep(0.05)

    # -- for whoever has the loop run in a thread of its own ---------------------------------------------------------

    def start_thread(self) -> None:
        """From here on the loop runs by itself; `run` and `pause` are not to be used."""
        self._has_thread = True
        self._net.start()

    def soon(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Have the loop do something. From any thread."""
        self._manager.call_soon(work, *arguments)

    def notifier(self) -> WakeupNotifier:
        """Something to wait for in the loop, and to wake it with from any thread."""
        return WakeupNotifier(self._net)

    async def connected(self) -> None:
        """Raises a KafkaError when no broker answers."""
        if not self._manager.bootstrapped:
            await self._manager.bootstrap_async(self.settings.request_ms)

    async def patiently(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Do it again while no broker can be asked, for as long as a request may take. In the loop."""
        deadline = time.monotonic() + self.settings.request_ms / 1000
        while True:
            try:
                return await work(*arguments)
            except _DISCONNECTED:
                if time.monotonic() > deadline:
                    raise
            await self.sleep(0.05)

    async def known_topic(self, name: str) -> Topic:
        """`topic`, in the loop."""
        known = self._topics.get(name)
        if known is None:
            known = self._topics[name] = await self.look_up(name)
        return known

    def close(self) -> None:
        if self._has_thread:
            self._net.call_soon_threadsafe(self._manager.close)
            self._net.stop(timeout_ms=1000)
        else:
            self._manager.close()
        self._net.close()


def unknown_topic(settings: KafkaSettings, name: str) -> NotFoundError:
    if not settings.topic_prefix:
        return NotFoundError(f"{settings.name} has no topic '{name}'", "make the topic first, or name another one")
    return NotFoundError(
        f"{settings.name} has no topic '{settings.topic(name)}' (for '{name}')",
        "was it deleted? the coordinator makes it",
    )


def to_error(settings: KafkaSettings, doing: str, error: Exception) -> RtaError:
    """A client's or broker's error in rta's words."""
    said = f"{doing} at {settings.name}: {type(error).__name__}: {error}".rstrip(": ")
    match error:
        case kafka_errors.MessageSizeTooLargeError() | kafka_errors.RecordListTooLargeError():
            return TooLargeError(said, "raise the broker's message.max.bytes, or send less at once")
        case kafka_errors.AuthorizationError():
            return UnavailableError(
                said, f"check the ACLs of rta's topics, and 'kafka.username': {settings.username}", 30
            )
        case kafka_errors.NotEnoughReplicasError() | kafka_errors.NotEnoughReplicasAfterAppendError():
            return UnavailableError(said, "too few replicas are in sync; send the same again", 2)
        case _:
            return UnavailableError(said, "are the brokers up and reachable? send the same again", 2)
