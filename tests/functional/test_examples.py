# SPDX-License-Identifier: Apache-2.0
"""The services of ``examples/``, against a real libvirtd."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import pytest

import lxc_userns
from examples import driver as example
from lxc_userns import InstanceRequest
from lxc_userns.exceptions import (
    InstanceError,
    IsolationError,
    NoSuchContainerError,
)
from tests.functional.command_line import ID_MAP, CommandLine
from tests.functional.guest import HOST_USER
from tests.samples import TOP
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("private-libvirtd", "containers")

UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
DOMAIN = """\
<domain type='lxc'><name>web</name><memory unit='MiB'>128</memory>
<os><type>exe</type><init>{}</init><initarg>1000</initarg></os>
<devices><console type='pty'/></devices></domain>
"""


@pytest.fixture
def cli(
    libvirt_connection: libvirt.virConnect,
    tmp_path: Path,
    reachable_path: Path,
) -> Iterator[CommandLine]:
    """The host of a service, on which it is to leave nothing."""
    made = CommandLine.make(tmp_path, reachable_path / "run")
    yield made
    assert libvirt_connection.listAllDomains() == []
    assert made.mounts() == []
    assert made.services().store.load_all() == []


def uid_map(pid: int) -> str:
    return ":".join(Path(f"/proc/{pid}/uid_map").read_text().split())


# The driver


@pytest.fixture
def driver(cli: CommandLine) -> Iterator[example.Driver]:
    """A driver whose instance is deleted in the end, whatever it is."""
    made = example.make_driver(str(cli.config))
    yield made
    made.delete("web")


def test_driver(
    driver: example.Driver,
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    request = InstanceRequest("web", UUID, str(busybox_rootfs))
    driver.spawn(request, DOMAIN.format("/bin/sleep"))
    domain = libvirt_connection.lookupByName("web")
    shown = cli.json("container", "show", "web")
    assert (shown["state"], domain.isActive()) == ("running", 1)
    assert uid_map(shown["init_pid"]) == ID_MAP
    driver.verify("web")
    driver.stop("web")
    assert (domain.isActive(), cli.mounts()) == (0, [])
    driver.stop("web")
    with pytest.raises(InstanceError, match="web: is unmounted; call prepa"):
        driver.verify("web")
    driver.start("web")
    driver.verify("web")
    # Who repeats it ends nothing.
    with pytest.raises(InstanceError, match="web: is running"):
        driver.start("web")
    with pytest.raises(InstanceError, match="web: is running"):
        driver.spawn(request, DOMAIN.format("/bin/sleep"))
    driver.verify("web")
    assert domain.isActive()
    driver.delete("web")
    assert cli.mounts() == []
    driver.delete("web")
    with pytest.raises(NoSuchContainerError, match="web: is unknown"):
        driver.start("web")


def test_driver_leaves_nothing_of_a_spawn_that_fails(
    driver: example.Driver, cli: CommandLine, busybox_rootfs: Path
) -> None:
    request = InstanceRequest("web", UUID, str(busybox_rootfs))
    with pytest.raises(libvirt.libvirtError, match="/absent"):
        driver.spawn(request, DOMAIN.format("/absent"))
    assert cli.services().store.load_all() == []
    other = DOMAIN.format("/bin/sleep").replace("web<", "other<")
    with pytest.raises(InstanceError, match="<name> 'other'"):
        driver.spawn(request, other)
    assert cli.services().store.load_all() == []


def test_driver_does_not_run_what_differs(
    driver: example.Driver,
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """Somebody else has edited its domain."""
    request = InstanceRequest("web", UUID, str(busybox_rootfs))
    driver.spawn(request, DOMAIN.format("/bin/sleep"))
    driver.stop("web")
    domain = libvirt_connection.lookupByName("web")
    xml = domain.XMLDesc()
    before, rest = xml.split("<idmap>")
    domain.undefine()
    libvirt_connection.defineXML(before + rest.split("</idmap>")[1])
    with pytest.raises(IsolationError, match="it was destroyed"):
        driver.start("web")
    assert cli.mounts() == []
    assert not libvirt_connection.lookupByName("web").isActive()


def test_driver_is_short() -> None:
    text = (TOP / "examples/driver.py").read_text()
    code = [each for each in text.splitlines() if each.strip()]
    assert len([each for each in code if '"""' not in each]) < 50


