# SPDX-License-Identifier: Apache-2.0
"""Leases where a directory service has users."""

import fcntl
import os
from pathlib import Path

import pytest

from lxc_userns.exceptions import (
    PoolExhaustedError,
)
from lxc_userns.leases import allocator as allocator
from tests.unit.id_host import IdHost
from tests.unit.leases.lease_host import BASE, Directory, Host, S

#: First multiple of 200000 from there on.
TWO_DOMAINS = -(-BASE // 200000) * 200000


@pytest.mark.parametrize(
    "number",
    [BASE, BASE + S - 1, BASE + (S - 1) * 7 // 15, TWO_DOMAINS + 500],
)
def test_users_that_are_not_listed_are_not_leased_over(
    host: Host, service: Directory, number: int
) -> None:
    service.names[number] = "carol"
    start = (number - BASE) // S * S + BASE
    for name in "abc":
        if start == BASE and name == "c":
            with pytest.raises(
                PoolExhaustedError, match=rf"carol \({number}\)"
            ):
                host.allocator.acquire(name)
            break
        lease = host.allocator.acquire(name)
        assert number not in lease.ids("uid")
        assert number not in lease.ids("gid")


def test_no_one_waits_for_a_directory_service(
    host: Host, service: Directory, id_host: IdHost, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir(mode=0o700)

    def find(number: int) -> object:
        service.asked.append(number)
        fd = os.open(tmp_path / "state", os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
        raise KeyError

    id_host.find_user = id_host.find_group = find
    host.allocator.acquire("a")
    assert 2 <= len(service.asked) <= 64
    # What it has is not asked about again.
    before = len(service.asked)
    host.allocator.acquire("a")
    assert len(service.asked) == before


def test_a_pool_within_a_directory(host: Host, service: Directory) -> None:
    host.set_pool(f"lxc:{BASE}:{100 * S}\n")
    service.names = dict.fromkeys(range(BASE, BASE + 100 * S, S), "many")
    with pytest.raises(PoolExhaustedError, match="in each of 17 ranges"):
        host.allocator.acquire("a")
    assert host.starts() == {}


def test_a_host_whose_users_are_all_listed(
    host: Host, service: Directory, id_host: IdHost
) -> None:
    for text in ("", "passwd: files systemd\ngroup: compat # sss\n"):
        id_host.file("/etc/nsswitch.conf").write_text(text)
        host.allocator.acquire(f"a{len(text)}")
    assert service.asked == []
