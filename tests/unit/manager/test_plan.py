# SPDX-License-Identifier: Apache-2.0
"""Plans: what is refused before anything is changed."""

import shutil
import tarfile
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from lxc_userns.containers import ContainerSpec
from lxc_userns.exceptions import (
    ArgumentError,
    ConfigError,
    InstanceError,
    NoSuchContainerError,
    ReplacedError,
    RootfsError,
)
from lxc_userns.idmap import IdMaps
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.spec.rootfs_kind import RootfsKind
from tests.unit.id_host import IdHost
from tests.unit.manager.world import HELD, ID_MAP, MAPS, OTHER, World


@pytest.mark.parametrize("verb", ["plan", "allocate", "prepare"])
@pytest.mark.parametrize("given", [None, MAPS])
def test_ids_of_a_user_of_the_host_stop_a_start(
    world: World, alice: Callable[[], None], verb: str, given: IdMaps | None
) -> None:
    alice()
    request = replace(world.request, id_maps=given)
    subject = "uid_maps of web1" if given else r"\[libvirt\] uid_maps"
    with pytest.raises(ConfigError, match=f"{subject} = .*{HELD}"):
        world.verb(verb)(request)
    assert world.log == []
    assert world.services.store.load("web1") is None
    world.set(held_ids="allow")
    assert world.verb(verb)(request).id_maps == MAPS


def test_ids_of_a_new_user_stop_a_later_start(
    world: World, alice: Callable[[], None]
) -> None:
    spec = ContainerSpec("web1", world.rootfs)
    world.containers.run(spec)
    world.containers.stop("web1")
    alice()
    with pytest.raises(ConfigError, match=f"uid_maps of web1 = .*{HELD}"):
        world.containers.start("web1")
    assert not world.guests.domains["web1"].is_active
    with pytest.raises(ConfigError, match=HELD):
        world.containers.run(replace(spec, name="web2"))
    world.set(held_ids="allow")
    world.containers.start("web1")


def test_a_problem_of_the_configuration_stops_a_later_start(
    world: World,
) -> None:
    world.containers.run(ContainerSpec("web1", world.rootfs))
    world.containers.stop("web1")
    world.set(uid_maps=["0:0:1"])
    with pytest.raises(ConfigError, match="uid_maps = 0:0:1"):
        world.containers.start("web1")


@pytest.mark.parametrize("verb", ["plan", "allocate", "prepare"])
@pytest.mark.parametrize(("name", "mode"), [("state", 0o700), ("run", 0o711)])
def test_directories_of_ours_are_looked_at_first(
    world: World, tmp_path: Path, verb: str, name: str, mode: int
) -> None:
    path = tmp_path / name
    path.mkdir()
    path.chmod(0o755)
    with pytest.raises(ConfigError) as caught:
        world.verb(verb)(world.request)
    assert str(caught.value) == (
        f"[lxc_userns] {name}_path = {path}: {path} has mode 0755, it may "
        f"have {mode:04o} at most; chmod {mode:04o} {path}"
    )
    assert not hasattr(caught.value, "__notes__")
    assert world.log == []
    assert [*path.iterdir()] == []


def test_a_name_means_the_same_to_all(world: World) -> None:
    """A container of others is seen by all commands, and changed by none."""
    containers = world.containers
    containers.run(ContainerSpec("web1", world.rootfs))
    world.guests.add("theirs")
    shown = containers.show("theirs")
    assert (shown.state, shown.mode, shown.strategy) == (
        "running", "host", None
    )  # fmt: skip
    assert [each.name for each in containers.list()] == ["theirs", "web1"]
    assert containers.list()[0] == shown
    for verb in (containers.start, containers.stop, containers.destroy):
        with pytest.raises(InstanceError, match="that others have made"):
            verb("theirs")
    assert world.guests.domains["theirs"].is_active
    for name in ("show", "start", "stop", "destroy"):
        with pytest.raises(NoSuchContainerError):
            getattr(containers, name)("nosuch")
    with pytest.raises(NoSuchContainerError):
        world.manager.verify("nosuch", started=False)


