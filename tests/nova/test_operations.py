# SPDX-License-Identifier: Apache-2.0
"""Operations of Nova that are as with its own driver, in a user namespace."""

import json
from collections.abc import Iterator

import pytest

from tests.nova.conftest import ImageFactory, NovaFactory, cleaned
from tests.nova.harness import OTHER_HOST, Nova
from tests.nova.ours import LEASES, is_private, resizable
from tests.nova.server import Server
from tests.waiting import wait_for

BASE = 2_000_000_000

pytestmark = pytest.mark.usefixtures("pool")


@pytest.fixture
def nova(start_nova: NovaFactory, strategy: str) -> Iterator[Nova]:
    """Start one with leases, and look that nothing is left."""
    yield from cleaned(start_nova(resizable(strategy, LEASES)))


@pytest.fixture
def image(nova: Nova, busybox_image: ImageFactory) -> str:
    return nova.add_image(busybox_image("ext4"))


@pytest.fixture
def server(nova: Nova, image: str) -> Server:
    return nova.boot(image)


def names(nova: Nova) -> list[str]:
    """Return the names that the list of all servers has."""
    return [str(each.show()["name"]) for each in nova.servers()]


def test_list_and_rename(nova: Nova, server: Server, image: str) -> None:
    pid = server.init_pid()
    other = nova.boot(image, name="other")
    assert sorted(names(nova)) == ["other", "test"]
    nova.api("PUT", f"/servers/{server.id}", {"server": {"name": "renamed"}})
    assert sorted(names(nova)) == ["other", "renamed"]
    assert server.init_pid() == pid
    other.delete()
    assert names(nova) == ["renamed"]
    assert is_private(server, BASE)


def test_a_rebuild_leases_another_range(server: Server, image: str) -> None:
    assert is_private(server, BASE)
    server.run_in("touch", "/root/note")
    server.action("rebuild", {"imageRef": image})
    server.wait()
    assert server.run_in("ls", "/root/note", check=False).returncode
    ((guest, base, count),) = server.uid_map()
    assert (guest, count) == (0, 65536)
    assert base != BASE
    assert is_private(server, base)


def test_a_rebuild_from_another_image(
    nova: Nova, server: Server, busybox_image: ImageFactory
) -> None:
    other = nova.add_image(busybox_image("partitioned"))
    server.run_in("touch", "/root/note")
    server.action("rebuild", {"imageRef": other})
    server.wait()
    assert server.show()["image"]["id"] == other
    assert server.run_in("ls", "/root/note", check=False).returncode
    ((_, base, _),) = server.uid_map()
    assert is_private(server, base)


def test_two_at_once(nova: Nova, image: str) -> None:
    """Of one request; each has a range of its own."""
    nova.create(image, min_count=2, max_count=2)
    servers = nova.servers()
    bases = []
    for server in servers:
        server.wait()
        ((_, base, _),) = server.uid_map()
        assert is_private(server, base)
        bases.append(base)
    assert sorted(bases) == [BASE, BASE + 65536]


def test_backups(nova: Nova, server: Server) -> None:
    """The oldest goes when there are more than are to be kept."""
    made = []
    for name in ("one", "two", "three"):
        argument = {"name": name, "backup_type": "daily", "rotation": 2}
        made.append(server.action("createBackup", argument)["image_id"])
        server.wait()
        assert is_private(server, BASE)
    found = [nova.image(each) for each in made]
    assert found[0] is None
    assert [each and each["status"] for each in found[1:]] == ["active"] * 2
    again = nova.boot(made[2], name="again")
    ((_, base, _),) = again.uid_map()
    assert is_private(again, base)


def test_the_console_log(server: Server) -> None:
    """Of what the container prints there, and of the last lines alone."""
    server.run_in("sh", "-c", "echo one >/dev/console; echo two >/dev/console")

    def look() -> bool:
        shown = server.action("os-getConsoleOutput", {"length": 50})
        return "one" in shown["output"] and "two" in shown["output"]

    wait_for(look, 30.0)
    shown = server.action("os-getConsoleOutput", {"length": 1})
    assert "one" not in shown["output"]


def test_diagnostics(nova: Nova, server: Server) -> None:
    shown = nova.api("GET", f"/servers/{server.id}/diagnostics")
    assert shown["state"] == "running"
    assert shown["driver"] == "libvirt"
    assert shown["hypervisor"] == "lxc"
    assert is_private(server, BASE)


def test_metadata(nova: Nova, image: str) -> None:
    server = nova.boot(image, config_drive=True, metadata={"role": "web"})
    pid = server.init_pid()
    path = f"/servers/{server.id}/metadata"
    nova.api("POST", path, {"metadata": {"role": "db", "zone": "a"}})
    expected = {"role": "db", "zone": "a"}
    assert nova.api("GET", path) == {"metadata": expected}
    nova.api("DELETE", f"{path}/zone")
    assert server.show()["metadata"] == {"role": "db"}
    # A config drive is as it was made.
    told = "/config-drive/openstack/latest/meta_data.json"
    assert json.loads(server.run_in("cat", told).stdout)["meta"] == {
        "role": "web"
    }
    assert server.init_pid() == pid


def test_live_migration(nova: Nova, server: Server) -> None:
    """Refused before anything is done, by Nova itself."""
    nova.start_other()
    pid = server.init_pid()
    path = f"/servers/{server.id}/action"
    argument = {"host": OTHER_HOST, "block_migration": "auto"}
    answer = nova.ask("api", "POST", path, {"os-migrateLive": argument})
    assert answer["status"] < 300 or answer["status"] in (400, 409)
    if answer["status"] < 300:
        server.what_failed("live-migration")
    server.wait()
    assert server.host != OTHER_HOST
    assert server.init_pid() == pid
    assert is_private(server, BASE)
