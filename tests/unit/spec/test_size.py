# SPDX-License-Identifier: Apache-2.0
"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.spec.size import format_size, parse_memory, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("5B", 5),
        ("64 GiB", 64 << 30),
        ("64Gi", 64 << 30),
        ("64G", 64 * 10**9),
        ("1.5GB", 1_500_000_000),
        ("0.5 KiB", 512),
        (" 7K ", 7000),
        ("1E", 10**18),
    ],
)
def test_what_is_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1", "+1", "1 000", "1k", "1g", "1iB", "1ZiB", "1  G", ".5G",
     "1e6", "0x10", "1G 1M", "\u0661"],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of bytes"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("0", 0),
        ("512", 512),
        ("512M", 512),
        ("512m", 512),
        ("512 MiB", 512),
        ("1g", 1024),
        ("1.5GiB", 1536),
        ("2Gi", 2048),
        ("1GB", 953),
        ("1048576kib", 1024),
        ("1T", 1 << 20),
    ],
)
def test_memory_as_podman_has_it(text: str, mib: int) -> None:
    assert parse_memory(text) == mib


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1 000", "1x", "1iB", "1B", "1e6"]
)
def test_what_is_no_memory(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of MiB"):
        parse_memory(text)


@pytest.mark.parametrize("text", ["0.5", "1.0001K", "0.3KiB"])
def test_parts_of_a_byte(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text}: expected a whole number"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1000, "1000 bytes"),
        (1024, "1 KiB"),
        (64 << 30, "64 GiB"),
        (1536 << 20, "1536 MiB"),
        (1 << 70, "1024 EiB"),
    ],
)
def test_how_one_is_shown(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(1, 2**80), st.integers(0, 7))
def test_what_is_shown_can_be_read(size: int, power: int) -> None:
    size <<= 10 * power
    assert parse_size(format_size(size).removesuffix(" bytes")) == size
