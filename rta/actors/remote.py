"""The one place where plain classes become Ray actors, and where handles are looked up.

Actors start themselves in their constructor, because Ray restarts them by running it again with the same arguments
(reference: Ray actor fault tolerance). Everything that crosses is msgspec bytes or Arrow IPC, never a connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from rta.actors.links import Site
from rta.actors.logs import log_stats, open_admin, open_reader, open_source
from rta.actors.messages import AggregatorStatus, Cursor, HotDelta, Registration, RowsRequest
from rta.actors.silence import ANSWER_S, Silence
from rta.actors.spare import Spare
from rta.errors import RtaError, UnavailableError
from rta.store.model import Part

NAMESPACE = "rta"
COORDINATOR = "coordinator"
LOG_HOST = "log"
CALL_S = 25.0
FLEET_S = 0.5
RESTART_S = 0.5
"""Pause before a process that could not start ends, and is started again."""
logger = logging.getLogger(__name__)

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


def _last_words(site: Site, name: str) -> Callable[[str], None]:
    """What an actor does when it can't go on: leave the reason for the status, and end, so that Ray starts it again."""

    def die(reason: str) -> None:
        logger.error("%s ends: %s", name, reason)
        try:
            site.reasons.mkdir(parents=True, exist_ok=True)
            (site.reasons / f"{name}.txt").write_text(reason)
        except OSError as error:
            # It ends all the same: a full disk must not keep a process that can't go on.
            logger.warning("the status will not name the reason: %s", error)
        os._exit(1)

    return die


@contextmanager
def _starting(site: Site, name: str) -> Iterator[None]:
    """An actor's constructor: what goes wrong in it ends the process, because Ray gives up an actor whose constructor raises."""
    try:
        yield
    except BaseException as error:
        logger.exception("%s did not start", name)
        threading.Event().wait(RESTART_S)
        _last_words(site, name)(f"starting: {type(error).__name__}: {error}")


def _process(site: Site, name: str) -> None:
    """Every actor process: a name that people recognise in `ps`, and an end with the process that holds the system up."""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {name} %(levelname)s %(message)s")
    threading.Thread(target=_end_with, args=(site.pid,), name="end-with", daemon=True).start()


def _end_with(pid: int) -> None:
    waiting = threading.Event()
    while not waiting.wait(1.0):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            os._exit(0)


@ray.remote(max_restarts=-1, max_concurrency=4, num_cpus=0)
class LogHost:
    """Hosts the embedded log's one writer."""

    def __init__(self, site: bytes) -> None:
        from rta.log.embedded import EmbeddedSettings, LogServer

        self._site = _decode(site, type=Site)
        _process(self._site, LOG_HOST)
        settings = EmbeddedSettings(backlog_bytes_max=self._site.backlog_bytes_max, lock_wait_s=10.0)
        self._server = LogServer(Path(self._site.log_folder), Path(self._site.log_socket), settings)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        threading.Thread(target=self._run, name="log-server", daemon=True).start()
        self._ready.wait(60)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._server.start())
            self._ready.set()
            self._loop.run_until_complete(self._server.serve_forever())
        except Exception as error:  # noqa: BLE001 - the process ends with the reason, and is started again
            _last_words(self._site, LOG_HOST)(f"{type(error).__name__}: {error}")

    def ping(self) -> int:
        return os.getpid()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(timeout=20)


