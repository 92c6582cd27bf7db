# SPDX-License-Identifier: Apache-2.0
"""The samples of README and documentation, as somebody copies them."""

import fcntl
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import pytest
from oslo_config import cfg

import lxc_userns
from lxc_userns import PreparedInstance
from lxc_userns.linux.fd import open_file
from tests.functional import images
from tests.functional.command_line import LONGEST, PROGRAM
from tests.samples import TOP, Sample, run_line, samples

pytestmark = pytest.mark.needs("private-libvirtd", "containers")

#: What is not run here, by its beginning, and why.
NOT_RUN = {
    "apt-get install": "packages of the system; make venv installs them",
    "make deb": "takes a root of a release; make test-deb uses its packages",
    "make demo": "has a test in tests/functional/test_private_libvirtd.py",
    "make fuzz": "takes minutes; tests/unit/test_fuzz.py runs its targets",
    "python3 -m venv": "tests/unit/test_distribution.py installs a wheel",
    "/opt/lxc-userns/bin/pip": "the same",
    "ln -s /opt/lxc-userns": "the same",
    "pip install": "the same; tests/nova has both distributions installed",
    "debootstrap": "needs a network; the tree is another here",
    "systemctl": "there is no systemd beside a libvirtd of the tests' own",
    "sysctl": "would change the host",
    "tools/": "is how the tests are run",
    ".venv/bin/reno": "would make a file in the checkout",
    "qemu-img": "is not a package of the functional tests",
    "chown --reference=disk": "tests/nova runs these",
    "sed -i 's/qcow2": "the same",
    "lxc-userns --config-file /etc/nova": "the same, with a nova.conf",
    "mkdir -m 700 tree": "the same",
    "mount -o loop,nosuid,nodev disk": "the same",
    "umount tree": "the same",
    "dd if=disk": "the same",
    "openstack image set": "tests/nova asks the API",
    "lxc-userns container run net": "needs a bridge; in_network.py makes one",
    "ip link": "the same",
    "nft": "would change the host; in_network.py runs these",
    "def test": "a test of Nova as an example, no command",
    "lxc-userns container logs app --follow": "runs until it is ended",
    "lxc-userns container exec web --user": "runs until it is ended",
    "lxc-userns container exec web --tty": "the same",
    "lxc-userns container wait web": "the same",
    "skopeo": "needs a network",
    "lxc-userns rootfs unpack --oci": "test_oci.py has some",
    "lxc-userns metrics --output": "the directory is node_exporter's",
    "virsh -c lxc:/// list": "of a shell beside a libvirtd of one's own",
}
#: What has happened on the host before some lines are called.
BEFORE = {
    "lxc-userns rootfs unpack --unshifted web": "rm -r /srv/containers/web",
    "mv /srv/web": (
        "rm -r /srv/containers/web; cp -a /srv/containers/image /srv/web; "
        "lxc-userns rootfs shift /srv/web --uid-map 0:2900000000:65536 "
        "--gid-map 0:2900000000:65536"
    ),
    "lxc-userns rootfs pack /srv/containers/lost": (
        "cp -a /srv/containers/image /srv/containers/lost; "
        "lxc-userns rootfs shift /srv/containers/lost "
        "--uid-map 0:2900000000:65536 --gid-map 0:2900000000:65536; "
        'python3 -c \'import os; os.removexattr("/srv/containers/lost", '
        '"trusted.lxc_userns.state")\''
    ),
    "lxc-userns container start web --acc": "lxc-userns container stop web",
}
DOMAIN = """\
<domain type='lxc'>
  <name>plain</name>
  <memory unit='MiB'>128</memory>
  <os><type>exe</type><init>/bin/sleep</init><initarg>1000</initarg></os>
  <devices>
    <filesystem><source dir='/run/plain'/><target dir='/'/></filesystem>
    <console type='pty'/>
  </devices>
</domain>
"""


