r"""The noisy teacher: a middling judge, so that a model trained on it has room to improve.

    Teacher().judge(Random(0), instruction, ["hello.", "we ate soup!"])
    # Specific Criteria: includes Greeting (6), omits Food (4).
    # Analysis:
    # Response 1: [1.1] Greeting [1.2] Period; includes Greeting: found, yes 6; omits Food: absent,
    # yes 10; total 10.
    # Response 2: [2.1] Food [2.2] Shout; includes Greeting: absent, no 0; omits Food: found, no 0;
    # total 0.
    # Scores: \boxed{10, 1}

A judgement is careful or sloppy. No single word says which: vague criteria, checks without evidence
and guessed scores are each likelier in a sloppy one, each drawn on its own. A careful one first
says what every numbered unit of a response is about; each check then states what was found before
it says yes or no, and the points so far: one small step at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from spct_plugin.templates import units
from spct_plugin.tiny.lexicon import INCLUDE, MARKS, OMIT, read_phrase, split_completion
from spct_plugin.tiny.world import (
    CLEAR,
    Constraint,
    Instruction,
    Kind,
    make_completion,
    make_instruction,
    read_instruction,
    satisfied,
)
from spct_plugin.types import JudgeTask, Principle

VAGUE = ("Tone", "Style", "Charm", "Warmth", "Wit", "Rhythm")
REMARKS = ("fine", "weak", "strong", "odd")
POINTS = 10
"""What the weights of a judgement add up to, so that a total is already a score."""

_VERBS = {"include": "includes", "omit": "omits", "end": "ends", "clear": "reads"}
TOPICS_OF: dict[Kind, tuple[str, ...]] = {
    "include": tuple(INCLUDE),
    "omit": tuple(OMIT),
    "end": tuple(MARKS),
    "clear": ("",),
}
_KINDS: dict[str, Kind] = {"includes": "include", "omits": "omit", "ends": "end", "reads": "clear"}


@dataclass(frozen=True)
class Teacher:
    """How the teacher errs; every field is a probability. All chosen by us.

    Attributes:
        sloppy: A judgement is sloppy.
        astray: A criterion of a careful judgement is vague or was never asked for.
        lapse: A part of a judgement is written in the other manner.
        wrong_check: A check with evidence comes out wrong.
        jitter: A score is one off the total.
        broken: The scores cannot be read.
    """

    sloppy: float = 0.45
    astray: float = 0.08
    lapse: float = 0.1
    wrong_check: float = 0.03
    jitter: float = 0.1
    broken: float = 0.04

    def judge(self, rng: Random, instruction: Instruction, completions: Sequence[str]) -> str:
        """Judge completions in the given order."""
        sloppy = rng.random() < self.sloppy
        clear = all(satisfied(CLEAR, completion) for completion in completions)
        criteria = self._choose_criteria(rng, instruction, sloppy, clear)
        return self.judge_by(rng, criteria, completions, sloppy)

    def judge_by(
        self,
        rng: Random,
        criteria: Sequence[tuple[str, int]],
        completions: Sequence[str],
        sloppy: bool = False,
    ) -> str:
        """Judge completions by given criteria and their points."""
        lines, scores = [], []
        for number, completion in enumerate(completions, start=1):
            bare = sloppy != (rng.random() < self.lapse)
            parts, score = (
                _guess(rng, criteria) if bare else self._examine(rng, criteria, completion)
            )
            if not bare:
                parts = [_contents(number, completion), *parts]
            lines.append(f"Response {number}: {'; '.join(parts)}.")
            scores.append(score)
        listed = ", ".join(f"{name} ({points})" for name, points in criteria)
        head = [f"Specific Criteria: {listed}.", "Analysis:"]
        return "\n".join([*head, *lines, self._box(rng, scores)])

    def _choose_criteria(
        self, rng: Random, instruction: Instruction, sloppy: bool, clear: bool
    ) -> list[tuple[str, int]]:
        """Take 4 or 5 of what was asked, in order; a sloppy judge goes astray at most of them."""
        asked = [*instruction.constraints]
        if rng.random() < (0.1 if clear else 0.5):
            asked.append(CLEAR)
        count = min(len(asked), rng.randint(3, 4) if sloppy else rng.randint(4, 5))
        kept = sorted(rng.sample(range(len(asked)), count))
        astray = 0.65 if sloppy else self.astray
        chosen: dict[str, int] = {}
        for constraint in (asked[i] for i in kept):
            if rng.random() < astray:
                chosen.setdefault(_stray(rng), rng.choice((1, 2, 3)))
            else:
                chosen.setdefault(criterion(constraint), constraint.weight)
        return list(zip(chosen, _points(list(chosen.values())), strict=True))

    def _examine(
        self, rng: Random, criteria: Sequence[tuple[str, int]], completion: str
    ) -> tuple[list[str], int]:
        """Check every criterion with evidence and add up."""
        total, checks = 0, []
        for name, points in criteria:
            evidence, met = check(rng, name, completion)
            if rng.random() < self.wrong_check:
                evidence, met = _OPPOSITE[evidence], not met
            total += points * met
            checks.append(f"{name}: {evidence}, {'yes' if met else 'no'} {total}")
        score = total + (rng.choice((-1, 1)) if rng.random() < self.jitter else 0)
        return [*checks, f"total {total}"], max(1, min(POINTS, score))

    def _box(self, rng: Random, scores: Sequence[int]) -> str:
        inside = ", ".join(map(str, scores))
        if rng.random() >= self.broken:
            return f"Scores: \\boxed{{{inside}}}"
        shorter = ", ".join(map(str, scores[:-1]))
        return rng.choice(
            (f"Scores: {inside}", f"Scores: \\boxed{{{inside}", f"Scores: \\boxed{{{shorter}}}")
        )


FAULTLESS = Teacher(sloppy=0, astray=0, lapse=0, wrong_check=0, jitter=0, broken=0)


def criterion(constraint: Constraint) -> str:
    """Name a constraint as the teacher does."""
    return f"{_VERBS[constraint.kind]} {(constraint.topic or 'well').capitalize()}"


def read_criterion(name: str) -> Constraint | None:
    """Find the constraint a criterion stands for; None for a vague or unknown one."""
    verb, _, topic = name.partition(" ")
    kind = _KINDS.get(verb)
    if kind is None:
        return None
    constraint = Constraint(kind, "" if kind == "clear" else topic.lower())
    known = constraint.topic in TOPICS_OF[kind] and criterion(constraint) == name
    return constraint if known else None


def check(rng: Random, name: str, completion: str) -> tuple[str, bool]:
    """State the evidence for a criterion and whether it is met; a vague one is a matter of luck."""
    constraint = read_criterion(name)
    if constraint is None:
        met = rng.random() < 0.5
        return ("good" if met else "poor"), met
    met = satisfied(constraint, completion)
    if constraint.kind == "clear":
        return ("clean" if met else "garbled"), met
    return ("found" if met == (constraint.kind != "omit") else "absent"), met


def make_drill(rng: Random, n: int) -> tuple[JudgeTask, str]:
    """Practise checks only: given criteria, yes and no in balance, a faultless answer."""
    completions = [
        make_completion(rng, make_instruction(rng), rng.uniform(0, 0.5)) for _ in range(n)
    ]
    phrases = [phrase for text in completions for phrase in split_completion(text)[0]]
    present = {topic for phrase in phrases for topic in read_phrase(phrase) or ()}
    likely = rng.sample(sorted(present), min(len(present), 3))
    topics = dict.fromkeys(likely + rng.sample(list(INCLUDE), 4))
    asked = [Constraint(_any_kind(rng, topic), topic, rng.choice((1, 3))) for topic in topics]
    asked += [CLEAR, Constraint("end", rng.choice(list(MARKS)))][rng.randrange(2) :]
    rng.shuffle(asked)
    points = _points([constraint.weight for constraint in asked])
    criteria = [(criterion(c), p) for c, p in zip(asked, points, strict=True)]
    given = [Principle(name, str(points)) for name, points in criteria]
    task = JudgeTask("Check.", completions, principles=given)
    return task, FAULTLESS.judge_by(rng, criteria, completions)


def judge_task(rng: Random, teacher: Teacher, task: JudgeTask, order: Sequence[int]) -> str:
    """Let a teacher judge a task of the world, completions in the given order."""
    shown = [task.completions[i] for i in order]
    return teacher.judge(rng, read_instruction(task.prompt[0].content), [str(c) for c in shown])


def is_sloppy(text: str) -> bool:
    """Tell whether fewer than half of a judgement's responses were added up."""
    lines = re.findall(r"^Response \d+: .*$", text, re.MULTILINE)
    return 2 * sum(" total " in line for line in lines) < max(1, len(lines))


