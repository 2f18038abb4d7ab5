"""Answers from a recording: the judgements that an earlier `spct judge` wrote.

A vote is answered by the recorded text of the same vote on the same task, shown in the same order:
with the seed of the recording, any k up to the recorded one replays, with other voting, shaping
or parsing. Waves and lists must be those of the recording (`vote.stop`, `k_min`, `list_size`, and
how much the recorded engine's context held), or orders differ and votes are not found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spct_plugin.engines import Choice, Request
from spct_plugin.errors import ConfigError, EngineError

Vote = tuple[str, tuple[int, ...], int]


class ReplayEngine:
    """An engine without a model.

    Args:
        path: The output file of `spct judge`.

    Raises:
        ConfigError: The file cannot be read, or a row is not one of `spct judge`.
    """

    context = None

    def __init__(self, path: Path) -> None:
        self.identity = f"replay:{path.name}"
        self._choices: dict[Vote, Choice] = {}
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise ConfigError(f"engine.path: cannot read {str(path)!r}: {error.strerror}") from None
        for number, line in enumerate(lines, start=1):
            try:
                self._record(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                where = f"{str(path)!r}, line {number}"
                raise ConfigError(
                    f"engine.path: {where} is no row of `spct judge`: {error!r}"
                ) from None

    async def generate(self, request: Request) -> list[Choice]:
        """Give the recorded choices, up to the first vote that was not recorded.

        Raises:
            EngineError: The first of the votes was not recorded.
        """
        task = request.task.hex()
        choices: list[Choice] = []
        for vote in request.votes:
            choice = self._choices.get((task, request.order, vote))
            if choice is None:
                break
            choices.append(choice)
        if not choices:
            raise EngineError(
                f"the recording has no vote {request.votes[0]} of this task in order "
                f"{list(request.order)}; use the seed it was made with and no larger k"
            )
        return choices

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """Say yes: whatever was recorded did fit."""
        return True

    async def aclose(self) -> None:
        """Do nothing: there is nothing to give back."""

    def _record(self, row: dict[str, Any]) -> None:
        for judgement in row["judgements"]:
            if judgement["finish_reason"] is not None or judgement["text"]:
                key = (row["task"], tuple(judgement["order"]), judgement["vote"])
                self._choices[key] = Choice(
                    judgement["text"], judgement["finish_reason"], judgement["tokens"]
                )
