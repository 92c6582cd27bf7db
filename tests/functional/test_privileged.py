# SPDX-License-Identifier: Apache-2.0
"""A service and its privileged helper, a real daemon of oslo.privsep."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional import images
from tests.functional.command_line import ID_MAP, LONGEST

pytestmark = pytest.mark.needs("containers", "mounts")

HELPER = Path(sys.executable).with_name("privsep-helper")
REPOSITORY = Path(__file__).parents[2]
MAPS = f"[libvirt]\nuid_maps = {ID_MAP}\ngid_maps = {ID_MAP}\n"
STRANGER = 4321


@dataclass
class Service:
    """A service with a configuration, and its helper with another."""

    directory: Path

    @property
    def instances(self) -> Path:
        """The directory below which the helper takes files."""
        return self.directory / "instances"

    def write(self, name: str, *texts: str) -> Path:
        """Write a configuration file."""
        path = self.directory / name
        path.write_text(
            "".join(texts)
            + f"[lxc_userns]\nstate_path = {self.directory}/state\n"
            f"run_path = {self.directory}/run\n"
            "rootfs_strategy = chown\n"
            "[lxc_userns_privileged]\n"
            f"helper_command = {HELPER} "
            f"--config-file {self.directory}/helper\n"
        )
        return path

    def call(self, verb: str, *arguments: object) -> Any:
        """Call the helper once."""
        (answer,) = self.call_all([verb, *arguments])
        return answer

    def call_all(self, *calls: list[object]) -> Any:
        """Call the helper from a process of the service's own."""
        module = "tests.functional.privileged_call"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", module,
             self.directory / "service", json.dumps(calls)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            check=True,
            timeout=LONGEST,
        )  # fmt: skip
        return json.loads(done.stdout)

    def request(self, rootfs: Path, **fields: object) -> dict[str, Any]:
        """Ask for an instance."""
        made = {"name": "web1", "uuid": str(uuid.uuid4())}
        kind = "directory" if rootfs.is_dir() else "image"
        given = {"rootfs": str(rootfs), "rootfs_kind": kind}
        return {**made, **given, **fields}


@pytest.fixture
def service(
    libvirt_connection: libvirt.virConnect, reachable_path: Path
) -> Iterator[Service]:
    """Make one whose helper has the same configuration."""
    made = Service(reachable_path)
    paths = f"[DEFAULT]\ninstances_path = {made.instances}\n"
    for name in ("service", "helper"):
        made.write(name, MAPS, paths)
    (made.instances / "one").mkdir(parents=True)
    yield made
    assert made.call("release", "web1") == {"result": None}


def test_what_is_below_the_roots(service: Service) -> None:
    assert service.call("find_problems") == {"result": []}
    one = service.instances / "one"
    prepared = service.call("prepare", service.request(one))["result"]
    assert prepared["mode"] == "private"
    assert one.stat().st_uid == 1_900_000_000


@pytest.mark.parametrize("verb", ["find_problems", "reserve", "prepare"])
def test_a_helper_without_the_maps(service: Service, verb: str) -> None:
    """nova-compute has them twice, and helper_command once."""
    paths = f"[DEFAULT]\ninstances_path = {service.instances}\n"
    service.write("helper", paths)
    one = service.instances / "one"
    arguments = [] if verb == "find_problems" else [service.request(one)]
    answer = service.call(verb, *arguments)
    assert answer["error"] == "ConfigError", answer
    for name in ("uid_maps", "gid_maps"):
        assert (
            f"[libvirt] {name} is '{ID_MAP}' in the service, and '' in its "
            "privileged helper"
        ) in answer["text"]
    assert not (service.directory / "state").exists()
    service.write("helper", MAPS, paths)


def test_a_directory_of_the_host(service: Service) -> None:
    """The service's user had any directory given to the container's root."""
    secret = service.directory / "secret"
    secret.mkdir(mode=0o700)
    (service.instances / "link").symlink_to(secret)
    (service.instances / "up").symlink_to("..")
    one = service.instances / "one"
    calls: list[list[object]] = []
    for path in (
        str(secret),
        str(service.instances),
        str(service.instances / "link"),
        str(service.instances / "up/secret"),
        f"{service.instances}/../secret",
    ):
        volume = {
            "source": path,
            "target": "/data",
            "owners": "chown",
            **dict.fromkeys(("readonly", "nosuid", "nodev"), False),
        }
        calls += [
            ["prepare", service.request(Path(path))],
            ["prepare", service.request(one, volumes=[volume])],
        ]
    answers = service.call_all(*calls)
    assert len(answers) == len(calls)
    for call, answer in zip(calls, answers, strict=True):
        error = answer.get("error")
        assert error in ("RootfsError", "VolumeError"), (call, answer)
    assert secret.stat().st_uid == 0
    assert (service.instances / "one").stat().st_uid == 0


