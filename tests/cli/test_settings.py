"""Settings that are wrong are refused with their path, what was found and what is taken."""

from __future__ import annotations

import threading
import traceback
from pathlib import Path

import pytest

from rta.config import Settings, load_settings
from rta.errors import ConfigError
from rta.launch import _prepare_store, site_of
from rta.log.kafka.settings import kafka_settings
from rta.store.catalog import Catalog
from rta.store.objects import open_store
from rta.store.redis_settings import redis_settings


def load(folder: Path, text: str, environment: dict[str, str] | None = None) -> Settings:
    path = folder / "rta.yaml"
    path.write_text(text)
    return load_settings(path, environment or {})


def test_sizes_and_durations_are_texts_or_numbers(tmp_path: Path) -> None:
    found = load(tmp_path, "epoch: 5s\nlimits: {body: 1MiB, event: 1000}", {"RTA_DEDUP_WINDOW": "48h"})
    assert (found.epoch, found.limits.body, found.limits.event) == (5_000, 1 << 20, 1_000)
    assert found.dedup_window == 48 * 3_600_000


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("epoch: 5 parsecs", "setting 'epoch' is '5 parsecs': it takes a text such as '30s'", "docs/operations.md"),
        ("epoch: -5s", "setting 'epoch' is '-5s'", "docs/operations.md"),
        ("epoch: 0s", "setting 'epoch' is '0s'", "docs/operations.md"),
        ("epoch: true", "setting 'epoch' is True: it takes a number or a text such as '30s'", "docs/operations.md"),
        ("limits: {body: 3 quarts}", "setting 'limits.body' is '3 quarts': it takes a text such as '16MiB'", "docs/"),
        ("limits: {body: 0}", "setting 'limits.body' is 0", "docs/operations.md"),
        ("port: 99999", "setting 'port' is 99999", "docs/operations.md"),
        ("epch: 5s", "unknown setting 'epch'", "did you mean 'epoch'?"),
        ("limits: {bdy: 1}", "unknown setting 'limits.bdy'", "did you mean 'body'?"),
        ("log: kafka", "setting 'log' is 'kafka': that is no log that rta knows; write 'embedded'", "docs/"),
        ("log: kafka://", "'' is no host:port", "docs/"),
        ("log: 'kafka://a:9092,b:port'", "'b:port' is no host:port", "docs/"),
        ("store: gs://bucket/x", "setting 'store' is 'gs://bucket/x': that is no store", "docs/"),
        ("store: 's3://Bucket/x'", "write 'local' or s3://bucket/prefix", "docs/"),
        ("kafka: {user: x}", "unknown setting 'kafka.user'", "did you mean 'username'?"),
        ("kafka: {security: SASL_SSL}", "needs 'sasl_mechanism' and 'username'", "docs/"),
        ("kafka: {in_sync: 2, replication: 1}", "'in_sync' is 2, more than the 1 of 'replication'", "docs/"),
        ("kafka: {ca_file: /no/such.pem}", "'/no/such.pem', and there is no such file", "docs/"),
        ("kafka: {password: x}", "holds 'kafka.password'", "RTA_KAFKA_PASSWORD"),
        ("redis: memcached://a", "setting 'redis' is 'memcached://a': that is no Redis", "docs/"),
        ("redis: 'redis://a:port/0'", "that is no Redis that rta knows; write redis://host:6379/0", "docs/"),
        ("redis: redis://a/x", "that is no Redis", "docs/"),
        ("redis: 'redis://a/0?ssl=1'", "that is no Redis", "docs/"),
        ("redis: 5", "setting 'redis' is 5", "docs/"),
        ("redis: ['redis://:hidden@cache/0']", "setting 'redis': Input should be a valid string", "docs/"),
        ("redis_password: x", "holds 'redis_password'", "RTA_REDIS_PASSWORD"),
        ("quotas: {events_per_second: 5}", "setting 'quotas.burst' is missing", "docs/"),
        ("quotas: {events_per_second: 0, burst: 5}", "setting 'quotas.events_per_second' is 0", "docs/"),
        ("quotas: {events_per_second: .inf, burst: 5}", "setting 'quotas.events_per_second' is inf", "docs/"),
        ("quotas: {events_per_second: 5, burst: 0.5}", "setting 'quotas.burst' is 0.5", "docs/"),
        ("quotas: {events_per_second: 5, bust: 5}", "unknown setting 'quotas.bust'", "did you mean 'burst'?"),
        ("- 1", "holds a list", "key: value"),
        ("{", "is not YAML", "README"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(tmp_path: Path, text: str, said: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    assert said in refused.value.message
    assert hint in refused.value.hint


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'RTA_EPCH'.*did you mean 'epoch'"):
        load(tmp_path, "", {"RTA_EPCH": "5s"})


def test_servers_of_a_kafka_log_have_ports(tmp_path: Path) -> None:
    assert load(tmp_path, "log: 'kafka://a:1234,b'").kafka_servers == ("a:1234", "b:9092")
    assert load(tmp_path, "").kafka_servers == ()


def test_a_password_comes_from_the_environment_or_a_file_and_is_not_shown(tmp_path: Path) -> None:
    text = "kafka: {security: SASL_PLAINTEXT, sasl_mechanism: PLAIN, username: u}"
    found = load(tmp_path, text, {"RTA_KAFKA_PASSWORD": "0123"})
    assert found.kafka.secret == "0123"
    assert "0123" not in repr(found)
    (tmp_path / "secret").write_text("from a file\n")
    found = load(tmp_path, text.replace("u}", f"u, password_file: {tmp_path / 'secret'}}}"))
    assert found.kafka.secret == "from a file"


@pytest.mark.parametrize(
    ("url", "environment", "password"),
    [
        ("redis://cache:6380/3", {}, None),
        ("redis://cache:6380/3", {"RTA_REDIS_PASSWORD": "0123"}, "0123"),
        ("redis://:s%40cret@cache:6380/3", {}, "s@cret"),
        ("redis://:in the url@cache:6380/3", {"RTA_REDIS_PASSWORD": "wins"}, "wins"),
        ("redis://someone:a/b#c@cache:6380/3", {}, "a/b#c"),
    ],
)
def test_the_password_of_redis_is_taken_out_of_the_url(
    tmp_path: Path, url: str, environment: dict[str, str], password: str | None
) -> None:
    settings = load(tmp_path, f"redis: '{url}'", environment)
    again = Settings.model_validate(settings.model_dump(mode="json"))
    assert settings.redis is not None
    assert settings.redis.endswith("cache:6380/3")
    assert again.redis == settings.redis
    found = redis_settings(settings)
    assert found is not None
    assert (found.host, found.port, found.database, found.tls, found.password) == ("cache", 6380, 3, False, password)
    assert found.username == ("someone" if "someone" in url else None)
    if password is not None:
        assert all(
            password not in text for text in (repr(settings), repr(again), repr(found), found.name, settings.redis)
        )


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hidden@cache:port/0",
        "http://u:hidden@cache",
        ":hidden@cache",
        "redis://:hidden@",
        "redis://cache:6379/0?password=hidden",
        "unix:///redis.sock?password=hidden",
    ],
)
def test_a_wrong_url_of_redis_is_named_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, f"redis: '{url}'")
    shown = "".join(traceback.format_exception(refused.value))
    assert "that is no Redis" in refused.value.message
    assert "hidden" not in refused.value.message
    assert "hidden" not in shown


