"""Settings that are wrong are refused with their path, what was found and what is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from rta.config import Settings, load_settings
from rta.errors import ConfigError


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
