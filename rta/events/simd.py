"""Wide loads over a byte buffer, for numba: 8 bytes as an integer, 32 bytes as a mask, 32 bytes copied at once.

Every reader may look up to `PADDING` bytes past the end of what it was asked for, and `copy` may write as many: whoever
makes a buffer for these functions leaves that much room behind its content (`padded`).
"""

# The IR builders get whatever numba passes; it has no types for them.
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]  # it ships no types
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

Bytes = npt.NDArray[np.uint8]
kernel = njit(cache=True, nogil=True, _nrt=False)
"""How every loop over bytes is compiled: without reference counts, which would cost more than the loops themselves."""
PADDING = 64
LANES = 32
_BYTE = ir.IntType(8)
_WIDE = ir.VectorType(_BYTE, LANES)
_MASK = ir.IntType(LANES)
_WORD = ir.IntType(64)

inlined = njit(cache=True, nogil=True, _nrt=False, inline="always")
"""The same for small parts of such loops, which become part of their caller: an array as an argument is seven words on
the stack, and a function of its own takes 0.2 s longer to compile."""


def padded(*parts: bytes | memoryview) -> Bytes:
    """The parts, one after the other, with zeros behind them."""
    return np.frombuffer(b"".join((*parts, bytes(PADDING))), dtype=np.uint8)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = cgutils.create_struct_proxy(array_type)(context, builder, value=array).data
    return builder.gep(data, [index])


def _splat(builder: Any, value: int) -> Any:
    return ir.Constant(_WIDE, [value] * LANES)


@intrinsic
def load_word(_typing: Any, array: Any, index: Any) -> Any:
    """The 8 bytes at `index`, little end first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load(builder.bitcast(pointer, _WORD.as_pointer()), align=1)

    return types.uint64(array, types.intp), generate


@intrinsic
def string_masks(_typing: Any, array: Any, index: Any) -> Any:
    """Of the 32 bytes at `index`: in the low half one bit per quote, backslash and control character, in the high half
    one per byte beyond ASCII."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        block = builder.load(builder.bitcast(pointer, _WIDE.as_pointer()), align=1)
        quote = builder.icmp_unsigned("==", block, _splat(builder, 0x22))
        backslash = builder.icmp_unsigned("==", block, _splat(builder, 0x5C))
        control = builder.icmp_unsigned("<", block, _splat(builder, 0x20))
        special = builder.or_(builder.or_(quote, backslash), control)
        beyond = builder.icmp_signed("<", block, _splat(builder, 0))
        low = builder.zext(builder.bitcast(special, _MASK), _WORD)
        high = builder.zext(builder.bitcast(beyond, _MASK), _WORD)
        return builder.or_(low, builder.shl(high, ir.Constant(_WORD, LANES)))

    return types.uint64(array, types.intp), generate


@intrinsic
def newline_mask(_typing: Any, array: Any, index: Any) -> Any:
    """One bit per newline among the 32 bytes at `index`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        block = builder.load(builder.bitcast(pointer, _WIDE.as_pointer()), align=1)
        newline = builder.icmp_unsigned("==", block, _splat(builder, 0x0A))
        return builder.zext(builder.bitcast(newline, _MASK), _WORD)

    return types.uint64(array, types.intp), generate


@intrinsic
def trailing_zeros(_typing: Any, word: Any) -> Any:
    """How many zero bits stand below the lowest one; 64 for zero."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.intp(types.uint64), generate


@intrinsic
def copy_block(_typing: Any, target: Any, at: Any, source: Any, index: Any) -> Any:
    """32 bytes from `source[index:]` to `target[at:]`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to = _pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        start = _pointer(context, builder, signature.args[2], arguments[2], arguments[3])
        block = builder.load(builder.bitcast(start, _WIDE.as_pointer()), align=1)
        builder.store(block, builder.bitcast(to, _WIDE.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), generate


@inlined
def as_int(x: Any) -> Any:
    """A signed word: numba makes a float of a signed and an unsigned one."""
    return np.int64(x)


@inlined
def copy(target: Bytes, at: int, source: Bytes, start: int, length: int) -> int:
    """Copy in blocks of 32, overshooting by up to 31 bytes; returns where the copy ends."""
    done = 0
    while done < length:
        copy_block(target, at + done, source, start + done)
        done += LANES
    return at + length
