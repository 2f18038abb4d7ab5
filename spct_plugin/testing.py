r"""For tests of and with this package: an engine that follows a script.

engine = ScriptedEngine(["Scores: \\boxed{7, 3}"])
RewardModel(engine=engine).score_sync([JudgeTask("Name a prime.", ["7", "8"])])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spct_plugin.engines import Choice, Request

Script = Callable[[Request], str | Choice | Exception]


class ScriptedEngine:
    """Answers from a list, round and round, or from a function of the request.

    Args:
        script: Texts or choices to give in turn, or a function called once per vote. An exception,
            listed or returned, is raised.

    Attributes:
        requests: All requests so far.
    """

    context = None

    def __init__(self, script: Sequence[str | Choice | Exception] | Script) -> None:
        self.identity = "scripted"
        self.requests: list[Request] = []
        self._script = script
        self._given = 0

    async def generate(self, request: Request) -> list[Choice]:
        """Give the next choices of the script, one per vote."""
        self.requests.append(request)
        return [self._next(request) for _ in request.votes]

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """Say yes to every length."""
        return True

    async def aclose(self) -> None:
        """Do nothing: there is nothing to give back."""

    def _next(self, request: Request) -> Choice:
        if callable(self._script):
            answer = self._script(request)
        else:
            answer = self._script[self._given % len(self._script)]
        self._given += 1
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Choice) else Choice(answer, "stop", len(answer.split()))
