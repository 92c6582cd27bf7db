# SPDX-License-Identifier: Apache-2.0
"""A Nova to test with: started, asked, looked at from outside, ended."""

import configparser
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from tests.nova.fork_server import ForkServer, Process
from tests.nova.leftovers import Leftovers
from tests.nova.server import Server
from tests.nova.user import BIN, User

REPOSITORY = Path(__file__).parents[2]
FIRST_HOST, OTHER_HOST = "compute1", "compute2"
STOCK = "libvirt.LibvirtDriver"
DEADLINE = 60.0
LEVELS = ["WARNING", "ERROR", "CRITICAL"]
# What Nova logs of any container, or of being tested; whole texts.
USUAL = re.compile(
    # An optional dependency that is not there.
    r"Could not load 'oslo_cache\.memcache_pool': .*"
    r"|In native threading mode the number of concurrent builds.*"
    # It takes a filesystem for a share of the Manila service.
    r"|Device <filesystem .*> of type filesystem found but it is not linked.*"
    r"|USB tablet requested for guests on non-HVM host.*"
    r"|privsep log: .*"
    r"|Support for the 'lxc' libvirt backend has been deprecated.*"
    r"|Running Nova with a libvirt version less than .* is deprecated.*"
    r"|this function is not supported by the connection driver: .*"
    r"|.* graceful shutdown did not complete within the 0 second.*"
    r"|host_up called, but we think host is already up",
    re.DOTALL,
)

Settings = Mapping[str, Mapping[str, object]]


class RefusedError(Exception):
    """A request failed inside of Nova.

    :param kind: the name of the exception's class.
    :param text: what it said.
    :param trace: its traceback.
    """

    def __init__(self, kind: str, text: str, trace: str) -> None:
        super().__init__(f"{kind}: {text}\n{trace}")
        self.kind = kind
        self.text = text
        self.trace = trace


@dataclass(frozen=True)
class Problem:
    """A log record of a warning or worse."""

    level: str
    logger: str
    text: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.level} {self.logger}: {self.text}\n{self.traceback}"


