"""One Apache Kafka broker in KRaft mode, from Maven's jars, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from tests.services.places import free_port, installing, listens, program, run

POM = Path(__file__).with_name("kafka-jars.xml")
STARTUP_S = 60.0
HEAP = "512m"


def jars() -> Path:
    """Folder of the broker's jars, fetched with Maven the first time."""
    with installing("kafka") as folder:
        stamp = folder / "fetched.xml"
        if not stamp.exists() or stamp.read_bytes() != POM.read_bytes():
            maven = program("mvn", "install Maven and Java 17 or newer (Debian: apt-get install maven)")
            target = f"-DoutputDirectory={folder / 'jars'}"
            run([maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", target], "fetching Kafka's jars")
            shutil.copy(POM, stamp)
    return folder / "jars"


class Kafka:
    """A broker that can be stopped, killed, frozen and started again on the same port and data.

    Args:
        overrides: Lines of `server.properties` that differ from a small broker's.
    """

    def __init__(self, **overrides: str) -> None:
        self._java = program("java", "install Java 17 or newer (Debian: apt-get install openjdk-17-jre-headless)")
        self._jars = jars()
        self.root = Path(tempfile.mkdtemp(prefix="rta-kafka-"))
        self.port, self.controller_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._write_properties(overrides)
        format_command = ("format", "-t", "cnRhLXRlc3QtY2x1c3Rlci0", "-c", str(self._properties))
        self._run_tool("kafka.tools.StorageTool", *format_command, *self._format_options())
        self.start()

    def _listeners(self) -> dict[str, int]:
        """Names and ports, the first for what brokers say among themselves."""
        return {"PLAINTEXT": self.port}

    def _more_properties(self) -> dict[str, str]:
        return {}

    def _format_options(self) -> list[str]:
        """What the storage is told when it is made."""
        return []

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"kafka://{self.servers}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None

    @property
    def _properties(self) -> Path:
        return self.root / "server.properties"

    def _write_properties(self, overrides: dict[str, str]) -> None:
        listeners = [f"{name}://127.0.0.1:{port}" for name, port in self._listeners().items()]
        values = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "listeners": ",".join([*listeners, f"CONTROLLER://127.0.0.1:{self.controller_port}"]),
            "advertised.listeners": ",".join(listeners),
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.root / "data"),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "log.cleaner.enable": "false",
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "message.max.bytes": str(64 << 20),
            **self._more_properties(),
            **{name.replace("_", "."): value for name, value in overrides.items()},
        }
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    def _command(self, main: str, *arguments: str) -> list[str]:
        options = [f"-Xmx{HEAP}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=4", "-Dlog4j2.level=WARN"]
        return [self._java, *options, "-cp", f"{self._jars}/*", main, *arguments]

    def _run_tool(self, main: str, *arguments: str) -> None:
        run(self._command(main, *arguments), f"'{main}'")

    def start(self) -> None:
        """Return when it takes connections (again)."""
        with (self.root / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(self._properties)), stdout=log, stderr=log, start_new_session=True
            )
        deadline, waiting = time.monotonic() + STARTUP_S, threading.Event()
        while not listens(self.port):
            said = (self.root / "broker.log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, f"Kafka ended: {said}"
            assert time.monotonic() < deadline, f"Kafka did not start within {STARTUP_S} s: {said}"
            waiting.wait(0.05)

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(timeout=60)
        self._process = None

    def close(self) -> None:
        """End it and leave nothing behind."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.root, ignore_errors=True)


class FollowingKafka(Kafka):
    """A second broker of another one's cluster, for topics with two replicas. The first one goes on without it."""

    def __init__(self, first: Kafka) -> None:
        self._first = first
        super().__init__()

    def _more_properties(self) -> dict[str, str]:
        return {
            "process.roles": "broker",
            "node.id": "2",
            "controller.quorum.voters": f"1@127.0.0.1:{self._first.controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
        }
