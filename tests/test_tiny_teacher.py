"""The noisy teacher: readable, right when careful, wrong when sloppy."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spct_plugin.parsing import parse_judgement
from spct_plugin.tiny.teacher import (
    FAULTLESS,
    POINTS,
    Teacher,
    criterion,
    is_sloppy,
    judge_task,
    make_drill,
    read_criterion,
)
from spct_plugin.tiny.world import CLEAR, make_task, read_instruction

seeds = st.integers(0, 2**32).map(Random)
sizes = st.integers(1, 4)


@given(seeds, sizes)
def test_faultless_judgements_parse(rng: Random, n: int) -> None:
    """Three parts: weighted principles that were asked for, totals in the analysis, scores."""
    task, _ = make_task(rng, n)
    text = judge_task(rng, FAULTLESS, task, range(n))
    parsed = parse_judgement(text, n)
    asked = {criterion(c) for c in (*read_instruction(task.prompt[0].content).constraints, CLEAR)}
    assert parsed.scores is not None
    assert {principle.text for principle in parsed.principles} <= asked
    assert sum(int(principle.weight or 0) for principle in parsed.principles) == POINTS
    totals = [int(part.split(".")[0]) for part in parsed.critique.split("total ")[1:]]
    assert parsed.scores == tuple(max(1, total) for total in totals)
    assert not is_sloppy(text)


@given(seeds, sizes)
def test_drills_parse(rng: Random, n: int) -> None:
    """A drill's answer restates the given criteria and scores every completion."""
    task, answer = make_drill(rng, n)
    parsed = parse_judgement(answer, n)
    assert parsed.scores is not None
    assert parsed.principles == task.principles


@given(seeds, st.integers(2, 4))
def test_broken_formats_fail(rng: Random, n: int) -> None:
    """What the teacher breaks on purpose, the parser refuses."""
    task, _ = make_task(rng, n)
    assert parse_judgement(judge_task(rng, Teacher(broken=1), task, range(n)), n).failure


def accuracy(teacher: Teacher, n: int = 2, count: int = 300) -> float:
    """Let a teacher judge fresh tasks once each; ties and failures are no hit."""
    rng, hits = Random(11), 0
    for _ in range(count):
        task, label = make_task(rng, n)
        scores = parse_judgement(judge_task(rng, teacher, task, range(n)), n).scores
        hits += (
            scores is not None and scores[label] == max(scores) and scores.count(max(scores)) == 1
        )
    return hits / count


def test_careful_judgements_are_right_and_sloppy_ones_are_not() -> None:
    """What separates the teacher's two manners is accuracy, not format."""
    assert accuracy(FAULTLESS) > 0.75
    assert accuracy(Teacher(sloppy=0)) > accuracy(Teacher(sloppy=1)) + 0.2


def test_share_of_sloppy_and_broken_judgements() -> None:
    """The mix is what the defaults say."""
    rng = Random(12)
    texts = [judge_task(rng, Teacher(), make_task(rng, 2)[0], range(2)) for _ in range(600)]
    assert 0.3 < sum(map(is_sloppy, texts)) / 600 < 0.55
    assert 0.01 < sum(parse_judgement(text, 2).scores is None for text in texts) / 600 < 0.08


@pytest.mark.parametrize(
    "name", ["tone", "includes gold", "omits greeting", "reads", "", "ends food"]
)
def test_vague_and_unknown_criteria_stand_for_nothing(name: str) -> None:
    """Only what the world can check is read."""
    assert read_criterion(name) is None


@given(seeds)
def test_criteria_round_trip(rng: Random) -> None:
    """A constraint's name leads back to it."""
    for constraint in read_instruction(make_task(rng, 1)[0].prompt[0].content).constraints:
        found = read_criterion(criterion(constraint))
        assert found is not None
        assert (found.kind, found.topic) == (constraint.kind, constraint.topic)
