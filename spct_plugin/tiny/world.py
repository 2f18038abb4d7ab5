"""The offline world: instructions a program can check, and completions of known truth.

    instruction = make_instruction(Random(0))
    truth(instruction.text, "hello, we met anna at the park.")  # 0.0 .. 1.0

The truth knows nothing of a judge, and no judge may import it: it trains and tests the tiny models.
It is not a benchmark of anything but the code paths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from spct_plugin.tiny.lexicon import (
    ADVERBIALS,
    CARRIERS,
    CLOSERS,
    END,
    FORMS,
    INCLUDE,
    MARKS,
    MUST,
    OMIT,
    OPENERS,
    OPENINGS,
    PARTS,
    PEOPLE,
    SENTENCES,
    SHOULD,
    TOPICS,
    read_phrase,
    split_completion,
)
from spct_plugin.types import JudgeTask

Kind = Literal["include", "omit", "end", "clear"]

MUST_WEIGHT, SHOULD_WEIGHT = 3, 1
GOOD = 0.7
"""From this truth on a single completion is good (label 1); chosen by us: about 45 % are."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One thing an instruction asks for.

    Attributes:
        kind: "include" or "omit" a topic, "end" with a mark, or be "clear" (never asked in words).
        topic: A topic, or the name of a mark; "" for "clear".
        weight: 3 for a must, 1 for a should.
    """

    kind: Kind
    topic: str
    weight: int = MUST_WEIGHT


CLEAR = Constraint("clear", "")


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the policy is told to write.

    Attributes:
        text: The English.
        constraints: What the text asks for, in its order.
    """

    text: str
    constraints: tuple[Constraint, ...]


def make_instruction(rng: Random) -> Instruction:
    """Ask for 4 to 7 things; one topic at least is barred, so that saying everything never pays."""
    topics = rng.sample(TOPICS, rng.randint(4, 6))
    barred = rng.choice([topic for topic in topics if topic in OMIT] or ["food"])
    kinds: list[tuple[Kind, str]] = [("omit", barred)]
    for topic in topics:
        if topic != barred:
            omit = topic in OMIT and rng.random() < 0.3
            kinds.append(("omit" if omit else "include", topic))
    if rng.random() < 0.4:
        kinds[-1] = ("end", rng.choice(list(MARKS)))
    rng.shuffle(kinds)
    constraints = tuple(
        Constraint(*kind, rng.choice((MUST_WEIGHT, SHOULD_WEIGHT))) for kind in kinds
    )
    return Instruction(_word_instruction(rng, constraints), constraints)


def read_instruction(text: str) -> Instruction:
    """Find the constraints in any text; sentences of another form ask for nothing."""
    found: dict[Constraint, None] = {}
    for sentence in re.split(r"[.\n]", text.lower()):
        opener = next((o for o in MUST + SHOULD if sentence.strip().startswith(o + " ")), None)
        if opener is None:
            continue
        weight = MUST_WEIGHT if opener in MUST else SHOULD_WEIGHT
        for clause in sentence.strip()[len(opener) :].split(" and "):
            if (kind := _KIND_OF.get(clause.strip())) is not None:
                found[Constraint(*kind, weight)] = None
    return Instruction(text, tuple(found))


def satisfied(constraint: Constraint, completion: str) -> bool:
    """Check one constraint. An empty completion satisfies none."""
    phrases, mark = split_completion(completion)
    if not phrases:
        return False
    if constraint.kind == "end":
        return mark == MARKS[constraint.topic]
    if constraint.kind == "clear":
        return _clear_share(phrases) == 1.0
    topics = {topic for phrase in phrases for topic in read_phrase(phrase) or ()}
    return (constraint.topic in topics) == (constraint.kind == "include")


def truth(instruction_text: str, completion: str) -> float:
    """Weigh what is satisfied, times the share of phrases that are understood and not repeats.

    Returns:
        0.0 (nothing) to 1.0 (everything, clearly said). An instruction without constraints asks
        only for clear phrases.
    """
    constraints = read_instruction(instruction_text).constraints
    total = sum(constraint.weight for constraint in constraints)
    met = sum(c.weight for c in constraints if satisfied(c, completion))
    return (met / total if total else 1.0) * _clear_share(split_completion(completion)[0])


