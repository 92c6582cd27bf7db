# SPDX-License-Identifier: Apache-2.0
"""A service and its privileged helper, a real daemon of oslo.privsep."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lxc_userns import PreparedInstance
from lxc_userns.instances.record import InstanceRecord
from lxc_userns.instances.store import InstanceStore
from lxc_userns.privileged import wire
from tests.functional import images
from tests.functional.command_line import ID_MAP, LONGEST
from tests.nova.user import made_user

pytestmark = pytest.mark.needs("containers", "mounts")

HELPER = Path(sys.executable).with_name("privsep-helper")
REPOSITORY = Path(__file__).parents[2]
MAPS = f"[libvirt]\nuid_maps = {ID_MAP}\ngid_maps = {ID_MAP}\n"
STRANGER = 4321


Call = tuple[str, dict[str, object]]


@dataclass
class Process:
    """A process of the service."""

    process: subprocess.Popen[str]

    def call(self, verb: str, **arguments: object) -> Any:
        """Call the helper once."""
        (answer,) = self.call_at_once((verb, arguments))
        return answer

    def call_at_once(self, *calls: Call) -> list[Any]:
        """Call the helper by as many threads."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(calls), file=self.process.stdin, flush=True)
        answers: list[Any] = json.loads(self.process.stdout.readline())
        return answers