def test_ids_of_the_pool_are_held_by_no_one_else(
    world: World, id_host: IdHost
) -> None:
    """Maps of a request may be those of a lease."""
    lines = "nova:100000:65536\nlxc-userns:300000:65536"
    id_host.hold(lines, lines)
    with pytest.raises(ConfigError, match="subordinate user IDs of nova"):
        world.plan(replace(world.request, id_maps=MAPS))
    world.set(uid_maps=[], gid_maps=[], subid_owner="nova")
    for maps in (MAPS, OTHER):
        plan = world.plan(replace(world.request, id_maps=maps))
        assert plan.id_maps == maps


def write_tar(path: Path) -> str:
    with tarfile.open(path, "w") as stream:
        stream.addfile(tarfile.TarInfo("file"))
    return str(path)


def test_the_kind_of_a_root_filesystem_is_found_out(
    world: World, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(4096))
    archive = write_tar(tmp_path / "archive")
    found = [
        world.plan(replace(world.request, rootfs=path)).record
        for path in (world.rootfs, str(image), archive)
    ]
    kinds = [each.rootfs_kind for each in found]
    assert kinds == ["directory", "image", "archive"]
    assert [each.archive for each in found] == [None, None, archive]


@pytest.mark.parametrize(
    ("kind", "given", "reason"),
    [
        ("image", "rootfs", "is a directory; give a disk image"),
        ("archive", "rootfs", "is not a tar archive"),
        ("archive", "image", "is not a tar archive"),
        ("image", "archive", "is a tar archive, and no raw image of"),
        ("directory", "image", "is not a directory"),
        ("directory", "archive", "is not a directory"),
    ],
)
def test_the_content_never_decides(
    world: World, tmp_path: Path, kind: RootfsKind, given: str, reason: str
) -> None:
    (tmp_path / "image").write_bytes(bytes(4096))
    write_tar(tmp_path / "archive")
    path = str(tmp_path / given)
    request = replace(world.request, rootfs=path, rootfs_kind=kind)
    with pytest.raises(RootfsError, match=reason):
        world.manager.prepare(request)
    assert world.log == []
    assert world.services.store.load("web1") is None
    assert not (tmp_path / "state/private").exists()


def test_a_kind_that_is_none(world: World) -> None:
    request = replace(world.request, rootfs_kind=cast(Any, "tape"))
    for prepare in (world.manager.allocate, world.manager.prepare):
        with pytest.raises(InstanceError, match="expected directory, image"):
            prepare(request)


def test_a_later_start_opens_the_same_kind(world: World) -> None:
    prepared = world.manager.prepare(world.request)
    assert prepared.record.rootfs_kind == "directory"
    shutil.rmtree(world.rootfs)
    write_tar(Path(world.rootfs))
    with pytest.raises(ReplacedError):
        world.manager.prepare("web1")
    with pytest.raises(RootfsError, match="is not a directory"):
        world.manager.prepare("web1", accept_replaced=True)


def test_a_record_of_before_kinds_were_noted(world: World) -> None:
    prepared = world.manager.prepare(world.request)
    world.services.store.save(replace(prepared.record, rootfs_kind=None))
    world.guests.add("web1")
    assert world.manager.prepare(world.request) == prepared


def test_the_limit_of_processes(world: World) -> None:
    assert world.manager.prepare(world.request).record.max_processes == 4096
    world.set(max_processes=77)
    assert world.manager.prepare(world.request).record.max_processes == 77
    # It runs, and stays with what it was promised.
    world.guests.add("web1")
    world.set(max_processes=99)
    assert world.manager.prepare(world.request).record.max_processes == 77
    asked = replace(world.request, name="web2", max_processes=5)
    other = replace(asked, uuid=str(uuid.uuid4()), rootfs=world.rootfs)
    assert world.plan(other).record.max_processes == 5
    with pytest.raises(ArgumentError, match="max_processes -1"):
        replace(other, max_processes=-1)


def test_maps_of_the_request_come_first(world: World) -> None:
    request = replace(world.request, id_maps=OTHER)
    assert world.manager.prepare(request).id_maps == OTHER