@ray.remote(max_restarts=-1, max_concurrency=32, num_cpus=0)
class CoordinatorActor:
    """`rta.actors.coordinator.Coordinator`, reachable."""

    def __init__(self, site: bytes) -> None:
        from rta.actors.coordinator import Coordinator, Outside
        from rta.store.objects import open_store

        self._site = _decode(site, type=Site)
        _process(self._site, COORDINATOR)
        with _starting(self._site, COORDINATOR):
            aggregators = Aggregators()
            outside = Outside(
                open_log=lambda: open_admin(self._site),
                ask=aggregators.status,
                kill=aggregators.kill,
                open_reader=lambda: open_reader(self._site),
                log_stats=lambda: log_stats(self._site),
                die=_last_words(self._site, COORDINATOR),
                open_source=lambda: open_source(self._site),
            )
            self._coordinator = Coordinator(self._site, open_store(self._site.store), outside)
            self._coordinator.start()

    def ping(self) -> int:
        return os.getpid()

    def register(self, actor: str, pid: int) -> bytes:
        return _encode(self._coordinator.register(actor, pid))

    def offer(self, part: bytes) -> int:
        return self._coordinator.offer(_decode(part, type=Part))

    def report(self, source: str, snapshot: Any) -> dict[str, str]:
        return self._coordinator.report(source, snapshot)

    def reconcile(self) -> int:
        return self._coordinator.reconcile()

    def scale(self, count: int) -> dict[str, Any]:
        return self._coordinator.scale(count)

    def resume(self, name: str, accept_loss: bool) -> dict[str, Any]:
        return self._coordinator.resume(name, accept_loss)

    def fleet(self) -> tuple[int, tuple[str, ...]]:
        """This process, and the aggregators that are to run."""
        return os.getpid(), self._coordinator.fleet()

    def status(self) -> dict[str, Any]:
        return self._coordinator.status()

    def ready(self) -> tuple[str, tuple[str, ...]]:
        return self._coordinator.ready()

    def ledger(self, name: str | None, time_range_ms: tuple[int, int] | None) -> dict[str, Any]:
        return self._coordinator.ledger(name, time_range_ms)

    def removal(self, folder: str) -> dict[str, Any]:
        return self._coordinator.removal(folder)

    def stop(self) -> None:
        self._coordinator.stop()


@ray.remote(max_restarts=-1, max_concurrency=16, num_cpus=0)
class AggregatorActor:
    """`rta.actors.aggregator.Aggregator`, reachable."""

    def __init__(self, name: str, site: bytes) -> None:
        from rta.actors.aggregator import Aggregator
        from rta.actors.kernels import warm_up_once
        from rta.store.objects import open_store

        self._site = _decode(site, type=Site)
        _process(self._site, name)
        with _starting(self._site, name):
            warm_up_once(sources=self._site.kafka is not None)
            self._aggregator = Aggregator(
                name,
                self._site,
                open_store(self._site.store),
                open_reader=lambda datasource: open_reader(self._site, datasource),
                link=RemoteCoordinator(),
                die=_last_words(self._site, name),
            )
            self._aggregator.start()

    def delta(self, cursors: bytes) -> bytes:
        return _encode(self._aggregator.delta(_decode(cursors, type=dict[str, Cursor | None])))

    def rows(self, folder: str, load: str, requests: bytes) -> bytes:
        return self._aggregator.rows(folder, load, _decode(requests, type=list[RowsRequest]))

    def status(self) -> bytes:
        return _encode(self._aggregator.status())

    def stop(self) -> None:
        self._aggregator.stop()


def call(method: str, *arguments: Any, timeout_s: float = CALL_S) -> Any:
    """Call the coordinator and wait. Raises its RtaError, or UnavailableError when it does not answer."""
    return _get(lambda: _handle(COORDINATOR), method, arguments, timeout_s)


