# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests with a real Nova, as root, on a real libvirtd."""

import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lxc_userns.linux import cgroups
from tests.functional import images
from tests.functional.capabilities import in_private_libvirtd, require
from tests.nova import harness
from tests.nova.fork_server import ForkServer
from tests.nova.user import User, made_user


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option for a release of Nova beside one with which all ran."""
    parser.addoption(
        "--once",
        action="store_true",
        help="run each test with its first parameters alone",
    )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Show warnings of Nova and what it uses, but let them be."""
    if config.getoption("once"):
        first = {item.nodeid.partition("[")[0]: item for item in items[::-1]}
        config.hook.pytest_deselected(
            items=[item for item in items if item not in first.values()]
        )
        items[:] = first.values()
        items.reverse()
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session", autouse=True)
def loopback() -> None:
    """Let services of this host speak to each other, in a new network too."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@pytest.fixture(scope="session")
def connection() -> Iterator[libvirt.virConnect]:
    """Connect to the libvirtd of ``tools/private-libvirtd``."""
    require("containers", "ext3", "ext4")
    if not in_private_libvirtd():
        pytest.fail(
            "not inside a private libvirtd; run: make test-nova",
            pytrace=False,
        )
    # Errors come as exceptions; libvirt would print them as well.
    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open("lxc:///")
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Make a directory that the mapped root of a container can reach.

    Where a test failed, Nova's logs stay.
    """
    path = Path(tempfile.mkdtemp(prefix="lxc-userns-nova-", dir="/var/tmp"))
    path.chmod(0o711)
    yield path
    if not request.session.testsfailed:
        shutil.rmtree(path)
        return
    for each in path.iterdir():
        if each.is_file():
            each.unlink()
        elif not each.name.startswith("nova-"):
            shutil.rmtree(each)
    reporter = request.config.pluginmanager.getplugin("terminalreporter")
    reporter.write_line(f"\nNova's logs: {path}/nova-*/nova.log")


@pytest.fixture(scope="session")
def busybox_rootfs(directory: Path) -> Path:
    """Make a root file system of busybox; its owners are guest IDs."""
    path = directory / "busybox"
    images.make_busybox(path)
    # libvirt's end of a container begins with SIGTERM and waits 1.6 seconds
    # before it kills what is left; this init would take two to end by itself.
    with (path / "etc/inittab").open("a") as stream:
        stream.write("::shutdown:/bin/poweroff -f\n")
    return path


ImageFactory = Callable[[str], Path]


@pytest.fixture(scope="session")
def busybox_image(directory: Path, busybox_rootfs: Path) -> ImageFactory:
    """Make a disk image of busybox: ``busybox_image("ext4")``.

    ``partitioned`` is one with the firmware's partition before it, and
    ``partitioned-xfs`` the same of xfs.
    """

    def make(kind: str) -> Path:
        path = directory / f"busybox.{kind}"
        if path.exists():
            return path
        partitioned, _, inner = kind.partition("-")
        if partitioned == "partitioned":
            images.make_partitioned(path, make(inner or "ext4"))
        else:
            size = {"xfs": 300, "btrfs": 120}.get(kind, 32)
            images.make_image(kind, path, size, root=busybox_rootfs)
        return path

    return make


@pytest.fixture(scope="session")
def debian_image(directory: Path) -> Path:
    """Make a disk image of a Debian system with sysvinit."""
    root = images.unpack_debian("sysvinit", directory / "debian")
    image = directory / "debian.ext4"
    images.make_image("ext4", image, 768, root=root)
    shutil.rmtree(root)
    return image


NovaFactory = Callable[..., harness.Nova]


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Load Nova once for all tests."""
    server = ForkServer()
    yield server
    server.close()


def run_novas(
    directory: Path, connection: libvirt.virConnect, shared: ForkServer
) -> Iterator[NovaFactory]:
    """Make a factory of Novas that end with the generator."""
    with ExitStack() as stack:

        def start(
            settings: harness.Settings | None = None, **options: Any
        ) -> harness.Nova:
            path = Path(tempfile.mkdtemp(prefix="nova-", dir=directory))
            path.chmod(0o711)
            context = harness.running(
                path, connection, settings, shared=shared, **options
            )
            return stack.enter_context(context)

        yield start


def cleaned(nova: harness.Nova) -> Iterator[harness.Nova]:
    """Yield one, and look at the end that nothing of its servers is left."""
    yield nova
    nova.clean()
    nova.wait_for_no_leftovers()


def need_freezer() -> None:
    """Skip a test where libvirt cannot pause containers."""
    if not cgroups.can_freeze():
        pytest.skip("libvirt pauses containers by control groups version 1")


UserFactory = Callable[[str], User]


@pytest.fixture
def make_user(directory: Path) -> Iterator[UserFactory]:
    """Make a user for Nova who becomes root by ``sudo`` or ``rootwrap``."""
    closed = [
        each
        for each in (harness.REPOSITORY, *harness.REPOSITORY.parents)
        if not each.stat().st_mode & stat.S_IXOTH
    ]
    if closed:
        pytest.skip(f"users cannot pass through {closed[0]} to this checkout")
    with ExitStack() as stack:

        def make(helper: str) -> User:
            path = Path(tempfile.mkdtemp(prefix="user-", dir=directory))
            path.chmod(0o711)
            return stack.enter_context(made_user(path, helper))

        yield make


@pytest.fixture
def start_nova(
    directory: Path,
    connection: libvirt.virConnect,
    fork_server: ForkServer,
    make_user: UserFactory,
) -> Iterator[NovaFactory]:
    """Start a Nova for one test; see :func:`tests.nova.harness.running`."""
    yield from run_novas(directory, connection, fork_server)


@pytest.fixture(scope="module")
def start_shared_nova(
    directory: Path, connection: libvirt.virConnect, fork_server: ForkServer
) -> Iterator[NovaFactory]:
    """Start a Nova for a module of tests."""
    yield from run_novas(directory, connection, fork_server)


@pytest.fixture(scope="session", params=["idmapped", "chown"])
def strategy(request: pytest.FixtureRequest) -> str:
    """Strategy that makes the owners of a root filesystem an instance's."""
    return str(request.param)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[None]:
    """Give subordinate IDs, in this mount namespace."""
    with subordinate_ids(tmp_path):
        yield


@pytest.fixture(scope="module")
def shared_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give them to a module of tests."""
    with subordinate_ids(tmp_path_factory.mktemp("pool")):
        yield


@contextmanager
def subordinate_ids(
    directory: Path, text: str = "subid.test:2000000000:196608\n"
) -> Iterator[None]:
    """Give subordinate IDs, by files of a directory.

    :param text: the files' contents; by default it is three ranges.
    """
    made = []
    try:
        for name in ("subuid", "subgid"):
            file = directory / name
            file.write_text(text)
            Path(f"/etc/{name}").touch()
            argv = ["mount", "--bind", str(file), f"/etc/{name}"]
            subprocess.run(argv, check=True)
            made.append(name)
        yield
    finally:
        for name in made:
            subprocess.run(["umount", f"/etc/{name}"], check=True)
