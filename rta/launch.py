"""Settings → a running system on this machine, in the foreground, until it is told to stop.

Owns the order of starting and stopping, the lock on the data folder, the port, and the variables that must be set before
Ray is imported (every import of Ray in here is late for that reason).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rta.actors.links import CATCHING_UP, Site
from rta.actors.logs import check_log
from rta.actors.ownership import fleet_names
from rta.actors.processes import Guard, guarded, start_ray
from rta.config import Settings
from rta.errors import AccessError, ConflictError, RtaError, UnavailableError
from rta.log.kafka.settings import kafka_settings
from rta.serve.haproxy import haproxy_program, loopback_haproxy
from rta.store.lease import Lease
from rta.store.redis_settings import redis_settings

if TYPE_CHECKING:
    from rta.actors.remote import Fleet

logger = logging.getLogger(__name__)
MARK = "_RTA_RUN"
"""In the environment of everything that a run starts."""
READY_S = 90.0
FLUSH_S = 20.0
DOWN_S = 60.0
LOGS = "/tmp/ray/session_latest/logs"
"""Of Ray, its actors and Serve; this run's are the newest."""


def up(settings: Settings, on_ready: Callable[[str], None] | None = None) -> int:
    """Run the system until SIGINT or SIGTERM; 0 after a clean stop.

    Args:
        settings: All of them.
        on_ready: Called in a thread with the base URL once events are taken and questions answered.

    Raises:
        ConflictError: the folder or the port is held by somebody else.
        UnavailableError: it did not become ready in time.
    """
    began = time.monotonic()
    stop = threading.Event()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _listen(stop)
    try:
        with _hold(settings):
            environment(settings)
            _compile_kernels()
            with guarded(f"{MARK}={os.environ[MARK]}") as guard:
                return _run(settings, guard, stop, began, on_ready)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _listen(stop: threading.Event) -> None:
    """SIGINT and SIGTERM mean stop; called again after Ray has put handlers of its own there."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())


def down(settings: Settings) -> int:
    """Stop the system that holds the data folder, and wait until it is gone; 0 also when none runs."""
    holder = _holder(settings.data_dir)
    if holder is None:
        say(f"nothing runs in '{settings.data_dir}'")
        return 0
    say(f"stopping process {holder['pid']}")
    try:
        os.kill(int(holder["pid"]), signal.SIGTERM)
    except ProcessLookupError:
        return 0
    deadline = time.monotonic() + DOWN_S
    waiting = threading.Event()
    while _holder(settings.data_dir) is not None:
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"process {holder['pid']} has not stopped within {DOWN_S:.0f} s",
                "look at it, or kill it: nothing is lost",
            )
        waiting.wait(0.1)
    say("stopped")
    return 0


def prepare() -> int:
    """Fill the kernel cache of this installation: what the first `rta up` would otherwise do; 0 when done."""
    os.environ.setdefault("NUMBA_CACHE_DIR", str(_kernel_cache(Settings())))
    _compile_kernels()
    return 0


def say(text: str) -> None:
    """Progress, for people: on standard error."""
    print(text, file=sys.stderr, flush=True)


def base_url(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://{host}:{settings.port}"


# -- holding the folder and the port -------------------------------------------------------------------------------


@contextmanager
def _hold(settings: Settings) -> Iterator[None]:
    """The lock on the data folder for as long as this process lives; the kernel lets go of it when it dies."""
    path = _lock_path(settings.data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(settings.data_dir) or {}
            raise ConflictError(
                f"'{settings.data_dir}' is held by process {holder.get('pid', '?')}, "
                f"which serves {holder.get('url', 'an unknown port')}",
                "use that one, stop it with 'rta down', or choose another data_dir",
            ) from None
        _check_port(settings)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "url": base_url(settings)}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _lock_path(data_dir: Path) -> Path:
    return data_dir / "run" / "lock"


def _holder(data_dir: Path) -> dict[str, Any] | None:
    """Who holds the folder; None when nobody does."""
    path = _lock_path(data_dir)
    if not path.exists():
        return None
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = file.read()
            holder: dict[str, Any] = json.loads(text) if text else {"pid": 0, "url": "?"}
            return holder
    return None


def _check_port(settings: Settings) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise ConflictError(
                f"port {settings.port} of {settings.host} can't be used: {error.strerror}; {_port_holder(settings.port)}",
                "stop that, or choose another with --port",
            ) from None


def _port_holder(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                name = psutil.Process(connection.pid).name() if connection.pid else "unknown"
                return f"it is held by process {connection.pid} ('{name}')"
    except psutil.Error as error:
        return f"who holds it can't be seen: {type(error).__name__}"
    return "who holds it can't be seen"


# -- the environment of every process --------------------------------------------------------------------------------


def environment(settings: Settings) -> None:
    """Set what Ray, Serve and the engines read at import time; what the user has set already stays."""
    if any(name == "ray" or name.startswith("ray.") for name in sys.modules):
        logger.warning("Ray was imported before its variables were set; some may have no effect")
    run = settings.data_dir / "run"
    ports = _free_ports(4)
    first = _port_range(settings)
    values = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_num_workers_soft_limit": "32",
        "RAY_preload_python_modules": "rta.actors.warm",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 59),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + 60),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + 119),
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "rta.serve.front.middlewares",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports[0]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports[1]),
        "POLARS_MAX_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "NUMBA_CACHE_DIR": str(_kernel_cache(settings)),
        "MALLOC_ARENA_MAX": "2",
        # Arrow's own allocator kept a third more memory and took more CPU; polars' gives back what it has not used for a while.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "_RJEM_MALLOC_CONF": "background_thread:true,dirty_decay_ms:200,muzzy_decay_ms:200",
        "AWS_ALLOW_HTTP": "true",
    }
    haproxy = haproxy_program(settings)
    if haproxy is not None:
        sockets = _socket_folder(settings)
        values |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports[2]),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports[3]),
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(loopback_haproxy(run, haproxy, ports[2:])),
            "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",
            "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "500ms",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(sockets / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "metrics.sock"),
        }
    else:
        values["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "0"
    for name, value in values.items():
        os.environ.setdefault(name, value)
    os.environ[MARK] = secrets.token_hex(8)


def _kernel_cache(settings: Settings) -> Path:
    """Where compiled kernels are kept: with the installation, so that each is compiled once; else in the data folder."""
    shared = Path(sys.prefix) / "var" / "rta-kernels"
    try:
        shared.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=shared):
            return shared
    except OSError:
        return settings.data_dir / "cache" / "kernels"


def _compile_kernels() -> None:
    """Once per installation and version of the code, in one process, before three would do it at the same time."""
    cache = Path(os.environ["NUMBA_CACHE_DIR"])
    marker = cache / f"compiled-{_kernel_stamp()}"
    if marker.exists():
        return
    say("rta: compiling kernels, once per installation (a minute or two)")
    done = subprocess.run([sys.executable, "-m", "rta.actors.kernels"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"compiling kernels failed: {done.stderr[-500:]}", "is the installation complete?")
    marker.touch()


def _kernel_stamp() -> str:
    """Changes when a module with kernels does, in the way that numba's cache looks at it."""
    sources = [p for p in sorted(Path(__file__).parent.rglob("*.py")) if b"numba" in p.read_bytes()]
    said = "".join(f"{p}{p.stat().st_mtime_ns}" for p in sources)
    return hashlib.sha256(f"{sys.version}{metadata.version('numba')}{said}".encode()).hexdigest()[:16]


