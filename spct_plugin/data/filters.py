"""What a task file keeps of a preference set: labelled rows, no duplicates, no leakage. Pure.

    task = task_row("pairs", Example("Name a prime.", ["7", "8"], best=0))
    in_validation(task["prompt"], 0.05)

Position carries no information: completions stand in the order of their hashes, whichever is best.
The id is a hash of prompt and completions, so the same task has the same id from any file. Which
side of the split a task falls on depends on its prompt alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from spct_plugin.data.rows import KNOWN_KEYS
from spct_plugin.data.sources import Example, Row, Skip
from spct_plugin.types import JudgeTask, Message

GRAM = 13
"""Words in a row that count as leakage; the length GPT-3's report used (arXiv:2005.14165, C)."""


def task_row(name: str, example: Example) -> dict[str, Any] | Skip:
    """Write an example as a row of a task file: completions by hash, the label with them.

    Raises:
        TaskError: A part that is no text, or an empty prompt.
    """
    task = JudgeTask(example.prompt, example.completions, reference=example.reference)
    shown = task.as_dict()
    texts = [json.dumps(completion) for completion in shown["completions"]]
    if any(not _text(completion).strip() for completion in task.completions):
        return Skip("empty completion")
    if len(set(texts)) < len(texts):
        return Skip("same completion twice")
    prompt = json.dumps(shown["prompt"])
    order = sorted(range(len(texts)), key=lambda index: _hash(prompt, texts[index]))
    alone = len(task.prompt) == 1 and task.prompt[0].role == "user"
    row: dict[str, Any] = {
        "id": f"{name}-{_hash(prompt, *sorted(texts))[:16]}",
        "prompt": task.prompt[0].content if alone else shown["prompt"],
        "completions": [shown["completions"][index] for index in order],
        "label": order.index(example.best) if len(texts) > 1 else example.best,
        "dataset": name,
    }
    if task.reference is not None:
        row["reference"] = task.reference
    taken = KNOWN_KEYS | {"dataset"}
    return {**row, **{key: it for key, it in example.metadata.items() if key not in taken}}


def in_validation(prompt: str | Sequence[Row], fraction: float) -> bool:
    """Tell the side of the split from the prompt alone; case and white space do not count."""
    words = " ".join(_prompt_text(prompt).casefold().split())
    return int(_hash("validation", words)[:16], 16) < fraction * 2**64


def grams(words: Sequence[str]) -> set[str]:
    """Give every 13 words in a row; all words where there are fewer, nothing for none."""
    last = max(1, len(words) - GRAM + 1)
    return {" ".join(words[start : start + GRAM]) for start in range(last)} - {""}


def duplicate(seen: dict[str, int], task: Mapping[str, Any]) -> str | None:
    """Note a task; of several with the same prompt and completions, the first one stays."""
    first = seen.get(task["id"])
    if first is None:
        seen[task["id"]] = task["label"]
        return None
    return "duplicate" if first == task["label"] else "duplicate with another label"


def leaked(prompt: str | Sequence[Row], benchmarks: Mapping[str, Collection[str]]) -> str | None:
    """Name the first benchmark that shares 13 words in a row with the prompt."""
    own = grams(words_of(prompt)) if benchmarks else set[str]()
    for name, found in benchmarks.items():
        if not own.isdisjoint(found):
            return f"leakage: prompt overlaps with {name}"
    return None


def words_of(prompt: str | Sequence[Row]) -> list[str]:
    """Give the words of a prompt, without case and punctuation."""
    return re.findall(r"\w+", _prompt_text(prompt).casefold())


def _prompt_text(prompt: str | Sequence[Row]) -> str:
    """Join what was said; a system turn is left out, as many prompts share it."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")


def _text(completion: str | tuple[Message, ...]) -> str:
    if isinstance(completion, str):
        return completion
    return "".join(turn.content + "".join(turn.tool_calls) for turn in completion)


def _hash(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
