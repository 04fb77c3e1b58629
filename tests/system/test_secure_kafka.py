"""rta on a broker with TLS and users: it works, and where it is not let in it says at once which setting to mend."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.services.secure_kafka import PASSWORD, USER, SecureKafka
from tests.system.running import Running, wait_for

WRONG = "wrong-horse-17"
EVENTS = [
    {"event_id": f"e{k}", "timestamp": 1_767_225_600_000 + k, "event_type": "x", "user_id": f"u{k % 40}"}
    for k in range(500)
]
QUESTION = {
    "datasource": "events",
    "time_range": "2000-01-01T00:00:00Z/2100-01-01T00:00:00Z",
    "metrics": [{"name": "n", "type": "count"}],
}


@pytest.fixture(scope="module")
def kafka() -> Iterator[SecureKafka]:
    broker = SecureKafka()
    yield broker
    broker.close()


def secured(
    kafka: SecureKafka, folder: Path, password: str = PASSWORD, host: str = "127.0.0.1", **kafka_options: Any
) -> Running:
    options = {
        "security": "SASL_SSL",
        "ca_file": str(kafka.ca_file),
        "sasl_mechanism": "SCRAM-SHA-512",
        "username": USER,
        "request": "2s",
        "delivery": "3s",
        **kafka_options,
    }
    return Running(
        folder,
        environment={**os.environ, "RTA_KAFKA_PASSWORD": password},
        log=f"kafka://{kafka.servers_of('SASL_SSL', host)}",
        kafka=options,
    )


def send(running: Running) -> httpx.Response:
    return running.http.post("/v1/events", json=EVENTS)


@pytest.mark.timeout(400)
def test_events_go_in_and_answers_come_out_over_tls_with_a_user_who_may_be_locked_out_meanwhile(
    kafka: SecureKafka, tmp_path: Path
) -> None:
    running = secured(kafka, tmp_path).start()
    try:
        answer = send(running)
        assert (answer.status_code, answer.json()["successful"]) == (200, 500)
        [row] = running.rows(**QUESTION, after=answer.json()["position"])
        assert row["n"] == 500
        assert running.status()["log"]["alive"]
        assert PASSWORD not in running.http.get("/v1/status").text
        kafka.set_password(WRONG)
        kafka.stop()
        kafka.start()
        wait_for(lambda: not running.status()["log"]["alive"], "the status says that the log is out of reach")
        wait_for(lambda: "refuses user 'rta'" in running.status()["log"]["reason"], "and why")
        assert "RTA_KAFKA_PASSWORD" in running.status()["log"]["reason"]
        refused = send(running)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert "RTA_KAFKA_PASSWORD" in refused.text
        kafka.set_password(PASSWORD)
        wait_for(lambda: send(running).status_code == 200, "events are taken again, without a restart")
        wait_for(lambda: running.http.get("/readyz").status_code == 200, "it is ready again")
        assert running.rows(**QUESTION)[0]["n"] == 500
        assert running.wait_committed("events", 500)["lost"] == 0
        assert running.stop() == 0
        said = running.log.read_text()
        assert PASSWORD not in said
        assert WRONG not in said
    finally:
        if running.process is not None and running.process.poll() is None:
            running.kill_everything()


BARRED: dict[str, tuple[dict[str, Any], str]] = {
    "wrong password": ({"password": WRONG}, "RTA_KAFKA_PASSWORD"),
    "wrong authority": ({"ca_file": "other_ca_file"}, "'kafka.ca_file'"),
    "another host's certificate": ({"host": "localhost"}, "write in 'log' the host names"),
    "no TLS at a TLS port": ({"security": "SASL_PLAINTEXT", "ca_file": None}, "'kafka.security: SASL_PLAINTEXT'"),
    "a file that is no certificate": ({"ca_file": "key_file"}, "'kafka.ca_file'"),
}


@pytest.mark.parametrize("case", BARRED)
def test_rta_up_ends_within_seconds_and_names_the_setting_to_mend(
    kafka: SecureKafka, tmp_path: Path, case: str
) -> None:
    options, setting = BARRED[case]
    files = {key: str(getattr(kafka, value)) for key, value in options.items() if f"{value}".endswith("_file")}
    running = secured(kafka, tmp_path, **{**options, **files})
    began = time.monotonic()
    command = running.command("up", "--config", str(running.config))
    done = subprocess.run(
        command, env=running.environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    assert time.monotonic() - began < 30, "compiled kernels are there: it takes 5 s"
    assert setting in done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert WRONG not in done.stderr
    assert PASSWORD not in done.stderr