# The service


class Service:
    """Client of the service.

    :param path: its socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_there(self) -> bool:
        """Return whether it listens: the socket is there a moment before."""
        try:
            self.send()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def send(self, *lines: bytes) -> list[dict[str, Any]]:
        """Send lines by one connection, and receive as many answers."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.path))
            connection.sendall(b"".join(lines))
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile() as answers:
                return [json.loads(each) for each in answers]

    def ask(self, do: str, **values: Any) -> Any:
        """Ask for something that goes well."""
        answer = self.call(do, **values)
        assert list(answer) == ["ok"], answer
        return answer["ok"]

    def call(self, do: str, **values: Any) -> dict[str, Any]:
        """Ask for something."""
        (answer,) = self.send(
            json.dumps({"do": do, **values}).encode() + b"\n"
        )
        return answer


@pytest.fixture
def service(cli: CommandLine, reachable_path: Path) -> Iterator[Service]:
    """Run the service for a test."""
    path = reachable_path / "service.sock"
    argv = [sys.executable, "-m", "examples.compute_service"]
    with subprocess.Popen(
        [*argv, str(cli.config), str(path)], cwd=TOP
    ) as process:
        try:
            made = Service(path)
            wait_for(lambda: made.is_there() or process.poll() is not None)
            yield made
            for each in made.ask("list"):
                made.ask("delete", name=each["name"])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert process.returncode == 0
    assert not path.exists()