def make_completion(rng: Random, instruction: Instruction, flaw_rate: float) -> str:
    """Write a completion that breaks each constraint with probability `flaw_rate`."""
    topics: set[str] = set()
    mark = rng.choice(list(MARKS))
    for constraint in instruction.constraints:
        flawed = rng.random() < flaw_rate
        if constraint.kind == "end":
            others = [name for name in MARKS if name != constraint.topic]
            mark = rng.choice(others) if flawed else constraint.topic
        elif (constraint.kind == "include") != flawed:
            topics.add(constraint.topic)
    free = [t for t in TOPICS if all(t != c.topic for c in instruction.constraints)]
    topics.update(rng.sample(free, rng.choice((0, 1, 1, 2))))
    phrases = _phrases_about(rng, topics)
    if rng.random() < 0.2 * flaw_rate:
        phrases = _garble(rng, phrases)
    return ", ".join(phrases) + MARKS[mark]


def make_task(rng: Random, n: int) -> tuple[JudgeTask, int]:
    """Make an instruction with n different completions, and its label.

    Args:
        rng: Source of all chance.
        n: Completions, n >= 1.

    Returns:
        The task (with `metadata["truth"]`), and the index of the one best completion; for n = 1:
        1 when it is good, else 0.
    """
    while True:
        instruction = make_instruction(rng)
        completions = [make_completion(rng, instruction, rng.uniform(0.05, 0.7)) for _ in range(n)]
        truths = [truth(instruction.text, completion) for completion in completions]
        ranked = sorted(truths, reverse=True)
        if len(set(completions)) == n and (n == 1 or ranked[0] - ranked[1] > 1e-9):
            break
    label = truths.index(ranked[0]) if n > 1 else int(truths[0] >= GOOD)
    return JudgeTask(instruction.text, completions, metadata={"truth": truths}), label


_CLAUSES_OF: dict[Kind, dict[str, tuple[str, ...]]] = {"include": INCLUDE, "omit": OMIT, "end": END}
_KIND_OF: dict[str, tuple[Kind, str]] = {
    wording: (kind, topic)
    for kind, clauses in _CLAUSES_OF.items()
    for topic, wordings in clauses.items()
    for wording in wordings
}
_CLAUSES = {
    kind: [wording for wording, its_kind in _KIND_OF.items() if its_kind == kind]
    for kind in _KIND_OF.values()
}


def _word_instruction(rng: Random, constraints: Sequence[Constraint]) -> str:
    """Say the constraints in English; two neighbours of equal weight may share a sentence."""
    text = rng.choice(OPENINGS).format(form=rng.choice(FORMS), person=rng.choice(PEOPLE))
    previous = None
    for constraint in constraints:
        clause = rng.choice(_CLAUSES[constraint.kind, constraint.topic])
        if previous == constraint.weight and rng.random() < 0.4:
            text = f"{text[:-1]} and {clause}."
            previous = None
        else:
            openers = MUST if constraint.weight == MUST_WEIGHT else SHOULD
            text += f" {rng.choice(openers).capitalize()} {clause}."
            previous = constraint.weight
    return text


def _phrases_about(rng: Random, topics: set[str]) -> list[str]:
    """Say the topics: a greeting first, then sentences with their place and day, then the rest."""
    said = {topic: rng.choice(PARTS[topic]) for topic in TOPICS if topic in topics}
    sentences = [said[topic] for topic in SENTENCES if topic in said]
    closers = [said[topic] for topic in CLOSERS if topic in said]
    rng.shuffle(sentences)
    rng.shuffle(closers)
    if not sentences and (not said or topics & set(ADVERBIALS)):
        sentences = [rng.choice(CARRIERS)]
    for topic in ADVERBIALS:
        if topic in said:
            at = rng.randrange(len(sentences))
            sentences[at] += f" {said[topic]}"
    return [said[topic] for topic in OPENERS if topic in said] + sentences + closers


def _garble(rng: Random, phrases: list[str]) -> list[str]:
    """Spoil one phrase: say it twice, lose a word, or mix up its words."""
    at = rng.randrange(len(phrases))
    words = phrases[at].split()
    if len(words) == 1 or rng.random() < 0.4:
        return [*phrases[: at + 1], phrases[at], *phrases[at + 1 :]]
    if rng.random() < 0.5:
        words.pop(rng.randrange(len(words)))
    else:
        rng.shuffle(words)
    return [*phrases[:at], " ".join(words), *phrases[at + 1 :]]


def _clear_share(phrases: Sequence[str]) -> float:
    """Share of the phrases that are understood, each counted once; 0 for none."""
    understood = {phrase for phrase in phrases if read_phrase(phrase) is not None}
    return len(understood) / len(phrases) if phrases else 0.0