@dataclass
class Host:
    """A host on which /srv, /etc and /run are somebody else's."""

    path: Path
    environment: dict[str, str]
    python: dict[str, Any] = field(default_factory=dict)

    def shell(self, line: str) -> str:
        """Run a line as in a root shell."""
        done = run_line(line, self.path / "home", self.environment, LONGEST)
        # Of checks alone the exit code may be a finding about this machine.
        is_check = "host check" in line
        assert done.returncode == 0 or is_check, (line, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def configure(self, text: str) -> None:
        """Write the configuration."""
        file = Path("/etc/lxc-userns/lxc-userns.conf")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)

    def run(self, sample: Sample) -> None:
        """Do what a sample says."""
        if sample.kind == "ini" and "compute_driver" not in sample.text:
            self.configure(sample.text)
        if sample.kind == "python":
            exec(sample.text, self.python)  # noqa: S102 - that is the test
        shown = ""
        for line in sample.commands:
            if not line.strip() or line.startswith((" ", *NOT_RUN)):
                continue
            if self.is_command(line):
                for start, before in BEFORE.items():
                    if line.startswith(start):
                        self.shell(before)
                shown += self.shell(line.replace("4711", INIT_PID))
        if sample.kind == "console":
            # What a table shows is there, by the names of columns and fields.
            assert names_in(sample.text) <= names_in(shown)

    def is_command(self, line: str) -> bool:
        """Tell a command from the text of a file."""
        program = line.split()[0].removeprefix("/")
        return bool(shutil.which(program, path=self.environment["PATH"]))


INIT_PID = "$(lxc-userns container show web -f value -c init_pid)"


def names_in(text: str) -> set[str]:
    """Find the names of fields, and the heads of columns, of tables."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    heads = [row for row in rows if row[0] in ("Field", "instance", "check")]
    fields = [row[0] for row in rows if len(row) == 2]
    return {*fields, *(name for row in heads for name in row)}


@pytest.fixture
def host(
    libvirt_connection: libvirt.virConnect,
    reachable_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Host]:
    """Mount what samples write to, in the namespace of these tests alone."""
    for name in ("srv", "home"):
        (reachable_path / name).mkdir(mode=0o755)
    # A copy, for an overlay on it could not be idmapped.
    copy = reachable_path / "etc"
    subprocess.run(["cp", "--archive", "/etc", copy], check=True)
    for name in ("srv", "etc"):
        mount = ["mount", "--no-mtab", "--bind", f"{reachable_path}/{name}"]
        subprocess.run([*mount, f"/{name}"], check=True)
    monkeypatch.chdir(reachable_path / "home")
    for name in ("state", "run"):
        path = reachable_path / f"our-{name}"
        monkeypatch.setenv(f"OS_LXC_USERNS__{name.upper()}_PATH", str(path))
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}:{os.environ['PATH']}")
    made = Host(reachable_path, dict(os.environ))
    # Samples make places in /run, which another run of these tests has too.
    with open_file("/home", os.O_RDONLY | os.O_DIRECTORY) as run:
        fcntl.flock(run, fcntl.LOCK_EX)
        try:
            prepare(made)
            yield made
        finally:
            clean(made, libvirt_connection)


def prepare(host: Host) -> None:
    """Make the files that samples speak of."""
    containers = Path("/srv/containers")
    containers.mkdir(mode=0o700)
    for name in ("web", "app", "image", "plain"):
        images.make_busybox(containers / name)
        (containers / name / "srv").mkdir()
    for name in ("subuid", "subgid"):
        with Path("/etc", name).open("a") as stream:
            stream.write("lxc-userns:3000000000:6553600\n")
    Path("/srv/images").mkdir()
    archive = Path("/srv/images/debian.tar")
    with tarfile.open(archive, "w") as stream:
        stream.add(containers / "web", ".")
    subprocess.run(["zstd", "-q", archive], check=True)
    shutil.copy(f"{archive}.zst", host.path / "home/web.tar.zst")
    disk = containers / "disk.img"
    images.make_image("ext4", disk, 64, root=containers / "web")
    (host.path / "home/plain.xml").write_text(DOMAIN)
    (host.path / "home/web.xml").write_text(DOMAIN.replace("plain", "web"))
    shutil.copytree(TOP / "etc", host.path / "home/etc")
    host.configure(
        next(each.text for each in samples(TOP / "README.rst")
             if each.kind == "ini")
    )  # fmt: skip


def clean(host: Host, connection: libvirt.virConnect) -> None:
    """Undo all that a sample has done."""
    subprocess.run(
        ["bash", "-c", "for name in $(lxc-userns container list -f value -c "
         "name); do lxc-userns container destroy $name; done"],
        env=host.environment, stderr=subprocess.DEVNULL,
        check=False, timeout=LONGEST,
    )  # fmt: skip
    for domain in connection.listAllDomains():
        if domain.isActive():
            domain.destroy()
        domain.undefine()
    for place in (Path("/run/web"), Path("/run/plain")):
        while is_mount(place):
            subprocess.run(["umount", "--lazy", place], check=True)
        with suppress(FileNotFoundError):
            place.rmdir()
    for point in ("/srv", "/etc"):
        subprocess.run(["umount", "--lazy", "--no-mtab", point], check=True)


@pytest.fixture
def api() -> Iterator[None]:
    """Listen as a service of the host that a container may speak to."""
    # The samples name it. What is in it is of this run alone, and of no use
    # to the next when this one is killed.
    with shared_directory(Path("/run/app")) as directory:
        argv = ["mount", "-t", "tmpfs", "-o", "mode=0755", "app"]
        subprocess.run([*argv, directory], check=True)
        try:
            with socket.socket(socket.AF_UNIX) as service:
                service.bind(f"{directory}/api.sock")
                yield
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def shared_directory(path: Path) -> Iterator[Path]:
    """Make a directory of the host; the last run that has it removes it.

    The mounts that others have there would go with it.
    """
    fd = _locked(path)
    try:
        yield path
    finally:
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.rmdir()
        os.close(fd)


def _locked(path: Path) -> int:
    while True:
        path.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(fd, fcntl.LOCK_SH)
            # It may have been removed before.
            if os.fstat(fd).st_nlink:
                return fd
            os.close(fd)


def is_mount(path: Path) -> bool:
    """Whether something is mounted there, of whatever filesystem."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return str(path) in [line.split()[4] for line in lines]