def test_without_maps_the_feature_is_off(world: World) -> None:
    world.set(uid_maps=[], gid_maps=[])
    prepared = world.manager.prepare(world.request)
    assert (prepared.mode, prepared.id_maps) == ("host", None)
    assert prepared.mode_reasons == (
        "user namespaces are off: neither ID maps are configured nor a pool",
    )
    assert prepared.needs_private_network
    assert world.log == ["leave", "mount"]


def test_host_mode_for_want_of_maps_is_a_warning_each_time(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.set(uid_maps=[], gid_maps=[])
    for _ in range(2):
        caplog.clear()
        world.manager.prepare(world.request)
        warned = [
            each.getMessage()
            for each in caplog.records
            if each.levelname == "WARNING"
        ]
        assert warned == [
            "web1: runs in the host's user namespace, and its root is the "
            "host's: user namespaces are off: neither ID maps are configured "
            "nor a pool"
        ]
    world.guests.add("web1")
    caplog.clear()
    world.manager.prepare(world.request)
    assert "its root is the host's" in caplog.text


def test_required_by_somebody_and_nothing_configured(world: World) -> None:
    world.set(uid_maps=[], gid_maps=[])
    prepared = world.manager.prepare(world.request)
    assert prepared.mode == "host"
    world.set(userns_policy="required")
    manager = world.manager
    for verb in (world.plan, manager.allocate, manager.prepare):
        with pytest.raises(ConfigError, match="required: neither"):
            verb(world.request)
    with pytest.raises(ConfigError, match="required: neither"):
        manager.prepare("web1")
    # A request that brings maps asks for nothing that there is not.
    other = replace(world.request, name="web2", id_maps=OTHER)
    assert world.plan(other).mode == "private"


def test_a_misspelt_name_stops_every_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.set(uid_maps=[], gid_maps=[])
    world.manager.prepare(world.request)
    monkeypatch.setenv("OS_LIBVIRT__UID_MAP", str(ID_MAP))
    manager = world.manager
    for verb in (world.plan, manager.allocate, manager.prepare):
        with pytest.raises(ConfigError, match="write OS_LIBVIRT__UID_MAPS"):
            verb(replace(world.request, id_maps=MAPS))
    with pytest.raises(ConfigError, match="write OS_LIBVIRT__UID_MAPS"):
        manager.prepare("web1")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"subid_owner": "lxc"}, "subid_owner = lxc: is set beside"),
        (
            {"subid_owner": "lxc", "uid_maps": [], "gid_maps": []},
            "subid_owner = lxc: lxc has no subordinate user IDs in /etc/su",
        ),
        ({"uid_maps": []}, "uid_maps: is empty, but gid_maps is set"),
        ({"uid_maps": ["0:1"]}, "uid_maps = 0:1: expected"),
        ({"state_path": "state"}, "state_path = state: an absolute path"),
    ],
)
def test_configurations_that_stop_it(
    world: World, values: dict[str, Any], message: str
) -> None:
    world.set(**values)
    with pytest.raises(ConfigError, match=message):
        world.manager.prepare(world.request)
    assert world.log == []


@pytest.mark.parametrize("name", ["state_path", "run_path"])
@pytest.mark.parametrize("where", ["{0}/x/y", "{0}", "{1}"])
def test_a_tree_that_holds_our_own_directories(
    world: World,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    where: str,
) -> None:
    for path in (Path(world.rootfs), tmp_path):
        path.chmod(0o700 if name == "state_path" else 0o711)
    # Neither may be in the other. The default is elsewhere.
    world.conf.clear_override("run_path", "lxc_userns")
    world.set(state_path=str(tmp_path_factory.mktemp("elsewhere") / "x"))
    world.set(**{name: where.format(world.rootfs, tmp_path)})
    with pytest.raises(RootfsError, match=rf"\[lxc_userns\] {name}"):
        world.manager.prepare(world.request)


def test_prepared_instances_compare_by_value(world: World) -> None:
    plan = world.plan(world.request)
    assert plan == PreparedInstance(plan.record)
    assert world.log == []
