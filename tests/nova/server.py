# SPDX-License-Identifier: Apache-2.0
"""One server of a Nova, from the API's side and from the host's."""

import contextlib
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt

if TYPE_CHECKING:
    from tests.nova.harness import Nova

DEADLINE = 60.0
# How long a container is not there until it is taken for gone.
NO_REBOOT_AFTER = 3.0
PROC = Path("/proc")
# States from which a server does not come to another by itself.
ENDS = (
    "ACTIVE",
    "ERROR",
    "PAUSED",
    "SHELVED",
    "SHELVED_OFFLOADED",
    "SHUTOFF",
    "SUSPENDED",
    "VERIFY_RESIZE",
)


@dataclass(frozen=True)
class Server:
    """A server, by its ID."""

    nova: "Nova"
    id: str

    def show(self) -> dict[str, Any]:
        """Return what the API shows of it."""
        shown: dict[str, Any] = self.nova.api("GET", f"/servers/{self.id}")
        server: dict[str, Any] = shown["server"]
        return server

    def wait(self, expect: str = "ACTIVE") -> "Server":
        """Wait until it has a status and nothing more is done to it.

        :raises AssertionError: if it has another one then, with the fault.
        """
        give_up = time.monotonic() + DEADLINE
        while True:
            asked = time.monotonic()
            shown = self.show()
            status, task = shown["status"], shown["OS-EXT-STS:task_state"]
            settled = status in ENDS and task is None
            # The fault comes after the status.
            if status == "ERROR" and expect == "ERROR":
                settled = settled and "fault" in shown
            if settled and (status == expect or status == "ERROR"):
                break
            assert time.monotonic() < give_up, shown
            pause(asked)
        errors = map(str, self.nova.history("ERROR"))
        found = f"it is {status}: {shown.get('fault', {}).get('message')}"
        assert status == expect, "\n".join([found, *errors])
        return self

    @property
    def fault(self) -> str:
        """The text of what went wrong last."""
        return str(self.show()["fault"]["message"])

    @property
    def name(self) -> str:
        """Its name for the hypervisor."""
        return str(self.show()["OS-EXT-SRV-ATTR:instance_name"])

    @property
    def host(self) -> str:
        """The compute host that it is on."""
        return str(self.show()["OS-EXT-SRV-ATTR:host"])

    def what_failed(self, action: str) -> str:
        """Wait until an action has failed; what administrators see of that."""
        path = f"/servers/{self.id}/os-instance-actions"
        give_up = time.monotonic() + DEADLINE
        while True:
            listed = self.nova.api("GET", path)["instanceActions"]
            events = []
            for each in (x for x in listed if x["action"] == action):
                shown = self.nova.api("GET", f"{path}/{each['request_id']}")
                events += shown["instanceAction"]["events"]
            if "Error" in [each["result"] for each in events]:
                return "\n".join(str(each["details"]) for each in events)
            assert time.monotonic() < give_up, events
            time.sleep(0.1)

    def action(self, name: str, argument: object = None) -> Any:
        """Ask for an action."""
        path = f"/servers/{self.id}/action"
        return self.nova.api("POST", path, {name: argument})

    def stop(self) -> None:
        """Stop it."""
        self.action("os-stop")
        self.wait("SHUTOFF")

    def start(self) -> None:
        """Start it."""
        self.action("os-start")
        self.wait("ACTIVE")

    def reboot(self, kind: str = "SOFT") -> None:
        """Reboot it from outside: ``SOFT`` or ``HARD``."""
        self.action("reboot", {"type": kind})
        self.wait("ACTIVE")

    def resize(self, flavor: str) -> None:
        """Give it another flavor, to be confirmed or reverted."""
        self.action("resize", {"flavorRef": flavor})
        self.wait("VERIFY_RESIZE")

    def confirm(self) -> None:
        """Keep it as it was resized, where it was migrated to."""
        self.action("confirmResize")
        self.wait("ACTIVE")

    def revert(self) -> None:
        """Make it what it was, where it was."""
        self.action("revertResize")
        self.wait("ACTIVE")

    def reboot_inside(self) -> int:
        """Let its init reboot; return the process ID of the new init.

        :raises AssertionError: if there is none after some seconds.
        """
        before = self.init_pid()
        # Its own root does it, in its own PID namespace.
        self.run_in("reboot", "-f", check=False)
        give_up = time.monotonic() + NO_REBOOT_AFTER
        while True:
            with contextlib.suppress(libvirt.libvirtError, LookupError):
                if self.init_pid() != before:
                    return self.init_pid()
                # That is when libvirt has noticed nothing yet.
                give_up = time.monotonic() + NO_REBOOT_AFTER
            assert time.monotonic() < give_up, "it has not come back"
            time.sleep(0.1)

    def snapshot(self, name: str = "snapshot") -> str:
        """Make an image of it, and wait for that; the image's ID.

        :raises AssertionError: if that fails; then Nova deletes the image.
        """
        status = self.show()["status"]
        image_id: str = self.action("createImage", {"name": name})["image_id"]
        self.wait(status)
        image = self.nova.image(image_id)
        assert image is not None, "Nova has deleted the image"
        assert image["status"] == "active", image
        return image_id

    def delete(self) -> None:
        """Delete it and wait until the API does not know it any more."""
        self.nova.api("DELETE", f"/servers/{self.id}")
        give_up = time.monotonic() + DEADLINE
        while True:
            asked = time.monotonic()
            if self.nova.status("GET", f"/servers/{self.id}") == 404:
                return
            assert asked < give_up, self.show()
            pause(asked)

    # From the host's side.

    @property
    def directory(self) -> Path:
        """Directory in which Nova keeps its disk."""
        return self.nova.instances / self.id

    @property
    def disk(self) -> Path:
        """Its root disk."""
        return self.directory / "disk"

    def domain(self) -> libvirt.virDomain:
        """Look it up in libvirt.

        :raises libvirt.libvirtError: if there is none.
        """
        return self.nova.connection.lookupByUUIDString(self.id)

    def xml(self) -> str:
        """The XML of its domain, as it runs."""
        return str(self.domain().XMLDesc())

    def init_pid(self) -> int:
        """Process ID of its first process, as the host has it.

        :raises LookupError: if it does not run.
        """
        domain = self.domain()
        if not domain.isActive():
            raise LookupError(f"{self.id} does not run")
        children = PROC / f"{domain.ID()}/task/{domain.ID()}/children"
        try:
            pids = children.read_text().split()
        except FileNotFoundError as err:
            raise LookupError(f"{self.id} has just ended") from err
        if not pids:
            raise LookupError(f"{self.id} has no process")
        return int(pids[0])

    def run_in(
        self, *argv: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as its root."""
        enter = ["nsenter", f"--target={self.init_pid()}", "--all"]
        enter += ["--setuid=0", "--setgid=0", "--"]
        return subprocess.run(
            [*enter, *argv],
            check=check,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    def uid_map(self) -> list[list[int]]:
        """The kernel's map of its first process."""
        lines = (PROC / f"{self.init_pid()}/uid_map").read_text().splitlines()
        return [list(map(int, line.split())) for line in lines]

    def namespace(self, kind: str) -> str:
        """The namespace of its first process: ``user`` or ``net``, say."""
        return (PROC / f"{self.init_pid()}/ns/{kind}").readlink().name


def pause(asked: float) -> None:
    """Leave the processor to Nova, of which each question takes a part.

    :param asked: when the last question was asked.
    """
    time.sleep(0.05 + 4 * (time.monotonic() - asked))