class Nova:
    """A running Nova.

    :param directory: where all that is its own is; see :func:`find_running`.
    """

    def __init__(
        self,
        directory: Path,
        process: Process,
        channel: socket.socket,
        connection: libvirt.virConnect,
    ) -> None:
        self.directory = directory
        self.instances = directory / "instances"
        self.connection = connection
        self.process = process
        self._channel = channel
        self._answers = channel.makefile("rb")
        self._flavors: dict[str, str] = {}
        self._read = 0

    def ask(self, request: str, *arguments: object) -> Any:
        """Ask the service for something; its answer.

        :raises RefusedError: if that raised an error.
        """
        line = json.dumps({"request": request, "arguments": arguments})
        self._channel.sendall(line.encode() + b"\n")
        return self.answer()

    def answer(self) -> Any:
        """Wait for an answer."""
        line = self._answers.readline()
        if not line:
            raise AssertionError(f"Nova has ended; {self.tail()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RefusedError(
                answer["type"], answer["error"], answer["traceback"]
            )
        return answer["result"]

    def hang_up(self) -> None:
        """Make the service end."""
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._answers.close()

    def tail(self) -> str:
        """The end of what the service wrote."""
        lines = (self.directory / "output").read_text().splitlines()[-40:]
        return "\n  ".join(["it wrote:", *lines])

    def log(self) -> str:
        """All of Nova's log."""
        return (self.directory / "nova.log").read_text()

    # The compute service.

    def start_compute(self) -> None:
        """Start nova-compute, with the configuration as it is now.

        :raises RefusedError: if it refuses to start.
        """
        self.ask("start_compute")

    def stop_compute(self) -> None:
        """Stop nova-compute; what it runs goes on."""
        self.ask("stop_compute")

    def start_other(self, *, is_sharing: bool = False) -> None:
        """Start a second compute service, of a host that only pretends.

        :param is_sharing: whether it has the same directory of instances.
        """
        self.run("tests.nova.other_host:start", is_sharing)

    def force_down(self, host: str, is_down: bool = True) -> None:
        """Declare a compute service to be down, as before an evacuation."""
        services = self.api("GET", "/os-services?binary=nova-compute")
        (found,) = (x for x in services["services"] if x["host"] == host)
        body = {"forced_down": is_down}
        self.api("PUT", f"/os-services/{found['id']}", body)

    def configure(self, settings: Settings) -> None:
        """Change the configuration, for the next start of nova-compute."""
        change_configuration(self.directory / "nova.conf", settings)

    def run(self, function: str, *arguments: object) -> Any:
        """Call ``module:function`` in the service's process.

        It gets the service's ``Requests``, whose ``compute.manager.driver``
        is the driver, and the arguments, which are plain values.
        """
        return self.ask("run", function, arguments)

    # The API.

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Send a request to the API, which goes well; what it gives."""
        answer = self.ask("api", method, path, body)
        assert answer["status"] < 300, answer
        return answer["body"]

    def status(self, method: str, path: str) -> int:
        """Send a request to the API; the HTTP status."""
        return int(self.ask("api", method, path, None)["status"])

    def add_image(self, path: Path, **metadata: object) -> str:
        """Add an image of a file; its ID.

        :param metadata: as the image service has it: ``properties``, say.
        """
        return str(self.ask("add_image", str(path), metadata))

    def image(self, image_id: str) -> dict[str, Any] | None:
        """Return the image service's record of an image; None if gone."""
        found: dict[str, Any] | None = self.ask("show_image", image_id)
        return found

    def flavor(
        self,
        disk: int = 1,
        others: str = "",
        size: int = 1,
        /,
        **extra_specs: str,
    ) -> str:
        """Find or make a flavor of 64 MiB with extra specs; its ID.

        :param disk: size of its root disk in GiB.
        :param others: a disk besides, as the API calls it.
        :param size: that disk's.

        Two underscores stand for a colon: ``hw__numa_nodes``.
        """
        specs = {k.replace("__", ":"): v for k, v in extra_specs.items()}
        key = json.dumps([disk, others, size, specs], sort_keys=True)
        if key not in self._flavors:
            number = len(self._flavors) + 1
            flavor = {"name": f"test-{number}", "id": f"test-{number}"}
            flavor |= {"ram": 64, "vcpus": 1, "disk": disk}  # type: ignore[dict-item]
            if others:
                flavor[others] = size  # type: ignore[assignment]
            self.api("POST", "/flavors", {"flavor": flavor})
            if specs:
                path = f"/flavors/{flavor['id']}/os-extra_specs"
                self.api("POST", path, {"extra_specs": specs})
            self._flavors[key] = flavor["id"]
        return self._flavors[key]

    def boot(
        self,
        image: str,
        expect: str = "ACTIVE",
        *,
        name: str = "test",
        flavor: str | None = None,
        **fields: object,
    ) -> Server:
        """Boot a server and wait until it has the status that is expected."""
        server = self.create(image, name=name, flavor=flavor, **fields)
        return server.wait(expect)

    def create(
        self,
        image: str,
        *,
        name: str = "test",
        flavor: str | None = None,
        **fields: object,
    ) -> Server:
        """Ask for a server, and wait for nothing.

        :param image: the ID of its image.
        :param fields: more of what the API takes.
        """
        body = {
            "name": name,
            "imageRef": image,
            "flavorRef": flavor or self.flavor(),
            "networks": "none",
        }
        made = self.api("POST", "/servers", {"server": body | fields})
        return Server(self, made["server"]["id"])

    def servers(self) -> list[Server]:
        """All that the API knows."""
        listed = self.api("GET", "/servers")["servers"]
        return [Server(self, each["id"]) for each in listed]

    # What is seen from outside.

    def history(self, level: str = "WARNING") -> list[Problem]:
        """All log records of a level or worse, since Nova was started."""
        lines = (self.directory / "problems.jsonl").read_text().splitlines()
        wanted = LEVELS[LEVELS.index(level) :]
        found = [Problem(**json.loads(line)) for line in lines]
        return [each for each in found if each.level in wanted]

    def problems(self, level: str = "WARNING") -> list[Problem]:
        """Log records of a level or worse, since this was asked last.

        Those that every Nova with containers has are left out.
        """
        found = self.history()
        new, self._read = found[self._read :], len(found)
        wanted = LEVELS[LEVELS.index(level) :]
        return [
            each
            for each in new
            if each.level in wanted
            and (each.traceback or not USUAL.fullmatch(each.text))
        ]

    def tracebacks(self) -> list[Problem]:
        """Log records with a traceback, since problems were asked last."""
        return [each for each in self.problems() if each.traceback]

    def clean(self) -> None:
        """Delete all servers, and see that nothing is left of any.

        :raises AssertionError: if something is; it is removed then.
        """
        try:
            for server in self.servers():
                server.delete()
            self.wait_for_no_leftovers()
        finally:
            self.leftovers().remove(self.connection)
            self.problems()

    def leftovers(self) -> Leftovers:
        """All that is there of servers, be they deleted or not."""
        return Leftovers.look(self.connection, self.directory)

    def wait_for_no_leftovers(self) -> None:
        """Wait until nothing is left of any server."""
        wait_until(lambda: not self.leftovers(), lambda: self.leftovers())


def wait_until(
    condition: Callable[[], object],
    describe: Callable[[], object] = lambda: "",
    longest: float = DEADLINE,
) -> None:
    """Wait until a condition is true."""
    give_up = time.monotonic() + longest
    while not condition():
        assert time.monotonic() < give_up, f"in vain: {describe()}"
        time.sleep(0.05)


