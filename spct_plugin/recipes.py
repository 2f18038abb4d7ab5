"""The recipes that come with the package: what there is, and copies to edit.

    [recipe.name for recipe in recipes()]        # ["tiny", "trl/qwen3-4b", ...]
    copy_recipe("trl/qwen3-4b", Path("mine"))    # mine/qwen3-4b/rl.yaml, mine/launch/local.sh, ...

A recipe is a folder whose README.md has a Goal. Recipes are data: nothing imports them.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from spct_plugin.errors import ConfigError

_GOAL = re.compile(r"^## Goal\n+(.+?\.)(?:\s|$)", re.MULTILINE | re.DOTALL)
_SHARED = re.compile(r"\.\./([\w-]+/[\w./-]*\w)")


@dataclass(frozen=True)
class Recipe:
    """One recipe.

    Attributes:
        name: Its folder below the recipes, such as "trl/qwen3-4b".
        folder: Where it is.
        goal: The first sentence of its Goal.
    """

    name: str
    folder: Path
    goal: str


def recipes() -> list[Recipe]:
    """List the recipes by name."""
    root = _root()
    found: list[Recipe] = []
    for readme in root.rglob("README.md"):
        if goal := _GOAL.search(readme.read_text(encoding="utf-8")):
            name = readme.parent.relative_to(root).as_posix()
            found.append(Recipe(name, readme.parent, " ".join(goal[1].split())))
    return sorted(found, key=lambda recipe: recipe.name)


def copy_recipe(name: str, target: Path) -> list[Path]:
    """Copy a recipe, and the files beside it that it names, into a folder.

    Files keep their places relative to each other. One that is there already, unchanged, stays.

    Returns:
        The new files.

    Raises:
        ConfigError: There is no such recipe, or a file with other content is in the way.
    """
    known = {recipe.name: recipe.folder for recipe in recipes()}
    if name not in known:
        raise ConfigError(f"expected a recipe: one of {list(known)}, found {name!r}")
    folder = known[name]
    own = [path for path in sorted(folder.rglob("*")) if _is_source(path)]
    pairs = {path: target / path.relative_to(folder.parent) for path in (*own, *_shared(own))}
    new = {source: copy for source, copy in pairs.items() if not _same(source, copy)}
    in_the_way = [str(copy) for copy in new.values() if copy.exists()]
    if in_the_way:
        raise ConfigError(f"nothing is overwritten, and these are there already: {in_the_way}")
    try:
        for source, copy in new.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    except OSError as error:
        raise ConfigError(f"cannot write to {str(target)!r}: {error.strerror}") from None
    return list(new.values())


def _root() -> Path:
    """Find the recipes: inside an installed package, beside a package that is a checkout."""
    package = Path(__file__).parent
    for root in (package / "recipes", package.parent / "recipes"):
        if root.is_dir():
            return root
    raise ConfigError(f"this installation has no recipes: {str(package / 'recipes')!r} is missing")


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _shared(files: list[Path]) -> list[Path]:
    """Find the files in the folders beside a recipe's that it names, and those that they name."""
    found: list[Path] = []
    waiting = list(files)
    while waiting:
        path = waiting.pop()
        for name in _SHARED.findall(path.read_text(encoding="utf-8", errors="replace")):
            other = path.parent.parent / name
            if other not in (*files, *found) and other.is_file():
                found.append(other)
                waiting.append(other)
    return found


def _same(source: Path, copy: Path) -> bool:
    return copy.is_file() and copy.read_bytes() == source.read_bytes()