def _handle(name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise UnavailableError(f"actor '{name}' is not there", "it is being started") from None


def _get(handle: Callable[[], Any], method: str, arguments: Sequence[Any], timeout_s: float) -> Any:
    try:
        return ray.get(getattr(handle(), method).remote(*arguments), timeout=timeout_s)
    except RayTaskError as error:
        raise unwrap(error) from error
    except (RayActorError, GetTimeoutError) as error:
        raise UnavailableError(f"'{method}' got no answer: {type(error).__name__}", "it is being restarted") from error


def unwrap(error: RayTaskError) -> BaseException:
    """The error that the other side raised, as it raised it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, RtaError) else error


class RemoteCoordinator:
    """`CoordinatorLink` over Ray."""

    def register(self, actor: str, pid: int) -> Registration:
        return _decode(call("register", actor, pid), type=Registration)

    def offer(self, part: Part) -> int:
        number: int = call("offer", _encode(part))
        return number


class Aggregators:
    """The aggregators for the coordinator's watch, blocking."""

    def status(self, name: str, timeout_s: float) -> AggregatorStatus | None:
        try:
            return _decode(_get(lambda: _handle(name), "status", (), timeout_s), type=AggregatorStatus)
        except UnavailableError:
            return None

    def kill(self, name: str, pid: int) -> None:
        """End its process, also a stopped one that hears no call; Ray starts it again."""
        try:
            ray.kill(_handle(name), no_restart=False)
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            logger.info("aggregator %s, process %d, is gone already", name, pid)
        except (UnavailableError, RayError) as error:
            logger.warning("aggregator %s could not be ended: %s", name, error)


class RemotePeers:
    """`rta.serve.views.Peers` over Ray, for asyncio.

    Args:
        fleet: The names of the aggregators that take part now, from the newest assignment; blocking.
    """

    def __init__(self, names: Sequence[str], fleet: Callable[[], Sequence[str]]) -> None:
        self._names = tuple(names)
        self._fleet = fleet
        self._looked = time.monotonic()
        self._looking: asyncio.Task[None] | None = None
        self._handles: dict[str, Any] = {}

    def names(self) -> Sequence[str]:
        """Who is known to take part; looked up again beside the answers every `FLEET_S`."""
        if time.monotonic() - self._looked >= FLEET_S:
            self._looked = time.monotonic()
            self._looking = asyncio.create_task(self._look())
        return self._names

    async def _look(self) -> None:
        try:
            self._names = tuple(await asyncio.to_thread(self._fleet)) or self._names
        except RtaError as error:
            logger.warning("who takes part could not be looked up: %s", error)
        self._handles = {name: handle for name, handle in self._handles.items() if name in self._names}

    async def delta(self, actor: str, cursors: Mapping[str, Cursor | None], timeout_s: float) -> list[HotDelta]:
        data = await self._ask(actor, "delta", (_encode(dict(cursors)),), timeout_s)
        return _decode(data, type=list[HotDelta])

    async def rows(self, actor: str, folder: str, load: str, requests: Sequence[RowsRequest]) -> bytes:
        data: bytes = await self._ask(actor, "rows", (folder, load, _encode(list(requests))), CALL_S)
        return data

    async def _ask(self, actor: str, method: str, arguments: Sequence[Any], timeout_s: float) -> Any:
        try:
            handle = self._handles.get(actor)
            if handle is None:
                handle = self._handles[actor] = await asyncio.to_thread(_handle, actor)
            async with asyncio.timeout(timeout_s):
                return await getattr(handle, method).remote(*arguments)
        except RayTaskError as error:
            raise unwrap(error) from error
        except (RayActorError, TimeoutError) as error:
            self._handles.pop(actor, None)
            raise UnavailableError(f"aggregator '{actor}' did not answer: {type(error).__name__}") from error


async def call_async(method: str, *arguments: Any, timeout_s: float = CALL_S) -> Any:
    """`call` for asyncio."""
    return await asyncio.to_thread(lambda: call(method, *arguments, timeout_s=timeout_s))


class Fleet:
    """The actors of this run, created by the process that holds the system up: they live as long as it holds them."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._data = _encode(site)
        self._actors: dict[str, Any] = {}
        self._silence = Silence()
        self._spare = Spare()

    def start(self) -> None:
        """Create the actors; they go on by themselves. `ray.init` has been called."""
        if self._site.kafka is None:
            self._create(LogHost, LOG_HOST, self._data)
        self._create(CoordinatorActor, COORDINATOR, self._data)
        for name in self._site.aggregators:
            self._create(AggregatorActor, name, name, self._data)

    def follow(self) -> None:
        """Start the aggregators that the coordinator wants and that are not there, end those that it no longer wants."""
        self._spare.keep()
        try:
            pid, wanted = call("fleet", timeout_s=ANSWER_S)
        except UnavailableError:
            self._silence.missed()
            return
        self._silence.answered(pid)
        for name in wanted:
            if name not in self._actors:
                logger.info("%s joins", name)
                self._create(AggregatorActor, name, name, self._data)
        for name in self._aggregators() - set(wanted):
            logger.info("%s leaves", name)
            self._end(name)

    def _aggregators(self) -> set[str]:
        return set(self._actors) - {COORDINATOR, LOG_HOST}

    def _create(self, actor: Any, name: str, *arguments: Any) -> None:
        self._actors[name] = actor.options(name=name, namespace=NAMESPACE).remote(*arguments)

    def _end(self, name: str, stop_s: float = 10.0) -> None:
        handle = self._actors.pop(name)
        try:
            ray.get(handle.stop.remote(), timeout=stop_s)
        except RayError as error:
            logger.warning("%s did not stop by itself: %s", name, error)
        ray.kill(handle, no_restart=True)

    def stop(self, flush_s: float) -> None:
        """End everything in order: aggregators offer their open epochs, then the coordinator, then the log."""
        aggregators = self._aggregators()
        stopping = [self._actors[name].stop.remote() for name in aggregators]
        ray.wait(stopping, num_returns=len(stopping), timeout=flush_s)
        for name in aggregators:
            ray.kill(self._actors.pop(name), no_restart=True)
        for name in (COORDINATOR, LOG_HOST):
            if name in self._actors:
                self._end(name, 15.0)
