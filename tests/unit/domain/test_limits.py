# SPDX-License-Identifier: Apache-2.0
"""Limits of a domain's XML, whoever has written it."""

import pytest

from lxc_userns.domain.limits import (
    BlockDevice,
    ResourceLimits,
    read_limits,
)
from lxc_userns.exceptions import DomainXmlError

MEBIBYTE = 1 << 20


def read(*elements: str) -> ResourceLimits:
    return read_limits(
        "<domain type='lxc'><os><type>exe</type></os>"
        f"{''.join(elements)}</domain>"
    )


def test_nothing() -> None:
    assert read() == ResourceLimits()


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("<memory>65537</memory>", {"memory": 65537 * 1024}),
        ("<memory unit='MiB'>64</memory>", {"memory": 64 * MEBIBYTE}),
        (
            "<memory unit='MiB'>64</memory><currentMemory unit='MiB'>32"
            "</currentMemory>",
            {"memory": 64 * MEBIBYTE, "balloon": 32 * MEBIBYTE},
        ),
        (
            "<memory unit='MiB'>64</memory><memtune><hard_limit unit='MiB'>48"
            "</hard_limit><soft_limit unit='MiB'>32</soft_limit>"
            "<swap_hard_limit unit='MiB'>96</swap_hard_limit></memtune>",
            {
                "memory": 48 * MEBIBYTE,
                "soft_memory": 32 * MEBIBYTE,
                "swap": 96 * MEBIBYTE,
            },
        ),
        # libvirt's word for no limit.
        (
            "<memory unit='MiB'>64</memory><memtune><hard_limit>"
            "9007199254740991</hard_limit></memtune>",
            {},
        ),
        ("<cputune><shares>7</shares></cputune>", {"cpu_weight": 7}),
        ("<cputune><quota>5000</quota></cputune>", {"cpu_quota": 5000}),
        ("<cputune><quota>-1</quota></cputune>", {"cpu_quota": -1}),
        ("<cputune><quota>0</quota></cputune>", {}),
        (
            f"<cputune><quota>{2**44 - 1}</quota><period>9000</period>"
            "</cputune>",
            {"cpu_quota": -1, "cpu_period": 9000},
        ),
        ("<vcpu cpuset='0-3,^2'>1</vcpu>", {"cpus": "0-3,^2"}),
        ("<vcpu placement='auto' cpuset='0'>1</vcpu>", {}),
        (
            "<numatune><memory mode='interleave' nodeset='0'/></numatune>",
            {"nodes": "0"},
        ),
        # libvirt leaves out the nodes of this mode.
        ("<numatune><memory mode='strict' nodeset='0'/></numatune>", {}),
        (
            "<blkiotune><weight>300</weight><device><path>/dev/sda</path>"
            "<read_bytes_sec>5</read_bytes_sec></device></blkiotune>",
            {
                "disk_weight": 300,
                "disks": (BlockDevice("/dev/sda", read_bytes_sec=5),),
            },
        ),
    ],
)
def test_one(element: str, expected: dict[str, object]) -> None:
    assert read(element) == ResourceLimits(**expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "element",
    [
        "<memory>much</memory>",
        "<memory unit='miles'>1</memory>",
        "<cputune><quota>x</quota></cputune>",
        "<cputune><shares>-5</shares></cputune>",
        "<memory unit='b'>1000</memory>",
    ],
)
def test_what_is_no_value(element: str) -> None:
    with pytest.raises(DomainXmlError):
        read(element)
