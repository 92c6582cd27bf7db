# SPDX-License-Identifier: Apache-2.0
"""Configuration files, read as every program of this package reads them."""

from __future__ import annotations

from oslo_config import cfg

from lxc_userns.config.options import register_opts
from lxc_userns.exceptions import ConfigError

_PROJECT = "lxc-userns"


def load_conf(files: list[str] | None) -> cfg.ConfigOpts:
    """Read the configuration.

    By default that is ``lxc-userns.conf``, then all that ends with ``.conf``
    in ``lxc-userns.conf.d/``, in the order of its names; later values prevail.

    :param files: files instead of all the usual ones.
    :raises ConfigError: if a file is missing or malformed.
    """
    conf = cfg.ConfigOpts()
    register_opts(conf)
    try:
        conf(
            [],
            project=_PROJECT,
            prog=_PROJECT,
            default_config_files=files,
            # They would prevail over files that were named.
            default_config_dirs=None if files is None else [],
        )
    except (cfg.Error, OSError, UnicodeDecodeError) as err:
        usual = conf.default_config_files or conf.default_config_dirs or ()
        names = ", ".join(files or usual)
        raise ConfigError("--config-file", names, str(err)) from err
    return conf
