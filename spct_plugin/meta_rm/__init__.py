"""The meta RM: a scalar model that scores judgements, so that voting can leave out the bad ones.

    messages = meta_messages(template, task, judgement.order, judgement.text)

A meta RM sees the judgement as the judge wrote it, with the completions in the order the judge saw.

Source: DeepSeek-GRM (arXiv:2504.02495), section 4.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Protocol

from spct_plugin.config_file import Section
from spct_plugin.failures import Failure
from spct_plugin.store import Store
from spct_plugin.templates import META, JinjaTemplate, Template, encodable
from spct_plugin.types import Judgement, JudgeTask

log = logging.getLogger(__name__)


class MetaRM(Protocol):
    """What the reward model needs of a meta RM.

    Attributes:
        identity: Which weights score, and in which form they are shown a judgement; never an
            address. Part of every reward's version and of every kept score's key.
    """

    @property
    def identity(self) -> str: ...  # noqa: D102

    async def score(self, task: JudgeTask, judgements: Sequence[Judgement]) -> list[float | None]:
        """Score valid judgements of one task; higher is better. Called for many tasks at once.

        Returns:
            One number per judgement, in order; None where there is none, never a made-up value.
        """
        ...

    async def aclose(self) -> None:
        """Give back connections and memory held for the running event loop."""
        ...


class NoMetaRM:
    """Scores nothing, so that every valid judgement is voted."""

    identity = ""

    async def score(self, task: JudgeTask, judgements: Sequence[Judgement]) -> list[float | None]:
        """Return None for every judgement."""
        return [None] * len(judgements)

    async def aclose(self) -> None:
        """Do nothing: there is nothing to give back."""


class MetaRMConfig(Section):
    """A meta RM's section of the configuration: its `kind`, its own keys, and how to build it."""

    kind: str
    """Which meta RM; the other keys of this section belong to it."""
    template: str | None = None
    """How the task is shown before the judgement: "meta", "tiny", a plugin's template, or a path to
    a Jinja file; null = what the model was trained on ("tiny" for the bundled one, else "meta")."""

    @property
    def native_template(self) -> str:
        """The template used when the configuration names none."""
        return META

    @property
    def addresses(self) -> tuple[str, ...]:
        """Keys that say where and how fast the meta RM runs, and change no reward."""
        return ()

    def build(self, template: Template) -> MetaRM:
        """Make the meta RM, which shows tasks by the template. Imports what it needs only now."""
        raise NotImplementedError(f"meta RM {self.kind!r} does not say how it is built")


class KeptMetaRM:
    """A meta RM whose scores are kept in the store, so that a restart pays for none again.

    Args:
        meta_rm: Asked for what the store does not know.
        store: Where scores are looked up and kept.
    """

    def __init__(self, meta_rm: MetaRM, store: Store) -> None:
        self.identity = meta_rm.identity
        self._meta_rm = meta_rm
        self._store = store

    async def score(self, task: JudgeTask, judgements: Sequence[Judgement]) -> list[float | None]:
        """Look scores up, ask for the others, and keep those that are numbers."""
        base = f"{self.identity}\0".encode() + task.digest()
        keys = [_score_key(base, judgement) for judgement in judgements]
        scores = await self._store.find_scores(keys)
        missing = {k: j for k, j in zip(keys, judgements, strict=True) if k not in scores}
        if missing:
            answers = await self._meta_rm.score(task, list(missing.values()))
            new = {k: s for k, s in zip(missing, answers, strict=True) if s is not None}
            self._store.keep_scores(new)
            scores |= new
        return [scores.get(key) for key in keys]

    async def aclose(self) -> None:
        """Close the meta RM; the store is closed by its owner."""
        await self._meta_rm.aclose()


class Unscored:
    """Warns of the first judgement without a score of each kind, not of thousands."""

    def __init__(self) -> None:
        self._seen: set[Failure] = set()

    def note(self, failure: Failure, detail: str) -> None:
        """Take note of one judgement."""
        if failure not in self._seen:
            self._seen.add(failure)
            log.warning(
                "meta RM: a judgement has no score and ranks after all that have one: %s (%s); "
                "of further ones like it nothing is said",
                detail,
                failure,
            )


def meta_messages(
    template: Template, task: JudgeTask, order: Sequence[int], text: str
) -> list[dict[str, str]]:
    """Write what a meta RM reads, in training and in use: the task, then the judgement. Pure.

    Args:
        template: Shows the task.
        task: As the judge saw it, already reduced to what the judge may read.
        order: Completions in the order the judge saw them.
        text: The judgement, as the judge wrote it.
    """
    return [
        {"role": "user", "content": template.render(task, order)},
        {"role": "assistant", "content": encodable(text)},
    ]


def meta_identity(model: str, template: Template) -> str:
    """Name weights together with the form in which they are shown a judgement."""
    wording = template.wording if isinstance(template, JinjaTemplate) else ""
    return f"{model}:{template.name}-{hashlib.sha256(wording.encode()).hexdigest()[:8]}"


def _score_key(base: bytes, judgement: Judgement) -> bytes:
    seen = f"{judgement.order}\0{judgement.text}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(base + seen).digest()