def test_a_root_that_the_service_has_swapped(service: Service) -> None:
    """Nova owns what is above its instances_path."""
    secret = service.directory / "secret/one"
    secret.mkdir(parents=True)
    service.instances.rename(service.directory / "moved")
    service.instances.symlink_to(secret.parent)
    one = service.instances / "one"
    answer = service.call("prepare", service.request(one))
    assert answer["error"] == "RootfsError", answer
    assert "is a symbolic link" in answer["text"]
    assert secret.stat().st_uid == 0
    (problem,) = service.call("find_problems")["result"]
    assert problem.startswith("[lxc_userns_privileged] roots = ")
    assert "is a symbolic link" in problem


def test_directories_of_the_services_own_user(service: Service) -> None:
    """Nova has its own, above and below."""
    nova = service.directory / "nova"
    one = nova / "instances/one"
    one.mkdir(parents=True)
    paths = f"[DEFAULT]\ninstances_path = {nova}/instances\n"
    service.write("helper", MAPS, paths)
    for path in (nova, one.parent):
        os.chown(path, STRANGER, STRANGER)
    request = service.request(one)
    assert service.call("find_problems") == {"result": []}
    assert service.call("prepare", request)["result"]["mode"] == "private"
    assert service.call("release", "web1") == {"result": None}
    # But nobody else's.
    for path in (nova, one.parent):
        os.chown(path, STRANGER + 1, STRANGER)
        if path == one.parent:
            os.chown(nova, STRANGER, STRANGER)
        answer = service.call("prepare", request)
        assert answer["error"] == "RootfsError", answer
        assert "who could replace" in answer["text"]
        (problem,) = service.call("find_problems")["result"]
        assert "who could replace" in problem
        os.chown(path, STRANGER, STRANGER)


@pytest.mark.parametrize(
    ("field", "value"), [("strategy", "plain"), ("id_maps", [[0, 0, 1]])]
)
def test_what_only_the_configuration_chooses(
    service: Service, field: str, value: object
) -> None:
    one = service.instances / "one"
    answer = service.call("prepare", service.request(one, **{field: value}))
    assert answer["error"] == "InstanceError"
    assert f"cannot choose {field}" in answer["text"]


def test_devices_of_a_directory_that_is_named(
    service: Service, tmp_path: Path
) -> None:
    """LVM and udev have links of root's to block devices."""
    image = tmp_path / "image"
    images.make_image("ext4", image, 16)
    found = subprocess.run(
        ["losetup", "--find", "--show", image],
        check=True,
        capture_output=True,
        text=True,
    )
    device = found.stdout.strip()
    directory = Path(f"/dev/lxc-userns-{uuid.uuid4()}")
    directory.mkdir(mode=0o755)
    try:
        (directory / "disk").symlink_to(f"..{device.removeprefix('/dev')}")
        (directory / "null").symlink_to("../null")
        (directory / "image").symlink_to(image)
        (directory / "theirs").symlink_to(f"..{device.removeprefix('/dev')}")
        os.lchown(directory / "theirs", STRANGER, STRANGER)
        text = f"[lxc_userns_privileged]\nroots = {directory}\n"
        service.write("helper", MAPS, text)
        others: list[list[object]] = [
            ["prepare", service.request(directory / name)]
            for name in ("null", "image", "theirs")
        ]
        for answer in service.call_all(*others):
            assert answer["error"] == "RootfsError", answer
        # Its own name is elsewhere.
        answer = service.call("prepare", service.request(Path(device)))
        assert "is not below" in answer["text"]
        request = service.request(directory / "disk")
        answer = service.call("prepare", request)
        assert answer["result"]["mode"] == "private", answer
        assert service.call("release", "web1") == {"result": None}
    finally:
        for link in directory.iterdir():
            link.unlink()
        directory.rmdir()
        subprocess.run(["losetup", "--detach", device], check=True)