def test_service(
    service: Service, cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    spawned = service.ask(
        "spawn",
        name="web",
        rootfs=str(busybox_rootfs),
        init=["/bin/sleep", "1000"],
        memory=64,
        volumes=[f"{tmp_path}/data:/data"],
    )
    assert uid_map(spawned["pid"]) == ID_MAP
    mounts = Path(f"/proc/{spawned['pid']}/mounts").read_text()
    assert " /data " in mounts
    assert service.ask("list") == [{"name": "web", "running": True}]
    again = service.call("spawn", name="web", rootfs=str(busybox_rootfs))
    assert again == {"error": "web: libvirt has a domain of that name"}
    assert service.call("start", name="web") == {"error": "web: is running"}
    service.ask("stop", name="web")
    service.ask("stop", name="web")
    assert service.ask("list") == [{"name": "web", "running": False}]
    assert cli.mounts() == []
    assert uid_map(service.ask("start", name="web")["pid"]) == ID_MAP
    service.ask("delete", name="web")
    service.ask("delete", name="web")
    assert service.ask("list") == []
    for verb in ("start", "stop"):
        answer = service.call(verb, name="web")
        assert answer == {"error": "web: there is no such instance"}


def test_service_starts_once(service: Service, busybox_rootfs: Path) -> None:
    init = ["/bin/sleep", "1000"]
    service.ask("spawn", name="web", rootfs=str(busybox_rootfs), init=init)
    for _ in range(3):
        service.ask("stop", name="web")
        with ThreadPoolExecutor(4) as threads:
            calls = [
                threads.submit(service.call, "start", name="web")
                for _ in range(4)
            ]
        answers = [each.result() for each in calls]
        assert sum("ok" in each for each in answers) == 1, answers
        assert service.ask("list") == [{"name": "web", "running": True}]


def test_service_leaves_nothing_of_a_spawn_that_fails(
    service: Service, busybox_rootfs: Path
) -> None:
    ended = service.call(
        "spawn", name="web", rootfs=str(busybox_rootfs), init=["/absent"]
    )
    assert list(ended) == ["error"]
    none = service.call("spawn", name="web", rootfs="/nonexistent")
    assert none == {"error": "/nonexistent: No such file or directory"}


def test_service_leaves_domains_of_others_alone(
    service: Service,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    others = libvirt_connection.defineXML(DOMAIN.format("/bin/sleep").replace(
        "<devices>", "<devices><filesystem><source dir='/'/>"
        "<target dir='/'/></filesystem>"))  # fmt: skip
    try:
        for verb in ("start", "stop"):
            answer = service.call(verb, name="web")
            assert answer == {"error": "web: there is no such instance"}
        answer = service.call("spawn", name="web", rootfs=str(busybox_rootfs))
        assert "libvirt has a domain" in answer["error"]
        service.ask("delete", name="web")
        assert service.ask("list") == []
        assert others.name() == "web"
    finally:
        others.undefine()


HOSTILE: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"spawn"',
    b"\xff\xfe",
    b"[" * 60_000,
    b'{"do": ' + b"9" * 5000 + b"}",
    b'{"do": NaN}',
    b'{"do": ["spawn"]}',
    b'{"do": "__init__"}',
    b'{"do": "spawn"}',
    b'{"do": "spawn", "name": 1}',
    b'{"do": "spawn", "name": "../../etc", "rootfs": "/srv"}',
    b'{"do": "spawn", "name": "a\\u0000b", "rootfs": "/srv"}',
    b'{"do": "spawn", "name": "web", "rootfs": "\\ud800"}',
    b'{"do": "spawn", "name": "<web/>", "rootfs": "/srv"}',
    b'{"do": "spawn", "name": "web", "rootfs": "/"}',
    b'{"do": "spawn", "name": "web", "rootfs": "/srv", "memory": true}',
    b'{"do": "spawn", "name": "web", "rootfs": "/srv", "memory": 1e99}',
    b'{"do": "spawn", "name": "web", "rootfs": "/srv", "init": "/bin/sh"}',
    b'{"do": "spawn", "name": "web", "rootfs": "/srv", "volumes": ["x"]}',
    b'{"do": "spawn", "name": "web", "rootfs": "/srv", "volumes": {"a": 1}}',
    b'{"do": "delete", "name": ""}',
    b'{"do": "delete", "name": "-rf"}',
    b'{"do": "stop", "name": "\\n"}',
]


def test_service_answers_hostile_lines_in_one_line(service: Service) -> None:
    answers = service.send(*(each + b"\n" for each in HOSTILE))
    assert len(answers) == len(HOSTILE)
    for line, answer in zip(HOSTILE, answers, strict=True):
        assert list(answer) == ["error"], (line[:80], answer)
        text = answer["error"]
        assert text.isprintable(), text
        assert "fault of the service" not in text, (line[:80], text)
    assert service.send(b"x" * 65_537) == [
        {"error": "a request is a line of at most 65536 bytes"}
    ]
    assert service.send(b'{"do": "list"}') == [
        {"error": "a request is a line of at most 65536 bytes"}
    ]
    assert service.ask("list") == []


def test_service_is_for_its_user_alone(service: Service) -> None:
    assert stat.S_IMODE(service.path.stat().st_mode) == 0o600
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX);"
        's.connect(sys.argv[1]); s.sendall(b\'{"do": "list"}\\n\');'
        "print(s.recv(99))"
    )
    argv = [*HOST_USER, sys.executable, "-c", code, str(service.path)]
    refused = subprocess.run(argv, capture_output=True, text=True)
    assert "PermissionError" in refused.stderr
    # Nor if the mode does not keep it out.
    os.chmod(service.path, 0o666)
    refused = subprocess.run(argv, capture_output=True, text=True)
    assert refused.stdout in ("b''\n", "")
    assert service.ask("list") == []


@pytest.mark.parametrize("name", ["driver", "compute_service"])
def test_examples_use_the_public_api_alone(name: str) -> None:
    text = (TOP / f"examples/{name}.py").read_text()
    lines = [each for each in text.splitlines() if "import" in each]
    ours = [each for each in lines if "lxc_userns" in each]
    assert ours == ["import lxc_userns"]
    used = set(re.findall(r"\blxc_userns\.(\w+)", text))
    public: Any = lxc_userns
    assert used <= {*public.__all__}