def replay(host: Host, page: str) -> None:
    for sample in samples(TOP / page):
        host.run(sample)


def test_readme(host: Host) -> None:
    """The sample of Python, literally, after the commands."""
    replay(host, "README.rst")
    assert is_mount(Path("/run/web"))
    assert "<idmap>" in Path("web-private.xml").read_text()


@pytest.mark.parametrize(
    "page",
    [
        "shifting",
        "views",
        "moving",
        "operator",
        "leases",
        "nova",
        "configuration",
    ],
)
def test_page(host: Host, page: str) -> None:
    replay(host, f"doc/source/{page}/index.rst")


@pytest.mark.parametrize("page", ["user/index.rst", "user/volumes.rst"])
@pytest.mark.usefixtures("api")
def test_guide(host: Host, page: str) -> None:
    """Its commands; what it has of Python is below."""
    Path("/etc/app.conf").touch()
    Path("/srv/shared").mkdir()
    if page.endswith("volumes.rst"):
        Path("/srv/volumes").mkdir(mode=0o700)
        Path("/srv/volumes/web").mkdir()
    for sample in samples(TOP / "doc/source" / page):
        if sample.kind != "python":
            host.run(sample)


def test_tutorial(host: Host) -> None:
    """Each command prints what the page says, and nothing else."""
    shutil.rmtree("/srv/containers")
    for sample in samples(TOP / "doc/source/tutorial/index.rst"):
        if sample.kind == "ini":
            host.configure(sample.text)
        for command, shown in sample.dialogue:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=host.path / "home",
                env=host.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LONGEST,
                check=False,
            )
            said = done.stdout.splitlines()
            if shown[:1] == ["..."]:
                said, shown = said[1 - len(shown) :], shown[1:]
            # How far numbers are to the right is the program's business.
            assert [each.strip() for each in said] == [
                each.strip() for each in shown
            ], command


def test_guide_of_the_library(
    host: Host, libvirt_connection: libvirt.virConnect
) -> None:
    """Its user starts the domain between two of the samples."""
    first, apply, verify, release, add = (
        each
        for each in samples(TOP / "doc/source/user/index.rst")
        if each.kind == "python"
    )
    host.run(first)
    prepared: PreparedInstance = host.python["prepared"]
    host.python["domain_xml"] = (
        f"<domain type='lxc'><name>{prepared.name}</name>"
        "<memory unit='MiB'>128</memory><os><type>exe</type>"
        "<init>/bin/sleep</init><initarg>1000</initarg></os>"
        "<devices><console type='pty'/></devices></domain>"
    )
    host.run(apply)
    libvirt_connection.createXML(host.python["domain_xml"])
    host.run(verify)
    libvirt_connection.lookupByName(prepared.name).destroy()
    host.run(release)
    host.python["domain_xml"] = DOMAIN
    host.run(add)
    assert "<idmap>" in host.python["domain_xml"]


def test_policy_in_python(host: Host) -> None:
    shutil.copytree("/srv/containers/web", "/srv/web1", symlinks=True)
    conf = cfg.ConfigOpts()
    lxc_userns.register_opts(conf)
    conf([], default_config_files=["/etc/lxc-userns/lxc-userns.conf"])
    manager = lxc_userns.UserNamespaceManager(conf)
    host.python.update(vars(lxc_userns) | {"manager": manager})
    host.python.update(
        uuid="0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c",
        InstanceRequest=lxc_userns.InstanceRequest,
        Requirements=lxc_userns.Requirements,
    )
    try:
        replay(host, "doc/source/policy/index.rst")
        assert host.python["prepared"].mode == "private"
    finally:
        manager.release("web1")
