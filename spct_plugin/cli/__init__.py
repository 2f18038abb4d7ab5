"""The `spct` command. Nothing is decided here: each command calls one function of the package."""

from __future__ import annotations

import os
import sys

import typer

from spct_plugin.cli import (
    config,
    data,
    demo,
    judge,
    path,
    plugins,
    recipes,
    redteam,
    reject,
    report,
    sample,
    serve,
    tiny,
    train,
)
from spct_plugin.cli.eval import evaluate_judge
from spct_plugin.errors import ConfigError, PluginError, SPCTError
from spct_plugin.plugins import load_plugins

app = typer.Typer(
    name="spct",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Generative reward models for RLHF: judge, vote, reward.",
)
app.command("demo")(demo.demo)
app.command("data")(data.data)
app.command("judge")(judge.judge)
app.command("sample")(sample.sample)
app.command("reject")(reject.reject)
app.command("train", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    train.train
)
app.command("serve")(serve.serve)
app.command("eval")(evaluate_judge)
app.command("redteam")(redteam.redteam)
app.command("config")(config.config)
app.command("plugins")(plugins.plugins)
app.command("report")(report.report)
app.command("path")(path.path)
app.add_typer(tiny.tiny, name="tiny")
app.add_typer(recipes.recipes, name="recipes")


_OWN = {*(c.name for c in app.registered_commands), *(g.name for g in app.registered_groups)}


@app.callback()
def root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of a mistake."),
) -> None:
    """Take the options that stand before the command."""
    if debug:
        os.environ["SPCT_DEBUG"] = "1"


def main() -> None:
    """Run the command line; a mistake prints one line and exits with 1, wrong usage with 2."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        _add_plugin_commands()
        app()
    except SPCTError as error:
        if os.environ.get("SPCT_DEBUG"):
            raise
        typer.echo(f"spct: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError | PluginError) else 1)


def _add_plugin_commands() -> None:
    for name, command in load_plugins().commands.items():
        if name in _OWN:
            raise PluginError(f"a plugin registers the command {name!r}, which is spct's own")
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
