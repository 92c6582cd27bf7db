# SPDX-License-Identifier: Apache-2.0
"""Nova's API, scheduler, conductor and compute service in one process.

Reads requests from a socket, one JSON object a line, answers each, and ends
when the socket does. The services are real; the stores of images, networks
and volumes, and the way from one service to another, are Nova's own fixtures.
Its directory has ``nova.conf``, gets ``nova.log`` and, for
each record of a warning or worse, a line in ``problems.jsonl``.
"""

import importlib
import json
import logging
import shutil
import socket
import subprocess
import tempfile
import traceback
from pathlib import Path
from typing import Any

import fixtures

# The API loads its parts when it is started; here, before there are any.
import nova.api.openstack.compute.routes  # noqa: F401
from nova.tests import fixtures as nova_fixtures
from nova.tests.functional import integrated_helpers
from oslo_config import cfg

from lxc_userns import privileged
from tests.nova.harness import FIRST_HOST

#: What the fixtures know of the databases' schemas: database, version, SQL.
Schemas = list[tuple[str, str | None, str]]


class Nothing(fixtures.Fixture):
    """Stands for a fixture that keeps tests away from the host."""

    def __init__(self, *_: object) -> None:
        super().__init__()


class Configuration(nova_fixtures.ConfFixture):
    """Nova's settings for tests, and on top of them the file."""

    def setUp(self) -> None:
        """Read the file."""
        super().setUp()
        read_configuration()


def read_configuration() -> None:
    """Read the file, as a service does that starts."""
    cfg.CONF(
        ["--config-file", str(Nova.directory / "nova.conf")],
        project="nova",
        prog="nova-compute",
    )


class Images(nova_fixtures.GlanceFixture):
    """Images with contents, which are files."""

    def register(self, path: str, metadata: dict[str, Any]) -> str:
        """Add an image; its ID."""
        made = self.create(
            None,
            {
                "container_format": "bare",
                "disk_format": "raw",
                "min_disk": 0,
                "min_ram": 0,
                "name": Path(path).name,
                "properties": {},
                "size": Path(path).stat().st_size,
                "visibility": "public",
            }
            | metadata,
        )
        self.path(made["id"]).symlink_to(path)
        return str(made["id"])

    def path(self, image_id: str) -> Path:
        """Path of an image's contents."""
        return Nova.directory / "glance" / image_id

    def detail(self, context: object, **options: Any) -> list[Any]:
        """List images of some properties, the newest first."""
        wanted = {
            name.removeprefix("property-"): value
            for name, value in options.get("filters", {}).items()
        }
        found = reversed(super().detail(context, **options))
        return [x for x in found if wanted.items() <= x["properties"].items()]

    def download(
        self,
        context: object,
        image_id: str,
        data: Any = None,
        dst_path: str | None = None,
        trusted_certs: object = None,
    ) -> None:
        """Copy an image to where Nova wants it."""
        self.show(context, image_id)
        if dst_path is not None:
            copy(self.path(image_id), Path(dst_path))
        elif data is not None:
            with self.path(image_id).open("rb") as source:
                shutil.copyfileobj(source, data)

    def update(
        self,
        context: object,
        image_id: str,
        metadata: dict[str, Any],
        data: Any = None,
        purge_props: bool = False,
    ) -> Any:
        """Take what Nova uploads, as it does for a snapshot."""
        metadata = dict(metadata)
        if data is not None:
            # It may be mostly holes, and they are to stay.
            copy(Path(data.name), self.path(image_id))
            metadata |= {
                "status": "active",
                "size": self.path(image_id).stat().st_size,
            }
        # As the client of the real image service has it.
        properties = dict(metadata.get("properties") or {})
        for name in ("kernel_id", "ramdisk_id"):
            if properties.get(name) == "":
                properties[name] = None
        metadata["properties"] = properties
        return super().update(context, image_id, metadata, None, purge_props)


class Volumes(nova_fixtures.CinderFixture):
    """Volumes that are block devices of this host."""

    #: Where snapshots are; each has the state of the only domain as a suffix.
    snapshots: Path

    def make(self, volume: str, device: str, snapshots: str) -> None:
        """Make a volume what one on a block device is."""
        self.snapshots = Path(snapshots)
        self.device = device
        self.VOLUME_CONNECTION_INFO = {
            volume: {
                "driver_volume_type": "local",
                "data": {"device_path": device},
            }
        }

    def fake_get(self, *arguments: Any, **named: Any) -> Any:
        """Show a volume, with what Nova needs of it for a snapshot."""
        found = super().fake_get(*arguments, **named)
        return {"display_description": "", **found}

    def fake_create_snapshot_force(self, *arguments: Any) -> Any:
        """Copy a volume."""
        host = self.test.computes[FIRST_HOST].manager.driver._host
        (guest,) = host.list_guests()
        state, _ = guest._domain.state()
        shutil.copyfile(self.device, self.snapshots / f"snapshot.{state}")
        return super().fake_create_snapshot_force(*arguments)


def copy(source: Path, target: Path) -> None:
    """Copy a file, holes as holes."""
    argv = ["cp", "--sparse=always", str(source), str(target)]
    subprocess.run(argv, check=True)