@dataclass
class Service:
    """A service with a configuration, and its helper with another.

    :param strategy: how both have root filesystems mounted.
    """

    directory: Path
    strategy: str = "chown"

    @property
    def instances(self) -> Path:
        """The directory below which the helper takes files."""
        return self.directory / "instances"

    def write(self, name: str, *texts: str, helper: str = "") -> Path:
        """Write a configuration file.

        :param helper: how the helper is started.
        """
        helper = helper or f"{HELPER} --config-file {self.directory}/helper"
        path = self.directory / name
        path.write_text(
            "".join(texts)
            + f"[lxc_userns]\nstate_path = {self.directory}/state\n"
            f"run_path = {self.directory}/run\n"
            f"rootfs_strategy = {self.strategy}\n"
            "[lxc_userns_privileged]\n"
            f"helper_command = {helper}\n"
        )
        return path

    def call(self, verb: str, **arguments: object) -> Any:
        """Call the helper once."""
        (answer,) = self.call_all((verb, arguments))
        return answer

    def call_all(self, *calls: Call) -> list[Any]:
        """Call the helper from a process of the service's own."""
        with self.started() as process:
            return [process.call_at_once(each)[0] for each in calls]

    @contextmanager
    def started(self) -> Iterator[Process]:
        """Start a process of the service, which starts the helper."""
        module = "tests.functional.privileged_call"
        argv = [sys.executable, "-W", "ignore", "-m", module]
        with subprocess.Popen(
            [*argv, self.directory / "service"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Process(process)
                process.communicate(timeout=LONGEST)
            finally:
                process.kill()
        assert process.returncode == 0

    def request(self, rootfs: Path, **fields: object) -> dict[str, Any]:
        """Ask for an instance."""
        made = {"name": "web1", "uuid": str(uuid.uuid4())}
        kind = "directory" if rootfs.is_dir() else "image"
        given = {"rootfs": str(rootfs), "rootfs_kind": kind}
        return {**made, **given, **fields}

    def kept(self, name: str) -> InstanceRecord | None:
        """Read what the helper has promised."""
        return InstanceStore(f"{self.directory}/state").load(name)


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
    assert made.call("release", instance="web1") == {"result": None}


def result_of(answer: dict[str, Any]) -> Any:
    """Return what a call has given."""
    assert "result" in answer, answer
    return answer["result"]


def test_what_is_below_the_roots(service: Service) -> None:
    assert service.call("find_problems") == {"result": []}
    one = service.instances / "one"
    request = service.request(
        one, volumes=[f"{service.instances}/two:/data:chown"]
    )
    (service.instances / "two").mkdir()
    answer = result_of(service.call("prepare", request=request))
    prepared = wire.decode("prepare", "result", PreparedInstance, answer)
    assert prepared.record == service.kept("web1")
    assert prepared.mode == "private"
    assert [each.target for each in prepared.filesystems] == ["/", "/data"]
    assert one.stat().st_uid == 1_900_000_000
    # By its name, as it was promised.
    again = result_of(service.call("prepare", request="web1"))
    assert again == answer


@pytest.mark.parametrize("verb", ["find_problems", "allocate", "prepare"])
def test_a_helper_without_the_maps(service: Service, verb: str) -> None:
    """nova-compute has them twice, and helper_command once."""
    paths = f"[DEFAULT]\ninstances_path = {service.instances}\n"
    service.write("helper", paths)
    one = service.instances / "one"
    asked = (
        {} if verb == "find_problems" else {"request": service.request(one)}
    )
    answer = service.call(verb, **asked)
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
    calls: list[Call] = []
    for path in (
        str(secret),
        str(service.instances),
        str(service.instances / "link"),
        str(service.instances / "up/secret"),
        f"{service.instances}/../secret",
    ):
        volume = f"{path}:/data:chown,suid,dev"
        calls += [
            ("prepare", {"request": service.request(Path(path))}),
            ("prepare", {"request": service.request(one, volumes=[volume])}),
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
    answer = service.call("prepare", request=service.request(one))
    assert answer["error"] == "RootfsError", answer
    assert "is a symbolic link" in answer["text"]
    assert secret.stat().st_uid == 0
    (problem,) = service.call("find_problems")["result"]
    assert problem.startswith("[lxc_userns_privileged] roots = ")
    assert "is a symbolic link" in problem


def test_links_to_files_of_root(service: Service) -> None:
    """A service may make them where the kernel does not forbid it."""
    one = service.instances / "one"
    secret = service.directory / "secret"
    secret.touch(mode=0o600)
    (one / "link").hardlink_to(secret)
    setting = service.directory / "setting"
    setting.write_text("0\n")
    sysctl = "/proc/sys/fs/protected_hardlinks"
    request = service.request(one)
    with ExitStack() as stack:
        subprocess.run(["mount", "--bind", setting, sysctl], check=True)
        stack.callback(subprocess.run, ["umount", sysctl], check=True)
        answers = service.call_all(
            ("prepare", {"request": request}),
            ("allocate", {"request": request}),
            ("prepare", {"request": "web1"}),
        )
        (problem,) = service.call("find_problems")["result"]
    for answer in answers:
        assert answer["error"] == "PrerequisiteError", answer
        assert answer["text"] == problem
    assert "protected_hardlinks is 0" in problem
    assert secret.stat().st_uid == 0
    assert service.kept("web1") is None


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
    assert "result" in service.call("prepare", request=request)
    assert service.call("release", instance="web1") == {"result": None}
    # But no one else's.
    for path in (nova, one.parent):
        os.chown(path, STRANGER + 1, STRANGER)
        if path == one.parent:
            os.chown(nova, STRANGER, STRANGER)
        answer = service.call("prepare", request=request)
        assert answer["error"] == "RootfsError", answer
        assert "who could replace" in answer["text"]
        (problem,) = service.call("find_problems")["result"]
        assert "who could replace" in problem
        os.chown(path, STRANGER, STRANGER)


@pytest.mark.parametrize(
    ("field", "value"), [("strategy", "chown"), ("max_processes", 0)]
)
def test_what_only_the_configuration_chooses(
    service: Service, field: str, value: object
) -> None:
    one = service.instances / "one"
    request = service.request(one, **{field: value})
    answer = service.call("prepare", request=request)
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
        others: list[Call] = [
            ("prepare", {"request": service.request(directory / name)})
            for name in ("null", "image", "theirs")
        ]
        for answer in service.call_all(*others):
            assert answer["error"] == "RootfsError", answer
        # Its own name is elsewhere.
        answer = service.call("prepare", request=service.request(Path(device)))
        assert "is not below" in answer["text"]
        request = service.request(directory / "disk")
        answer = service.call("prepare", request=request)
        assert answer["result"]["record"]["uuid"] == request["uuid"], answer
        # Nothing says that the device's own name was meant.
        answer = service.call("prepare", request="web1")
        assert "is not below" in answer["text"]
        assert service.call("release", instance="web1") == {"result": None}
    finally:
        for link in directory.iterdir():
            link.unlink()
        directory.rmdir()
        subprocess.run(["losetup", "--detach", device], check=True)


def libvirt_clients() -> dict[int, int]:
    """The process ID of each client of libvirtd, by a number never reused."""
    admin = ["virt-admin", "--quiet"]
    listed = subprocess.check_output([*admin, "client-list", "libvirtd"])
    found = {}
    for number in (int(line.split()[0]) for line in listed.splitlines()):
        info = [*admin, "client-info", "libvirtd", str(number)]
        shown = subprocess.run(info, capture_output=True, text=True).stdout
        for line in shown.splitlines():
            if line.startswith("unix_process_id"):
                found[number] = int(line.rpartition(":")[2])
    return found


def refuse_at_once(process: Process, *looks: Call) -> None:
    """Verify instances that do not run."""
    for answer in process.call_at_once(*looks):
        assert answer["error"] == "NotRunningError", answer


def test_one_connection_for_all_calls(service: Service) -> None:
    before = libvirt_clients()

    def mine() -> dict[int, int]:
        now = libvirt_clients()
        return {each: now[each] for each in now.keys() - before.keys()}

    names = [f"web{number}" for number in range(6)]
    asked: list[Call] = []
    for name in names:
        (service.instances / name).mkdir()
        request = service.request(service.instances / name, name=name)
        asked.append(("prepare", {"request": request}))
    # What was just started is looked for in libvirt.
    looks: list[Call] = [
        ("verify", {"instance": name, "started": True}) for name in names
    ]
    done: list[Call] = [("release", {"instance": name}) for name in names]
    with service.started() as process:
        for answer in process.call_at_once(*asked, *asked):
            result_of(answer)
        refuse_at_once(process, *looks, *looks)
        first = mine()
        assert len(first) == 1
        refuse_at_once(process, *looks)
        assert mine() == first
        # As after a restart of libvirtd.
        (number,) = first
        argv = ["virt-admin", "client-disconnect", "libvirtd", str(number)]
        subprocess.run(argv, check=True, capture_output=True)
        refuse_at_once(process, *looks)
        second = mine()
        assert len(second) == 1
        assert second.keys() != first.keys()
        assert [*second.values()] == [*first.values()]
        # Another helper is started where one is gone.
        os.kill(second.popitem()[1], signal.SIGKILL)
        (answer,) = process.call_at_once(looks[0])
        # It depends on whether this was sent before its end was seen.
        assert answer["error"] in ("NotRunningError", "PrerequisiteError")
        refuse_at_once(process, *looks)
        assert len(mine()) == 1
        assert process.call_at_once(*done) == [{"result": None}] * len(done)
    for name in names:
        assert service.kept(name) is None


def test_errors_have_what_they_have_in_one_process(service: Service) -> None:
    absent = service.instances / "absent"
    answer = service.call("prepare", request=service.request(absent))
    assert answer["error"] == "RootfsError"
    assert answer["attributes"]["path"] == str(absent)
    assert answer["text"] == f"{absent}: {answer['attributes']['reason']}"
    one = service.instances / "one"
    request = service.request(one, needs={"mode": "host"})
    answer = service.call("prepare", request=request)
    assert answer["error"] == "PolicyError", answer
    assert answer["attributes"]["name"] == "web1"
    assert answer["attributes"]["reasons"]
    answer = service.call("verify", instance="absent", started=True)
    assert answer["error"] == "NoSuchContainerError"
    service.write("service", MAPS, "[lxc_userns_privileged]\n")
    text = (service.directory / "service").read_text()
    broken = text.replace(str(HELPER), "/nonexistent/helper")
    (service.directory / "service").write_text(broken)
    answer = service.call("release", instance="web1")
    (service.directory / "service").write_text(text)
    assert answer["error"] == "PrerequisiteError"
    assert "[lxc_userns_privileged] helper_command" in answer["text"]


@pytest.mark.parametrize("verbs", ["manager", "privileged"])
@pytest.mark.parametrize("strategy", ["chown", "idmapped"])
def test_a_driver_of_root_and_of_a_user(
    libvirt_connection: libvirt.virConnect,
    reachable_path: Path,
    verbs: str,
    strategy: str,
) -> None:
    """It is the same text."""
    made = Service(reachable_path / "nova-service", strategy)
    tmp, config = made.directory / "tmp", made.directory / "nova.conf"
    for path in (made.directory, made.instances, tmp):
        path.mkdir()
    image = images.make_image(
        "ext4",
        made.instances / "disk",
        32,
        root=busybox(reachable_path / "busybox"),
    )
    (reachable_path / "user").mkdir(mode=0o711)
    with ExitStack() as stack:
        argv: list[str] = []
        paths = f"[DEFAULT]\ninstances_path = {made.instances}\n"
        helper = f"{HELPER} --config-file {config}"
        if verbs == "privileged":
            user = stack.enter_context(made_user(reachable_path / "user"))
            for path in (made.instances, image, tmp):
                os.chown(path, user.uid, user.gid)
            argv = user.setpriv()
            helper = f"{' '.join(user.helper)} --config-file {config}"
        made.write("nova.conf", MAPS, paths, helper=helper)
        module = "tests.functional.compute_driver"
        done = subprocess.run(
            [*argv, sys.executable, "-W", "ignore", "-m", module,
             config, verbs, image],
            cwd=REPOSITORY,
            env={**os.environ, "TMPDIR": str(tmp)},
            stdout=subprocess.PIPE,
            check=True,
            timeout=LONGEST,
        )  # fmt: skip
    found = json.loads(done.stdout)
    assert (found["uid"] != 0) == (verbs == "privileged")
    assert found["strategy"] == strategy
    spawned, again = found["verified"]
    assert spawned["pid"] != again["pid"]
    assert spawned == {
        "name": "web1",
        "mode": "private",
        "pid": spawned["pid"],
        "uid_map": ID_MAP,
        "gid_map": ID_MAP,
        "was_verified": True,
    }
    assert again == {**spawned, "pid": again["pid"]}
    assert made.kept("web1") is None
    assert str(made.directory) not in Path("/proc/self/mountinfo").read_text()
    assert not libvirt_connection.listAllDomains()


def busybox(path: Path) -> Path:
    """Make a root filesystem of busybox."""
    images.make_busybox(path)
    return path
