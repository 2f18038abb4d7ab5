"""`spct serve`: the reward server."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from spct_plugin.cli.options import ConfigFile, Overrides
from spct_plugin.config import SPCTConfig
from spct_plugin.errors import ConfigError


def serve(
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Listen here (serve.host).")] = None,
    port: Annotated[int | None, typer.Option(help="And here (serve.port).")] = None,
    override: Overrides = None,
) -> None:
    """Serve rewards over HTTP until SIGTERM; what was accepted by then is finished."""
    try:
        from spct_plugin.server.desk import Desk
        from spct_plugin.server.gate import read_token
        from spct_plugin.server.run import listen
        from spct_plugin.server.run import serve as run
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"spct serve needs {error.name}, which is not installed; run: "
            "pip install 'spct-plugin[server]'"
        ) from None
    named = {"serve.host": host, "serve.port": port}
    # Overrides are YAML, in which an address like :: is none until it is quoted.
    settings = [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    overrides = [*(override or []), *settings]
    found = SPCTConfig.load(config, overrides).serve
    # Both are looked at again when the judge is there; building it takes seconds.
    read_token(found)
    for listening in listen(found.host, found.port):
        listening.close()
    raise typer.Exit(run(Desk(config, overrides)))
