"""A number of 64 bits for a name, by which ids are given out: the same on every machine, spread evenly.

With mix(x) the last step of SplitMix64, and a salt, which is 0 but where two names would have the same number:
h = mix(salt + number of bytes), then h = mix(h ^ word) for each eight of the UTF-8 bytes, little-endian, the last ones
filled up with zeros.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

WORD = 8
KEPT_BYTES = np.array([(1 << (WORD * count)) - 1 for count in range(WORD + 1)], np.uint64)


def mix(numbers: np.ndarray) -> np.ndarray:
    """uint64, one to one, and each bit depends on all."""
    mixed = numbers ^ (numbers >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def name_hashes(names: pa.Array, salt: int = 0) -> np.ndarray:
    """uint64 by name; `names` are strings without missing ones, maybe dictionary-encoded."""
    if pa.types.is_dictionary(names.type):
        return name_hashes(names.dictionary, salt)[names.indices.to_numpy()]
    if not len(names):
        return np.empty(0, np.uint64)
    offsets, data = contents(names)
    starts, length = offsets[:-1], np.diff(offsets)
    padded = np.zeros(len(data) + WORD, np.uint8)
    padded[: len(data)] = data
    words = np.ndarray((len(data) + 1,), "<u8", padded, strides=(1,))  # one begins at every byte
    found = mix(length.astype(np.uint64) + np.uint64(salt))
    shortest, longest = int(length.min()), int(length.max())
    for begin in range(0, longest, WORD):
        which = slice(None) if begin < shortest else np.flatnonzero(length > begin)
        kept = KEPT_BYTES[np.minimum(length[which] - begin, WORD)]
        found[which] = mix(found[which] ^ (words[starts[which] + begin] & kept))
    return found


def contents(names: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(offsets int64 [n + 1] from 0, UTF-8 bytes) of an array of strings."""
    _, ends, data = names.buffers()
    kind = np.int64 if pa.types.is_large_string(names.type) else np.int32
    offsets = np.frombuffer(ends, kind)[names.offset : names.offset + len(names) + 1].astype(np.int64)
    letters = np.frombuffer(data if data is not None and data.size else b"", np.uint8)
    return offsets - offsets[0], letters[offsets[0] : offsets[-1]]


def as_strings(offsets: np.ndarray, data: np.ndarray) -> pa.Array:
    """The opposite of `contents`, without a copy."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets, np.int64)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
