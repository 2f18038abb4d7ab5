"""`spct recipes`: training recipes to copy and edit."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spct_plugin.recipes import copy_recipe
from spct_plugin.recipes import recipes as find_recipes

recipes = typer.Typer(no_args_is_help=True, help="Training recipes to copy and edit.")


@recipes.callback()
def root() -> None:
    """Hold the commands about recipes."""


@recipes.command("list")
def list_recipes() -> None:
    """List the recipes, with what each is for."""
    table = Table("recipe", "goal")
    for recipe in find_recipes():
        table.add_row(escape(recipe.name), escape(recipe.goal))
    Console().print(table)


@recipes.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="As listed.")],
    target: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to copy into.")],
) -> None:
    """Copy a recipe, and the shared files that it names, into a folder; overwrite nothing."""
    copied = copy_recipe(name, target)
    for path in copied:
        typer.echo(str(path))
    if not copied:
        typer.echo("all files are there already, unchanged")
    # Shared files lie beside the recipe's own folder, in which its commands are run.
    folder = quote(str(target / name.rpartition("/")[2]))
    typer.echo(f"next: cd {folder}, where README.md says how to go on", err=True)