def test_redis_has_a_port_and_a_database_of_its_own(tmp_path: Path) -> None:
    found = redis_settings(load(tmp_path, "redis: rediss://cache"))
    assert found is not None
    assert (found.port, found.database, found.tls, found.name) == (6379, 0, True, "rediss://cache:6379/0")
    assert redis_settings(load(tmp_path, "")) is None


def test_quotas_come_from_the_file_or_the_environment(tmp_path: Path) -> None:
    environment = {"RTA_QUOTAS_EVENTS_PER_SECOND": "2.5", "RTA_QUOTAS_BURST": "100"}
    quotas = load(tmp_path, "", environment).quotas
    assert quotas is not None
    assert (quotas.events_per_second, quotas.burst) == (2.5, 100)
    assert load(tmp_path, "quotas: {events_per_second: 9, burst: 100}", {"RTA_QUOTAS": "null"}).quotas is None


def test_no_message_about_a_setting_shows_the_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs 'sasl_mechanism' and 'username'") as refused:
        load(tmp_path, "kafka: {security: SASL_SSL}", {"RTA_KAFKA_PASSWORD": "0123"})
    assert "0123" not in str(refused.value)
    text = "{log: 'kafka://a', kafka: {security: SASL_PLAINTEXT, sasl_mechanism: PLAIN, username: u}}"
    assert "0123" not in repr(kafka_settings(load(tmp_path, text, {"RTA_KAFKA_PASSWORD": "0123"})))


def test_files_that_would_have_no_effect_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "some.pem"
    file.write_text("")
    for text, said in (
        (f"{{security: SSL, key_file: {file}}}", "'key_file' has no effect without 'cert_file'"),
        (f"{{ca_file: {file}}}", "'ca_file' has no effect with security 'PLAINTEXT'"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(tmp_path, f"kafka: {text}")


def test_a_configured_datasource_keeps_the_dedup_window_of_the_settings_at_the_next_start(tmp_path: Path) -> None:
    text = "{dedup_window: 1h, datasources: [{name: shop, time: t}]}"
    settings = load(tmp_path, text, {"RTA_DATA_DIR": str(tmp_path / "data")})
    site = site_of(settings)
    versions = []
    for _ in range(2):
        _prepare_store(settings, site, threading.Event())
        shop = Catalog(open_store(site.store)).get("shop")
        assert shop.dedup_window_ms == 3_600_000
        versions.append(shop.version)
    assert versions[0] == versions[1]