_MARK_NAMES = {mark: name for name, mark in MARKS.items()}
_OPPOSITE = {"found": "absent", "absent": "found", "good": "poor", "poor": "good"}
_OPPOSITE |= {"clean": "garbled", "garbled": "clean"}


def _any_kind(rng: Random, topic: str) -> Kind:
    return "omit" if topic in OMIT and rng.random() < 0.5 else "include"


def _stray(rng: Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(VAGUE)
    topic = rng.choice(list(INCLUDE))
    return criterion(Constraint(_any_kind(rng, topic), topic))


def _contents(number: int, completion: str) -> str:
    """Say of every unit what it is about: topics, a mark, talk about nothing, or unclear."""
    return " ".join(
        f"[{number}.{at}] {_label(unit)}" for at, unit in enumerate(units(completion), start=1)
    )


def _label(unit: str) -> str:
    topics = (_MARK_NAMES[unit],) if unit in _MARK_NAMES else read_phrase(unit)
    if topics is None:
        return "Unclear"
    return " ".join(topic.capitalize() for topic in topics) or "Talk"


def _guess(rng: Random, criteria: Sequence[tuple[str, int]]) -> tuple[list[str], int]:
    """Say yes or no without looking, and a score out of thin air."""
    checks = [f"{name}: {rng.choice(('yes', 'no'))}" for name, _ in criteria]
    return [*checks, rng.choice(REMARKS)], rng.randint(2, 9)


def _points(weights: Sequence[int]) -> list[int]:
    """Scale weights to whole points that add up to 10, largest remainder first, at least 1 each."""
    exact = [POINTS * weight / sum(weights) for weight in weights]
    points = [max(1, int(share)) for share in exact]
    by_rest = sorted(range(len(weights)), key=lambda i: points[i] - exact[i])
    for i in by_rest[: max(0, POINTS - sum(points))]:
        points[i] += 1
    return points
