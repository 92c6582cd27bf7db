# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns metrics``."""

from __future__ import annotations

import argparse
import os

from lxc_userns.cli.base import ConfiguredCommand, require_root
from lxc_userns.exceptions import (
    ConfigError,
    LibvirtError,
    PrerequisiteError,
    translated,
)
from lxc_userns.linux import directory, safe_path

_MODE = 0o644


class Metrics(ConfiguredCommand):
    """Print metrics of this host in the text format of Prometheus.

    Containers by state, mode and strategy; the seconds since each that runs
    was verified; leases held, free, and waiting for a shifted tree; failures
    since the host was booted. Without libvirtd they tell what is on record,
    and the exit code is 4. It needs prometheus_client.
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add ``--output``."""
        parser.add_argument(
            "--output",
            metavar="FILE",
            help="File to replace, at once, instead of standard output, as "
            "for node_exporter's textfile collector.",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Print them."""
        text, error = self.render()
        if parsed_args.output is None:
            self.app.stdout.write(text)
        else:
            _replace(parsed_args.output, text)
        if error is not None:
            raise error

    def render(self) -> tuple[str, LibvirtError | None]:
        """Return their text, and why libvirtd could not be asked."""
        require_root()
        try:
            from lxc_userns import metrics
        except ModuleNotFoundError as err:
            raise PrerequisiteError(
                f"{err.name} is needed for metrics; install the package "
                "python3-prometheus-client, or prometheus_client by pip"
            ) from err
        return metrics.render(self.services)


def _replace(path: str, text: str) -> None:
    """Replace a file that no one but root can replace."""
    with (
        translated(ConfigError, "--output", path),
        safe_path.opened_parent(os.path.abspath(path)) as (above, name),
        directory.opened_in(above, ".") as parent,
    ):
        directory.replace_file(parent, name, text, _MODE)
