"""The offline world: instructions read back, and a truth that cannot be talked up."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin.templates import units
from spct_plugin.tiny.lexicon import CARRIERS, END, INCLUDE, OMIT, PARTS, read_phrase
from spct_plugin.tiny.tasks import labelled_tasks
from spct_plugin.tiny.world import (
    CLEAR,
    GOOD,
    Constraint,
    Instruction,
    make_completion,
    make_instruction,
    make_task,
    read_instruction,
    satisfied,
    truth,
)

seeds = st.integers(0, 2**32).map(Random)
ASK = "You must name a place. Try to leave out food. Always end with a period."


@given(seeds)
def test_read_instruction_gives_back_what_was_asked(rng: Random) -> None:
    """Text alone is enough to know the constraints."""
    instruction = make_instruction(rng)
    assert read_instruction(instruction.text) == instruction


@given(st.text())
def test_read_instruction_survives_any_text(text: str) -> None:
    """Text of no known form asks for nothing it did not say."""
    assert isinstance(read_instruction(text), Instruction)


def test_wordings_are_unambiguous() -> None:
    """No two wants share a wording, and no phrase means two things."""
    clauses = [w for table in (INCLUDE, OMIT, END) for words in table.values() for w in words]
    assert len(set(clauses)) == len(clauses)
    parts = [part for words in (*PARTS.values(), CARRIERS) for part in words]
    assert len(set(parts)) == len(parts)


@given(st.text(), st.text())
def test_truth_is_a_share(instruction: str, completion: str) -> None:
    """Any instruction and any completion give a number in [0, 1]."""
    assert 0.0 <= truth(instruction, completion) <= 1.0


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("see you at the park.", 1.0),
        ("See you  at the Park.", 1.0),
        ("see you at the park!", 4 / 7),
        ("we ate soup at the park.", 6 / 7),
        ("we ate soup!", 0.0),
        ("", 0.0),
        (".", 0.0),
        ("at the park, at the park.", 0.5),
        ("at the park, blah blah.", 0.5),
        ("😀\0", 0.0),
    ],
)
def test_truth_weighs_constraints(completion: str, expected: float) -> None:
    """A must weighs 3 and a should 1; repeats and unknown phrases cost their share."""
    assert truth(ASK, completion) == pytest.approx(expected)


@given(seeds)
def test_meeting_one_more_constraint_never_lowers_truth(rng: Random) -> None:
    """Adding a wanted topic in clear words helps."""
    instruction = make_instruction(rng)
    completion = make_completion(rng, instruction, 0.5)
    for constraint in instruction.constraints:
        if constraint.kind != "include" or not satisfied(CLEAR, completion):
            continue
        if not satisfied(constraint, completion):
            better = f"{PARTS[constraint.topic][0]}, {completion}"
            assert truth(instruction.text, better) > truth(instruction.text, completion)


@given(seeds)
def test_flawless_completions_are_all_true(rng: Random) -> None:
    """With a flaw rate of 0 everything is satisfied."""
    instruction = make_instruction(rng)
    assert truth(instruction.text, make_completion(rng, instruction, 0.0)) == 1.0


def test_flaws_lower_the_truth_on_average() -> None:
    """More flaws, less truth."""
    means = []
    for rate in (0.0, 0.25, 0.5, 0.75):
        rng = Random(7)
        asked = [make_instruction(rng) for _ in range(300)]
        means.append(sum(truth(i.text, make_completion(rng, i, rate)) for i in asked) / 300)
    assert all(better > worse + 0.05 for better, worse in pairwise(means))


def test_saying_everything_does_not_pay() -> None:
    """Every instruction forbids something, so one text for all prompts stays mediocre."""
    rng = Random(8)
    asked = [make_instruction(rng) for _ in range(500)]
    everything = ", ".join(parts[0] for parts in PARTS.values()) + "."
    assert all(any(c.kind == "omit" for c in i.constraints) for i in asked)
    assert sum(truth(i.text, everything) for i in asked) / 500 < 0.7


@given(seeds, st.integers(1, 4))
def test_labels_name_the_strictly_best(rng: Random, n: int) -> None:
    """The label is the argmax; for one completion, whether it is good."""
    task, label = make_task(rng, n)
    truths = task.metadata["truth"]
    computed = [truth(task.prompt[0].content, str(c)) for c in task.completions]
    assert truths == computed
    if n == 1:
        assert label == int(truths[0] >= GOOD)
    else:
        assert all(truths[label] > t for i, t in enumerate(truths) if i != label)


def test_labelled_tasks_are_deterministic_and_extend() -> None:
    """The same seed gives the same rows; another seed gives others."""
    rows = list(labelled_tasks(3, 5, 4))
    assert rows == list(labelled_tasks(3, 9, 4))[:5]
    assert rows != list(labelled_tasks(4, 5, 4))
    assert len({row["id"] for row in rows}) == 5


@given(seeds)
def test_template_shows_the_units_of_the_world(rng: Random) -> None:
    """Unless garbled, every unit the judge is shown is known, but the end mark."""
    task, _ = make_task(rng, 1)
    if satisfied(CLEAR, str(task.completions[0])):
        *phrases, mark = units(str(task.completions[0]))
        assert mark in ".!?"
        assert all(read_phrase(phrase) is not None for phrase in phrases)


def test_an_unknown_word_makes_a_phrase_unknown() -> None:
    """Half-known phrases are not understood."""
    assert read_phrase("we ate soup at the park") == ("food", "place")
    assert read_phrase("see you") == ()
    assert read_phrase("we ate soup quickly") is None
    assert not satisfied(Constraint("include", "food"), "we ate soup quickly.")
