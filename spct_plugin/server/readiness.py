"""Whether the judge judges: learnt from every group, and from trials while it does not."""

from __future__ import annotations

import logging
import secrets

from spct_plugin.reward_model import RewardModel
from spct_plugin.types import JudgeTask
from spct_plugin.voter import GroupVotes

log = logging.getLogger(__name__)

# Groups in a row without a valid judgement, after which the server is not ready until a trial
# succeeds. 3: chosen by us; one may be a group that no judge could judge.
FAILED_IN_A_ROW = 3
# Longest time for a trial, in seconds. 120: chosen by us, 4,096 tokens at 34 tokens/s.
TRIAL_S = 120.0


class Readiness:
    """Not ready at first.

    Attributes:
        why_not: What went wrong last, for people; "" when nothing did.
    """

    def __init__(self) -> None:
        self._failed_in_a_row = FAILED_IN_A_ROW
        self.why_not = "nothing was judged yet"

    @property
    def is_ready(self) -> bool:
        """Whether a real judgement succeeded, and the last ones did not all fail."""
        return self._failed_in_a_row < FAILED_IN_A_ROW

    def note(self, problem: str) -> None:
        """Learn from a group or a trial what was wrong; "" = nothing."""
        self._failed_in_a_row = self._failed_in_a_row + 1 if problem else 0
        self.why_not = problem

    def note_group(self, votes: GroupVotes, *, in_a_hurry: bool) -> None:
        """Learn from a group.

        Args:
            votes: What it got.
            in_a_hurry: Whoever asked set a deadline, so that late votes do not tell of the judge.
        """
        kinds = set(votes.failures)
        if votes.counted:
            self.note("")
        elif not (kinds <= {"too_long"} or (in_a_hurry and kinds <= {"too_long", "deadline"})):
            self.note(why_lost(votes))


async def try_judge(model: RewardModel) -> str:
    """Judge a small group that nobody has judged; give what went wrong, "" = nothing."""
    # Words that the bundled toy judge knows, too; the number keeps the store out of it.
    number = secrets.randbelow(10**6)
    task = JudgeTask(
        f"Write a note to Anna about the park. Use the number {number}.",
        [f"Dear Anna, I like the park. {number}.", "I like tea."],
    )
    try:
        [votes] = await model.vote([task], TRIAL_S)
    # Boundary, the server's task root: an engine of a plugin may raise anything, and the
    # server must go on trying.
    except Exception as error:
        log.exception("a trial judgement failed")
        return f"{type(error).__name__}: {error}"
    return "" if votes.counted else why_lost(votes)


def why_lost(votes: GroupVotes) -> str:
    """Say what a group without a valid judgement failed of."""
    kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(votes.failures.items()))
    detail = next((j.detail for j in votes.judgements if j.detail), "")
    return f"{len(votes.judgements)} judgements failed ({kinds}){': ' if detail else ''}{detail}"