class Problems(logging.Handler):
    """Writes a line for each record of a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        path = Nova.directory / "problems.jsonl"
        self.stream = path.open("a", buffering=1)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        trace = ""
        if record.exc_info and record.exc_info[0]:
            trace = "".join(traceback.format_exception(*record.exc_info))
        fields = {
            "level": record.levelname,
            "logger": record.name,
            "text": record.getMessage(),
            "traceback": trace,
        }
        self.stream.write(json.dumps(fields) + "\n")


def unpoison() -> None:
    """Let the tests touch the host: that is what they are for."""
    for name in (
        "GenericPoisonFixture",
        "ImportModulePoisonFixture",
        "PoisonFunctions",
        "PrivsepNoHelperFixture",
        "SysFsPoisonFixture",
        "WarningsFixture",
    ):
        setattr(nova_fixtures, name, Nothing)
    nova_fixtures.ConfFixture = Configuration
    nova_fixtures.CinderFixture = Volumes
    nova_fixtures.GlanceFixture = Images


class Nova(integrated_helpers._IntegratedTestBase):
    """All of Nova, started by :meth:`setUp`."""

    directory: Path
    ADMIN_API = True
    CAST_AS_CALL = False
    STUB_COMPUTE_ID = False
    microversion = "latest"

    def _setup_services(self) -> None:
        root = logging.getLogger()
        log = logging.FileHandler(Nova.directory / "nova.log")
        log.setFormatter(
            logging.Formatter(
                "%(asctime)s %(levelname)s [%(name)s] %(message)s"
            )
        )
        root.addHandler(log)
        root.addHandler(Problems())
        # The fixture counts every debug message of these.
        for name in (
            "stevedore",
            "oslo_policy",
            "alembic",
            "oslo_concurrency",
        ):
            logging.getLogger(name).setLevel(logging.INFO)
        super()._setup_services()

    def _setup_compute_service(self) -> None:
        """Leave it to a request, which can tell that it failed."""


class Requests:
    """Requests that can be made; each method is one."""

    def __init__(self, nova: Nova) -> None:
        self.nova = nova
        self.compute: Any = None

    def start(self, schemas: Schemas) -> list[list[str | None]]:
        """Start all but the compute service; the schemas then.

        :param schemas: of one before, for it takes a second to make them.
        """
        known = nova_fixtures.DB_SCHEMA
        known.update({(name, version): sql for name, version, sql in schemas})
        self.nova.setUp()
        # The fixtures nest such directories deeper than names of sockets
        # reach. What they would undo ends with the process.
        tempfile.tempdir = str(Nova.directory / "tmp")
        return [[*key, sql] for key, sql in known.items()]

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Send a request to the API as an administrator."""
        # With a token Nova also makes images anew that are gone.
        options: dict[str, Any] = {"headers": {"X-Auth-Token": "token"}}
        if body is not None:
            options["body"] = json.dumps(body)
            options["headers"]["Content-Type"] = "application/json"
        response = self.nova.admin_api.api_request(
            path, method=method, **options
        )
        content = response.json() if response.content else None
        return {"status": response.status_code, "body": content}

    def add_image(self, path: str, metadata: dict[str, Any]) -> str:
        """Add an image that is a file; its ID."""
        return str(self.nova.glance.register(path, metadata))

    def show_image(self, image_id: str) -> dict[str, Any] | None:
        """Metadata of an image; None if there is none."""
        image = self.nova.glance.images.get(image_id)
        return image and {
            name: image.get(name)
            for name in ("disk_format", "name", "properties", "size", "status")
        }

    def make_volume(self, *arguments: str) -> None:
        """Make a volume of a block device; see :class:`Volumes`."""
        self.nova.cinder.make(*arguments)

    def start_compute(self) -> None:
        """Start the compute service, with the configuration of now."""
        read_configuration()
        # Should this fail, the next one comes without the one that failed.
        self.nova._service_fixture_count.pop("compute", None)
        self.compute = self.nova.start_service("compute", host=FIRST_HOST)
        self.nova.computes[FIRST_HOST] = self.compute

    def stop_compute(self) -> None:
        """Stop the compute service."""
        self.compute.stop()
        deafen(self.compute.manager.driver)
        self.compute = None
        # It ends with a nova-compute that is a process of its own, and the
        # next one reads the configuration anew.
        privileged.CONTEXT.stop()

    def run(self, function: str, arguments: list[Any]) -> Any:
        """Call ``module:function`` with the service's objects."""
        module, _, name = function.partition(":")
        return getattr(importlib.import_module(module), name)(self, *arguments)


def deafen(driver: Any) -> None:
    """Keep libvirt's events from a driver that is no longer used.

    It would have gone with the process of nova-compute, and its thread that
    waits for events; now that goes on for the next one.
    """
    # Until 32 the host has what one of its own does since.
    handler = getattr(driver._host, "_event_handler", driver._host)
    handler._queue_event = lambda _: None
    type(handler)._native_thread = lambda _: None


def serve(channel: socket.socket, requests: Requests) -> None:
    """Answer requests until there are no more."""
    received = b""
    while data := channel.recv(1 << 16):
        received += data
        while b"\n" in received:
            line, _, received = received.partition(b"\n")
            channel.sendall(answer(requests, json.loads(line)))


def answer(requests: Requests, request: dict[str, Any]) -> bytes:
    """Do what is asked for."""
    result: dict[str, Any]
    try:
        method = getattr(requests, request["request"])
        result = {"result": method(*request["arguments"])}
    # SystemExit is how a service gives up.
    except (Exception, SystemExit) as err:
        result = {
            "error": str(err),
            "type": type(err).__name__,
            "traceback": traceback.format_exc(),
        }
    return json.dumps(result).encode() + b"\n"


def run(channel: socket.socket, directory: Path) -> None:
    """Serve one Nova.

    :param directory: its own.
    """
    Nova.directory = directory
    unpoison()
    # It only looks like a test; of the names of methods any will do.
    serve(channel, Requests(Nova("setUp")))
