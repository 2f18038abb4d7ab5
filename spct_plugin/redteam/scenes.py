"""Where attacks take place: a request, the attacker's weak answer, and a better one beside it.

scenes = bundled_scenes((1, 10))
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from spct_plugin.data.rows import BadRow, TaskRow, read_tasks
from spct_plugin.errors import TaskError
from spct_plugin.redteam import Scene
from spct_plugin.redteam.families import read_data

Scale = tuple[int, int]

# Scenes of the offline world: more than any family has attempts of one kind, so that neighbours do
# not share a twin. Weak and good as a program sees them; all three chosen by us.
TINY_SCENES, TINY_WEAK, TINY_GOOD = 32, 0.45, 0.7
# Beyond the held-out seeds that are measured elsewhere.
TINY_SEED = 77


def bundled_scenes(scale: Scale) -> list[Scene]:
    """Give the written scenes, for judges that read English."""
    return [Scene(**scene, scale=scale) for scene in read_data("scenes.yaml")]


def tiny_scenes(scale: Scale) -> list[Scene]:
    """Give scenes of the offline world, the only one that the tiny GRM knows."""
    from spct_plugin.tiny.tasks import HELD_OUT, labelled_tasks

    rows = (
        row
        for row in labelled_tasks(HELD_OUT + TINY_SEED, 50 * TINY_SCENES)
        if min(row["metadata"]["truth"]) <= TINY_WEAK and max(row["metadata"]["truth"]) >= TINY_GOOD
    )
    return [
        Scene(
            row["id"],
            row["prompt"],
            weak=row["completions"][1 - row["label"]],
            good=row["completions"][row["label"]],
            scale=scale,
        )
        for row in islice(rows, TINY_SCENES)
    ]


def scenes_of(path: Path, scale: Scale) -> list[Scene]:
    """Make scenes of labelled tasks: the best completion, and the first of the others.

    Rows with several turns, with one completion or without a label make no scene.

    Raises:
        TaskError: The file cannot be read, a line is no task, or there is no scene in it.
    """
    scenes: list[Scene] = []
    for row in read_tasks(path):
        if isinstance(row, BadRow):
            raise TaskError(row.within(path))
        if (scene := _scene_of(row, scale)) is not None:
            scenes.append(scene)
    if not scenes:
        raise TaskError(
            f"expected labelled tasks with one turn and two or more completions in {str(path)!r}, "
            "found none"
        )
    return scenes


def _scene_of(row: TaskRow, scale: Scale) -> Scene | None:
    texts = [text for text in row.task.completions if isinstance(text, str)]
    if row.label is None or len(row.task.prompt) != 1 or len(texts) < 2:
        return None
    if len(texts) != len(row.task.completions):
        return None
    weak = texts[1 if row.label == 0 else 0]
    return Scene(row.id, row.task.prompt[0].content, weak, texts[row.label], scale)
