# SPDX-License-Identifier: Apache-2.0
"""Leases released: what they were is not leased again too soon."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from lxc_userns.exceptions import (
    LeaseError,
    PoolExhaustedError,
)
from lxc_userns.leases import allocator as allocator
from lxc_userns.leases import shifted_trees
from lxc_userns.rootfs.shifting.state import State, Work
from lxc_userns.spec.strategy import Strategy
from lxc_userns.spec.volume import Volume
from tests.unit.leases.lease_host import (
    BASE,
    OTHER_UUID,
    UUID,
    Host,
    S,
    Shift,
    maps,
    record,
    use,
)


def test_what_is_shifted_is_not_leased_again(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    host.set_pool(f"lxc:{BASE}:{S}\n")
    tree = tmp_path / "tree"
    tree.mkdir()
    for state, is_free in (
        (State(maps(BASE)), False),
        (State(None, Work(maps(BASE), "keep")), False),
        (State(maps(BASE + S - 1, 10)), False),
        (State(maps(BASE + S)), True),
        (None, True),
    ):
        use(host, "a", tree)
        shifted(str(tree), state)
        # While it has the lease there is nothing to wait for.
        assert host.allocator.pool.usage().waiting == ()
        host.allocator.release("a")
        if not is_free:
            with pytest.raises(PoolExhaustedError, match=f"unshift {tree}$"):
                host.allocator.acquire("a")
            assert {e.path for e in host.allocator.pool.usage().waiting} == {
                str(tree)
            }
            shifted(str(tree), None)
        assert host.allocator.pool.usage().free == 1
        assert host.allocator.acquire("a").uid_start == BASE
        with host.allocator.leases.read() as leases:
            assert leases.trees() == []
        host.allocator.release("a")


def test_trees_that_are_gone(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    """All that an instance ever had, whatever it has now."""
    host.set_pool(f"lxc:{BASE}:{S}\n")
    tree, image = tmp_path / "tree", tmp_path / "image"
    tree.mkdir()
    image.touch()
    shifted(str(tree), State(maps(BASE)))
    use(host, "a", tree, "auto")
    use(host, "a", image)
    host.allocator.release("a")
    with pytest.raises(PoolExhaustedError, match=f"{image}, {tree}$"):
        host.allocator.acquire("a")
    tree.rename(tmp_path / "away")
    with pytest.raises(PoolExhaustedError, match=f"unshift {image}$"):
        host.allocator.acquire("a")
    image.unlink()
    assert host.allocator.acquire("a").uid_start == BASE


@pytest.mark.parametrize("how", ["idmapped", "overlay"])
def test_what_is_not_shifted_on_disk_is_nothing_to_wait_for(
    host: Host, tmp_path: Path, how: str
) -> None:
    host.set_pool(f"lxc:{BASE}:{S}\n")
    (tmp_path / "file").touch()
    use(host, "a", tmp_path, how)
    use(host, "a", tmp_path / "file", how)
    host.allocator.release("a")
    assert host.allocator.pool.usage().waiting == ()
    assert host.allocator.acquire("b").uid_start == BASE


def test_a_volume_that_is_shifted(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    host.set_pool(f"lxc:{BASE}:{S}\n")
    shifted(str(tmp_path), State(maps(BASE)))
    (tmp_path / "file").touch()
    lease = host.allocator.acquire("a")
    volumes = (
        Volume(str(tmp_path), "/a", "chown"),
        Volume(str(tmp_path / "file"), "/b", "none"),
    )
    with host.allocator.commit_record(
        record("a", lease.id_maps, volumes=volumes)
    ):
        pass
    host.allocator.release("a")
    assert {e.path for e in host.allocator.pool.usage().waiting} == {
        str(tmp_path)
    }


def test_a_tree_that_is_shifted_by_hand(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    host.set_pool(f"lxc:{BASE}:{S}\n")
    shifted_trees.record_shift(host.allocator.leases, "/nowhere", maps(BASE))
    assert not host.allocator.leases.exists
    host.allocator.acquire("a")
    shifted_trees.record_shift(
        host.allocator.leases, str(tmp_path), maps(BASE, 10)
    )
    shifted(str(tmp_path), State(maps(BASE, 10)))
    host.allocator.release("a")
    with pytest.raises(PoolExhaustedError, match=f"unshift {tmp_path}$"):
        host.allocator.acquire("b")


def test_a_tree_that_cannot_be_read_counts_as_shifted(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    host.set_pool(f"lxc:{BASE}:{S}\n")
    use(host, "a", tmp_path)
    host.allocator.release("a")
    with pytest.raises(PoolExhaustedError):
        host.allocator.acquire("a")


def test_what_a_directory_says_of_itself(tmp_path: Path) -> None:
    """It is not opened, for whoever shifts it has locked it."""
    tmp_path.chmod(0)
    nothing = {errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM}
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        shifted_trees.read_state(str(tmp_path))
    assert caught.value.errno in nothing
    with pytest.raises(FileNotFoundError):
        shifted_trees.read_state(f"{tmp_path}x")


def test_releasing_by_hand(host: Host) -> None:
    host.allocator.release_unused("a")
    lease = host.allocator.acquire("a")
    host.run(4000, lease.uid_start + 5, 1)
    with pytest.raises(LeaseError, match="in use by the running process 4000"):
        host.allocator.release_unused("a")
    host.processes.clear()
    host.save("a", maps(lease.uid_start))
    with pytest.raises(LeaseError, match="until it is destroyed or released"):
        host.allocator.release_unused("a")
    host.allocator.instances.store.remove("a")
    host.allocator.release_unused("a")
    assert host.allocator.find("a") is None


def test_as_it_was(host: Host) -> None:
    assert host.allocator.restore_lease("a", None)
    before = host.allocator.acquire("a")
    host.allocator.acquire("a", UUID)
    assert not host.allocator.restore_lease("a", before)
    assert host.allocator.find("a") == before
    assert host.allocator.acquire("a", OTHER_UUID).uuid == OTHER_UUID
    # Not while it is promised to it.
    host.save("a", before.id_maps)
    assert not host.allocator.restore_lease("a", None)
    assert host.allocator.find("a") == replace(before, uuid=OTHER_UUID)
    host.allocator.instances.store.remove("a")
    assert host.allocator.restore_lease("a", None)
    assert host.allocator.find("a") is None


def test_a_tree_of_a_record_without_a_lease(
    host: Host, tmp_path: Path, shifted: Shift
) -> None:
    """The database was lost; what is released is noted all the same."""
    tree = tmp_path / "tree"
    tree.mkdir()
    shifted(str(tree), State(maps(BASE)))
    known = record("a", maps(BASE), strategy=Strategy.CHOWN, rootfs=str(tree))
    host.allocator.acquire("b")
    host.allocator.release("a", known)
    with host.allocator.leases.read() as leases:
        assert {each.path for each in leases.trees()} == {str(tree)}