def write_configuration(
    path: Path, directory: Path, helper: str | None
) -> None:
    """Write what every compute service with containers needs."""
    paste = Path(sys.prefix, "etc/nova/api-paste.ini")
    change_configuration(
        path,
        {
            "DEFAULT": {
                "compute_driver": STOCK,
                "debug": True,
                "force_raw_images": True,
                "instances_path": directory / "instances",
                "my_ip": "127.0.0.1",
                "reserved_host_disk_mb": 0,
                "reserved_host_memory_mb": 0,
                # libvirt 9.0 asks an init to end by its initctl alone, which
                # busybox has not: all of it is waited for in vain.
                "shutdown_timeout": 1,
                "state_path": directory / "state",
                "use_cow_images": False,
            },
            "libvirt": {
                "images_type": "raw",
                # Nova cannot find it out by itself for a container.
                "snapshot_image_format": "raw",
                "virt_type": "lxc",
                "wait_soft_reboot_seconds": 1,
            },
            "lxc_userns": {
                "run_path": directory / "run",
                "state_path": directory / "lxc-userns",
            },
            "wsgi": {"api_paste_config": paste},
        },
    )
    if helper:
        # The last is that of what connects volumes.
        ours = "lxc_userns_privileged"
        for section in (ours, "nova_sys_admin", "privsep_osbrick"):
            change_configuration(path, {section: {"helper_command": helper}})


def change_configuration(path: Path, settings: Settings) -> None:
    """Change options of an INI file; ``None`` takes one out."""
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    for section, options in settings.items():
        if section != "DEFAULT" and not parser.has_section(section):
            parser.add_section(section)
        for name, value in options.items():
            if value is None:
                parser.remove_option(section, name)
            else:
                parser.set(section, name, str(value))
    with path.open("w") as stream:
        parser.write(stream)


@contextmanager
def running(
    directory: Path,
    connection: libvirt.virConnect,
    settings: Settings | None = None,
    *,
    shared: ForkServer | None = None,
    user: User | None = None,
    privsep_daemon: bool = True,
    start_compute: bool = True,
) -> Iterator[Nova]:
    """Run a Nova for as long as the context lasts.

    Nothing of it is left afterwards, whatever happened.

    :param directory: an empty one of mode 0711 that others can pass through.
    :param connection: to the libvirtd of ``tools/private-libvirtd``.
    :param settings: what the configuration has besides: section, name, value.
    :param shared: where it is forked, but for those of a user, and without
        a daemon: these have a process that is loaded for them alone.
    :param user: whom it runs as; root if not given.
    :param privsep_daemon: whether privileged functions run in a process of
        their own, as they do in real life.
    """
    lay_out(directory, user)
    program = user.helper if user else [str(BIN / "privsep-helper")]
    helper = [*program, "--config-file", str(directory / "nova.conf")]
    write_configuration(
        directory / "nova.conf",
        directory,
        " ".join(helper) if privsep_daemon else None,
    )
    change_configuration(directory / "nova.conf", settings or {})
    with ExitStack() as stack:
        server = shared
        if server is None or user or not privsep_daemon:
            words = user.setpriv() if user else []
            server = ForkServer(words, privsep_daemon=privsep_daemon)
            stack.callback(server.close)
        output = stack.enter_context((directory / "output").open("wb"))
        ours, theirs = map(stack.enter_context, socket.socketpair())
        ours.settimeout(4 * DEADLINE)
        descriptors = theirs.fileno(), output.fileno()
        process = server.fork(directory, *descriptors)
        theirs.close()
        nova = Nova(directory, process, ours, connection)
        try:
            server.schemas = nova.ask("start", server.schemas)
            if start_compute:
                nova.start_compute()
            nova.problems()
            yield nova
        finally:
            end(nova)


def lay_out(directory: Path, user: User | None) -> None:
    """Make the files and directories that Nova is given.

    Around them is a directory of root's, as state_path has to be in.
    """
    for name in ("nova.log", "problems.jsonl"):
        (directory / name).touch()
    for name in ("glance", "instances", "state", "tmp"):
        (directory / name).mkdir(mode=0o711)
    if user:
        for path in directory.iterdir():
            os.chown(path, user.uid, user.gid)


def end(nova: Nova) -> None:
    """End Nova, and what it has left."""
    nova.hang_up()
    if not nova.process.wait(DEADLINE / 2):
        nova.process.kill()
        nova.process.wait(DEADLINE)
    os.close(nova.process.descriptor)
    nova.leftovers().remove(nova.connection)
    for name in ("glance", "instances", "state", "tmp"):
        shutil.rmtree(nova.directory / name)


def run_text(argv: Sequence[str | Path]) -> str:
    """Run a program, which goes well; what it printed."""
    return subprocess.run(
        argv, check=True, capture_output=True, text=True, timeout=DEADLINE
    ).stdout