def _socket_folder(settings: Settings) -> Path:
    """A short folder for sockets: their paths may have 107 characters at most."""
    name = hashlib.sha256(str(settings.data_dir).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"rta-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _port_range(settings: Settings) -> int:
    """Where 120 ports for replicas begin: below the ephemeral range, apart for apart folders."""
    return 20_000 + int(hashlib.sha256(str(settings.data_dir).encode()).hexdigest(), 16) % 100 * 120


# -- starting, holding, stopping -------------------------------------------------------------------------------------


def site_of(settings: Settings) -> Site:
    data = settings.data_dir
    return Site(
        store=str(data / "store") if settings.store == "local" else settings.store,
        log_folder=str(data / "log"),
        log_socket=str(_socket_folder(settings) / "log.sock"),
        kafka=kafka_settings(settings),
        redis=redis_settings(settings),
        run_folder=str(data / "run"),
        partitions=settings.partitions,
        aggregators=fleet_names(settings.aggregator_count),
        epoch_ms=settings.epoch,
        epoch_events=settings.epoch_events,
        dedup_memory_ids=settings.dedup_memory_ids,
        query_time_ms=settings.limits.query_time,
        event_bytes=settings.limits.event,
        backlog_bytes_max=settings.limits.backlog,
        crash_at=settings.crash_at,
        run=os.environ.get(MARK, ""),
        url=base_url(settings),
        pid=os.getpid(),
    )


def _run(
    settings: Settings, guard: Guard, stop: threading.Event, began: float, on_ready: Callable[[str], None] | None
) -> int:
    site = site_of(settings)
    say(f"rta: data in '{site.store}', log '{settings.log}', {len(site.aggregators)} aggregators")
    _check_log(site)
    lease = _prepare_store(settings, site, stop)
    fleet: Fleet | None = None
    try:
        say("rta: starting Ray")
        start_ray("rta", guard)
        _listen(stop)
        if not stop.is_set():
            say("rta: starting actors and HTTP")
            fleet = _start_system(settings, site)
            _listen(stop)
            _wait_ready(settings, stop)
        if not stop.is_set():
            say(f"rta: ready after {time.monotonic() - began:.0f} s at {base_url(settings)} (Ctrl-C stops it)")
            if on_ready is not None:
                threading.Thread(target=on_ready, args=(base_url(settings),), name="on-ready", daemon=True).start()
        _hold_up(stop, fleet, guard, lease)
    finally:
        _stop_system(fleet)
        with suppress(RtaError):
            lease.release()
    say("rta: stopped; the next start goes on where this one ended")
    return 0


def _check_log(site: Site) -> None:
    """Before anything is started: brokers that do not let us in end it here; those that are away may come."""
    try:
        check_log(site)
    except AccessError:
        raise
    except UnavailableError as error:
        say(f"rta: no broker answers yet: {error}")


def _prepare_store(settings: Settings, site: Site, stop: threading.Event) -> Lease:
    """Before anything is started: refuse a store of a newer format, or one that another system uses; create the built-in and
    configured datasources."""
    from rta.actors.logs import source_partitions
    from rta.events.builtin import events_document
    from rta.store.catalog import Catalog, partitions_of
    from rta.store.objects import open_store

    store = open_store(site.store)
    lease = Lease(store, site.run, site.pid, site.url)
    lease.take(stop)
    catalog = Catalog(store)
    known = catalog.read().datasources
    defaults = {"dedup_window": f"{settings.dedup_window}ms"}
    for document in [{"name": "events", **events_document()}, *settings.datasources]:
        name = document.get("name")
        if name not in known:
            complete = {**defaults, **document}
            partitions = partitions_of(complete, settings.partitions, lambda source: source_partitions(site, source))
            catalog.create(complete, partitions)
        elif document in settings.datasources:
            catalog.update(str(name), {**defaults, **document})
    return lease


def _start_system(settings: Settings, site: Site) -> Fleet:
    from ray import serve
    from ray.exceptions import RayError

    from rta.actors.remote import Fleet
    from rta.serve.app import ingest_application, query_application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    fleet = Fleet(site)
    fleet.start()
    try:
        serve.start(
            http_options={"host": settings.host, "port": settings.port, "keep_alive_timeout_s": 75},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        serve.run_many(
            [
                serve.RunTarget(ingest_application(site, settings), name="ingest", route_prefix="/v1/events"),
                serve.RunTarget(query_application(site, settings), name="query", route_prefix="/"),
            ]
        )
    except (RuntimeError, RayError) as error:
        raise UnavailableError(f"HTTP could not be started: {error}", f"see the logs in {LOGS}") from error
    return fleet


def _wait_ready(settings: Settings, stop: threading.Event) -> None:
    """Catching up with the log takes as long as it takes; anything else has to be over in time."""
    deadline = time.monotonic() + READY_S
    reason, said = "no answer yet", False
    while not stop.wait(0.1):
        try:
            with urllib.request.urlopen(f"{base_url(settings)}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace")[:300]
            if CATCHING_UP in reason:
                deadline = time.monotonic() + READY_S
                if not said:
                    say("rta: events are taken; catching up with the log before it is ready")
                said = True
        except OSError as error:
            reason = str(error)
        if time.monotonic() > deadline:
            raise UnavailableError(f"not ready after {READY_S:.0f} s: {reason}", f"see the logs in {LOGS}")


def _hold_up(stop: threading.Event, fleet: Fleet | None, guard: Guard, lease: Lease) -> None:
    """Until told to stop. What dies is started again by Ray and Serve; aggregators join and leave as `rta scale` says.

    Only Ray's node itself is started again by nobody: without it, this process ends with 1 for whoever looks after it.
    """
    from rta.actors.clock import ClockWatch, restart_controller

    clock = ClockWatch()
    while not stop.wait(0.5):
        if back_s := clock.stepped_back_s():
            say(f"rta: the clock was set back by {back_s:,.0f} s; Serve's controller starts anew")
            restart_controller()
        lost = guard.node_lost()
        if lost is not None:
            say(f"error: Ray's node is gone: {lost}\nhint: start again; nothing that was acknowledged is lost")
            guard.end_all()
            with suppress(RtaError):
                lease.release()
            os._exit(1)  # Ray's client would wait for its node at an orderly end
        if fleet is not None:
            fleet.follow()


def _stop_system(fleet: Fleet | None) -> None:
    import ray

    if not ray.is_initialized():
        return
    say("rta: stopping; open epochs are committed first")
    try:
        if fleet is not None:
            from ray import serve

            fleet.stop(FLUSH_S)
            serve.shutdown()
    except (RtaError, ray.exceptions.RayError) as error:
        say(f"rta: not everything stopped by itself: {error}")
    finally:
        ray.shutdown()
