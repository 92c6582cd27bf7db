# SPDX-License-Identifier: Apache-2.0
"""Hostile bytes: good ones with a few things wrong."""

from collections.abc import Sequence

from hypothesis import strategies as st


@st.composite
def mutated(
    draw: st.DrawFn, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()
) -> bytes:
    """Draw bytes that resemble one of the seeds, or none.

    :param draw: draws from a strategy.
    :param seeds: what a parser accepts.
    :param tokens: what means something to it.
    """
    pieces = st.binary(max_size=24)
    if tokens:
        pieces |= st.sampled_from([*tokens])
    data = draw(st.sampled_from([*seeds, b""]))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 40)))
        piece = draw(pieces | st.just(data[start:stop] * 2))
        data = data[:start] + piece + data[stop:]
    return data


@st.composite
def patched(
    draw: st.DrawFn, seeds: Sequence[bytes], words: Sequence[int]
) -> bytes:
    """Draw bytes with numbers of a fixed layout changed, or cut short.

    :param draw: draws from a strategy.
    :param seeds: what a parser accepts.
    :param words: offsets of what it looks at.
    """
    data = bytearray(draw(st.sampled_from([*seeds])))
    for _ in range(draw(st.integers(0, 6))):
        offset = draw(st.sampled_from([*words]))
        size = draw(st.sampled_from([1, 2, 4, 8]))
        word = draw(st.binary(min_size=size, max_size=size))
        if offset + size <= len(data):
            data[offset : offset + size] = word
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


#: Values of JSON, of every depth that a document can have.
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["0:100000:65536", "0:1:6,6:100:10", "keep", "chown"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def changed(draw: st.DrawFn, value: object, depth: int = 0) -> object:
    """Draw a JSON value like another, with parts replaced."""
    if draw(st.integers(0, 5 + depth)) == 0:
        return draw(json_values)
    if isinstance(value, dict):
        items = {
            key: draw(changed(each, depth + 1)) for key, each in value.items()
        }
        if items and draw(st.integers(0, 9)) == 0:
            items.pop(draw(st.sampled_from([*items])))
        return items
    if isinstance(value, list):
        return [draw(changed(each, depth + 1)) for each in value]
    return value
