"""Which members of an event the scanner looks for: the declared paths as flat arrays.

Slot 0 is the event's time, slot i + 1 the datasource's i-th column. Node 0 is the event itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rta.events.simd import Bytes, as_int, inlined, load_word, padded

_MULTIPLIER = np.uint64(0x9DDFEA08EB382D69)
_SHIFT = np.uint64(32)
_EIGHT = np.uint64(8)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_NODE = np.uint64(0x9E3779B97F4A7C15)


class Trie(NamedTuple):
    """`table` is a hash table of members, one row each: (node or -1, start of the name, its length, the child's node,
    the slot of its value or -1 where the declared paths lead on)."""

    names: Bytes
    table: npt.NDArray[np.int32]


@inlined
def name_hash(buf: Bytes, start: int, length: int) -> np.uint64:
    """64 bits of a member's name."""
    h = np.uint64(length) * _MULTIPLIER
    pos = start
    left = length
    while left >= 8:
        h = (h ^ load_word(buf, pos)) * _MULTIPLIER
        h ^= h >> _SHIFT
        pos += 8
        left -= 8
    if left > 0:
        word = load_word(buf, pos) & (_ALL >> (_EIGHT * np.uint64(8 - left)))
        h = (h ^ word) * _MULTIPLIER
        h ^= h >> _SHIFT
    return h


@inlined
def same_bytes(a: Bytes, i: int, b: Bytes, j: int, length: int) -> bool:
    while length >= 8:
        if load_word(a, i) != load_word(b, j):
            return False
        i += 8
        j += 8
        length -= 8
    if length == 0:
        return True
    return (load_word(a, i) ^ load_word(b, j)) << (_EIGHT * np.uint64(8 - length)) == 0


@inlined
def first_probe(table: npt.NDArray[np.int32], node: int, h: np.uint64) -> int:
    mixed = (h ^ (np.uint64(node) * _NODE)) * _MULTIPLIER
    return as_int((mixed >> _SHIFT) & np.uint64(table.shape[0] - 1))


@inlined
def find_child(trie: Trie, node: int, h: np.uint64, buf: Bytes, start: int, length: int) -> int:
    """The row of the member with this name in the table, or -1."""
    table = trie.table
    probe = first_probe(table, node, h)
    while table[probe, 0] >= 0:
        fits = table[probe, 0] == node and table[probe, 2] == length
        if fits and same_bytes(trie.names, as_int(table[probe, 1]), buf, start, length):
            return probe
        probe = (probe + 1) & (table.shape[0] - 1)
    return as_int(-1)


def build_trie(paths: Sequence[tuple[str, ...]]) -> Trie:
    """The trie of these paths; path i leads to slot i. No path may be another's beginning."""
    children: dict[tuple[int, str], int] = {}
    slots = [-1]
    for slot, path in enumerate(paths):
        node = 0
        for name in path:
            if (node, name) not in children:
                children[node, name] = len(slots)
                slots.append(-1)
            node = children[node, name]
        slots[node] = slot
    size = 8
    while size < 4 * len(children):
        size *= 2
    table = np.full((size, 5), -1, dtype=np.int32)
    encoded = [name.encode() for _, name in children]
    names = padded(*encoded)
    start = 0
    for ((node, _), child), text in zip(children.items(), encoded, strict=True):
        probe = int(first_probe(table, node, np.uint64(name_hash(names, start, len(text)))))
        while table[probe, 0] >= 0:
            probe = (probe + 1) & (size - 1)
        table[probe] = (node, start, len(text), child, slots[child])
        start += len(text)
    return Trie(names, table)
