"""OpenRLHF's wire, --reward.remote_url: what its client posts, and what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

from spct_plugin.errors import TaskError
from spct_plugin.server.wire import Many, shallow
from spct_plugin.templates import encodable
from spct_plugin.types import is_list


class OpenRLHFRequest(BaseModel):
    """What OpenRLHF's client posts to --reward.remote_url, 0.8 to 0.11."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="ignore", frozen=True)

    query: Many[str] | str
    """Prompt and completion as decoded, special tokens included; none at all is allowed."""
    prompts: Many[str] | str = []
    """The prompts, as they were given to the policy."""
    labels: Annotated[Any, AfterValidator(shallow)] = None
    """One per query; left out by old clients."""

    def rows(self) -> list[tuple[str, str, Any]]:
        """Give query, prompt and label of each completion.

        Raises:
            TaskError: There are not as many of each.
        """
        queries = [self.query] if isinstance(self.query, str) else self.query
        prompts = [self.prompts] if isinstance(self.prompts, str) else self.prompts
        labels: Sequence[Any] = self.labels if is_list(self.labels) else [self.labels]
        if self.labels is None or not labels:
            labels = [""] * len(queries)
        if not len(queries) == len(prompts) == len(labels):
            raise TaskError(
                f"expected as many prompts and labels as queries, found {len(queries)} queries, "
                f"{len(prompts)} prompts, {len(labels)} labels"
            )
        # No tokenizer can read half a character.
        pairs = zip(map(encodable, queries), map(encodable, prompts), strict=True)
        return [(*pair, label) for pair, label in zip(pairs, labels, strict=True)]


class OpenRLHFResponse(BaseModel):
    """What OpenRLHF's client reads: one number per query in each list, all finite."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    rewards: list[float]
    """For the trainer."""
    scores: list[float]
    """In [0, 1], for dynamic filtering."""
    extra_logs: dict[str, list[float]]
    """For the trainer's log."""
    versions: list[str]
    """What made each: engine, template, configuration, meta RM. OpenRLHF's client leaves it."""

    @classmethod
    def of(cls, results: Sequence[dict[str, Any]]) -> Self:
        """Lay out what an OpenRLHF adapter gives for each completion, with its `version`."""
        names = results[0]["extra_logs"] if results else ()
        return cls(
            rewards=[result["rewards"] for result in results],
            scores=[result["scores"] for result in results],
            extra_logs={name: [r["extra_logs"][name] for r in results] for name in names},
            versions=[result["version"] for result in results],
        )
