"""What a system costs while it works: CPU by process, ended ones too, and the peak of its memory.

Owns a thread that looks at the processes below one, Ray's among them, twice a second. Memory is PSS: pages that
processes share count once. CPU is user and system time; of a process that ended between two looks the last bit comes
from what its parent was told when it waited for it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

LOOK_S = 0.5
Key = tuple[int, float]
"""A process: its id and when it began."""


@dataclass(slots=True)
class _Seen:
    title: str
    parent: Key | None
    own_s: float = 0.0
    children_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds since each process began, summed by title."""

    by_title: Mapping[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.by_title.values())

    def since(self, before: Cpu) -> Cpu:
        titles = {**before.by_title, **self.by_title}
        spent = {title: self.by_title.get(title, 0.0) - before.by_title.get(title, 0.0) for title in titles}
        return Cpu(dict(sorted(spent.items(), key=lambda item: -item[1])))


@dataclass
class Meter:
    """Watches a process and all below it between `start` and `stop`."""

    pid: int
    pss_bytes_max: int = 0
    pss_at_peak: dict[str, int] = field(default_factory=dict)
    """By title, when it was highest."""
    _seen: dict[Key, _Seen] = field(default_factory=dict)
    _ending: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ending.wait(LOOK_S):
            by_title: dict[str, int] = defaultdict(int)
            for process in self._look():
                by_title[_named(process)] += pss_bytes(process.pid)
            if (size := sum(by_title.values())) > self.pss_bytes_max:
                self.pss_bytes_max, self.pss_at_peak = size, dict(by_title)

    def reset_memory(self) -> None:
        self.pss_bytes_max, self.pss_at_peak = 0, {}

    def memory_bytes(self) -> int:
        """Now."""
        return sum(pss_bytes(process.pid) for process in self._look())

    def cpu(self) -> Cpu:
        """So far. Children that were never seen are in their parent's line."""
        self._look()
        with self._lock:
            total: dict[str, float] = defaultdict(float)
            known_s: dict[Key, float] = defaultdict(float)
            alive = {key for key in self._seen if _began(key[0]) == key[1]}
            for key, seen in self._seen.items():
                total[seen.title] += seen.own_s
                if key not in alive and seen.parent is not None:
                    known_s[seen.parent] += seen.own_s + seen.children_s
            for key, seen in self._seen.items():
                total[seen.title] += max(0.0, seen.children_s - known_s[key])
            return Cpu(dict(total))

    def _look(self) -> list[psutil.Process]:
        root = psutil.Process(self.pid)
        processes = [root, *root.children(recursive=True)]
        with self._lock:
            for process in processes:
                self._note(process)
        return processes

    def _note(self, process: psutil.Process) -> None:
        try:
            with process.oneshot():
                key = (process.pid, process.create_time())
                times, title, parent = process.cpu_times(), _title(process), process.ppid()
        except psutil.Error:
            return
        began = _began(parent)
        seen = self._seen.setdefault(key, _Seen(title, None if began is None else (parent, began)))
        # A worker takes its title only when it becomes an actor.
        seen.title = title or seen.title
        seen.own_s = times.user + times.system
        seen.children_s = times.children_user + times.children_system


def pss_bytes(pid: int) -> int:
    """Proportional share of memory; 0 for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    kb = [int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")]
    return kb[0] * 1024 if kb else 0


def _began(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def _named(process: psutil.Process) -> str:
    try:
        return _title(process)
    except psutil.Error:
        return ""


def _title(process: psutil.Process) -> str:
    """What the process is, short: `ray::AggregatorActor`, `raylet`, `dashboard.py`."""
    words = process.cmdline()
    if not words:
        return ""
    if words[0].startswith("ray::"):
        # While an actor runs a method, its title names that too.
        return words[0].split("(")[0].split(".")[0].strip()
    if Path(words[0]).name.startswith("python"):
        if "-m" in words:
            return words[words.index("-m") + 1]
        scripts = [Path(word).name for word in words[1:] if word.endswith((".py", "/rta"))]
        return scripts[-1] if scripts else "python"
    return Path(words[0]).name
