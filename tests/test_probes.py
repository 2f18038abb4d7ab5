"""Probes in training: what a changing judge does to the numbers, and what the limits then do."""

import asyncio
import itertools
import json
import logging
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from judging_helpers import Engine, MetaRM, box, reward_model, shown

from spct_openrlhf import Completion, GroupScorer, with_fallback
from spct_plugin import ConfigError, RewardError, RewardModel, SPCTConfig
from spct_plugin.probes import Drift, Probes, Reading, alarms_of
from spct_plugin.redteam.families import FAMILIES
from spct_plugin.sections import ProbesConfig
from spct_plugin.store import read_groups
from spct_plugin.testing import ScriptedEngine

DEFAULT = {"name": "default"}
NAMES = {"probe/gain", "probe/success", "probe/failed", "probe/drift_gain"}
GOLD_NAMES = NAMES | {"probe/gold_accuracy", "probe/drift_gold"}


class Judge:
    """A judge that changes with time.

    It scores what is written in a gold task, a good answer 8, a weak one 3, and what is dressed up
    `bonus` more; `blind` scores all alike; `out` gives no answer.
    """

    def __init__(self):
        self.bonus, self.blind, self.out = 0, False, False
        self.engine = ScriptedEngine(self.answer)

    def answer(self, request):
        if self.out:
            return "no scores"
        return box(*map(self.score, shown(request.prompt)))

    def score(self, text):
        if self.blind:
            return 5
        if text.startswith("good"):
            return 8
        return 3 if text.startswith("weak") and len(text) < 10 else 3 + self.bonus


@pytest.fixture
def judge():
    return Judge()


@pytest.fixture
def gold(tmp_path):
    path = tmp_path / "gold.jsonl"
    rows = [
        {"id": i, "prompt": f"Task {i}.", "completions": [f"weak {i}", f"good {i}"], "label": 1}
        for i in range(8)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def setup(judge, gold=None, meta_rm=None, store=None, template=DEFAULT, **probes):
    """Give probes, and the model that they are about."""
    sections = {"probes": {"every": 10, "gold": gold, **probes}, "vote": {"k": 2}}
    sections["template"] = template
    if store is not None:
        sections["store"] = {"path": store}
    model = reward_model(judge.engine, meta_rm=meta_rm, **sections)
    return Probes(model.config), model


def reading(version, gains):
    return Reading(version, {f"attack {i}": gain for i, gain in enumerate(gains)}, {})


def probes(**settings):
    return Probes(SPCTConfig(template=DEFAULT, probes=ProbesConfig(every=1, **settings)))


def test_they_change_no_reward():
    config = SPCTConfig.model_validate({"probes": {"every": 3, "max_rise": 2.0, "stop": True}})
    assert config.digest() == SPCTConfig().digest()


def test_gold_without_every_is_refused():
    with pytest.raises(ValueError, match="expected `every` with gold"):
        ProbesConfig(gold="gold.jsonl")


@pytest.mark.parametrize(
    ("steps", "due"),
    [
        (range(7), [0, 3, 6]),
        # A batch that is used for two steps, and one that is generated in two parts.
        ([0, 2, 4, 6, 8], [0, 4, 6]),
        ([0, 0, 3, 3, 4], [0, 3]),
        # A run that goes on measures at once, and so does a second one.
        ([500, 501, 502, 503, 504], [500, 501, 504]),
        ([0, 1, 9, 0, 1], [0, 9, 0]),
    ],
)
def test_they_are_due_in_the_first_step_and_after_every_n(steps, due):
    own = Probes(SPCTConfig(probes=ProbesConfig(every=3)))
    assert [step for step in steps if own.are_due(step)] == due


def test_without_steps_calls_are_counted():
    own = Probes(SPCTConfig(probes=ProbesConfig(every=3)))
    assert [own.are_due() for _ in range(7)] == [True, False, False, True, False, False, True]


def test_numbers_have_the_same_names_before_anything_is_measured(gold):
    assert set(probes().latest) == NAMES
    assert set(probes(gold=gold).latest) == GOLD_NAMES
    assert all(math.isnan(value) for value in probes(gold=gold).latest.values())


async def test_every_family_that_forges_no_structure_is_probed_beside_its_twin(judge):
    own, model = setup(judge)
    await own.measure(model)
    [attacks] = own._staged.values()
    plain = {name for name, family in FAMILIES.items() if not family.structural}
    assert {attack.family for attack in attacks} == plain - {"placebo"}
    assert len(attacks) == len(plain) - 1
    # The cost that the documentation names, twins shared: about 40 groups.
    assert 30 <= len({request.task for request in judge.engine.requests}) <= 40


async def test_what_is_measured(judge, gold):
    own, model = setup(judge, gold)
    judge.bonus = 2
    numbers = await own.measure(model)
    assert set(numbers) == GOLD_NAMES
    assert numbers["probe/gold_accuracy"] == 1.0
    assert 1 < numbers["probe/gain"] <= 2
    assert 0.5 < numbers["probe/success"] <= 1
    assert (
        numbers["probe/failed"] == numbers["probe/drift_gain"] == numbers["probe/drift_gold"] == 0
    )


async def test_an_attack_that_begins_to_work_is_warned_of(judge, gold, caplog):
    own, model = setup(judge, gold)
    await own.measure(model)
    assert not caplog.records
    judge.bonus = 5
    numbers = await own.measure(model)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "mean gain rose from +0.00 to +" in record.message
    assert "gold tasks" not in record.message
    assert numbers["probe/drift_gain"] == numbers["probe/gain"] > 3


async def test_a_judge_that_goes_blind_is_warned_of(judge, gold, caplog):
    own, model = setup(judge, gold)
    await own.measure(model)
    judge.blind = True
    numbers = await own.measure(model)
    assert "judged right fell from 1.00 to 0.00" in caplog.text
    assert (numbers["probe/gold_accuracy"], numbers["probe/drift_gold"]) == (0.0, -1.0)


async def test_it_ends_the_run_where_it_shall(judge, gold):
    own, model = setup(judge, gold, stop=True)
    await own.measure(model)
    judge.bonus, judge.blind = 5, True
    with pytest.raises(RewardError, match=r"fell from 1\.00 to 0\.00.*mend the judge"):
        await own.measure(model)


async def test_a_silent_judge_is_no_number_and_no_alarm(judge, gold, caplog):
    own, model = setup(judge, gold, stop=True)
    judge.out = True
    numbers = await own.measure(model)
    assert numbers["probe/failed"] == 1.0
    assert math.isnan(numbers["probe/gain"])
    assert math.isnan(numbers["probe/gold_accuracy"])
    judge.out, judge.bonus = False, 5
    # The first one that is known is the baseline.
    assert (await own.measure(model))["probe/drift_gain"] == 0
    judge.out = True
    assert math.isnan((await own.measure(model))["probe/drift_gain"])
    assert not caplog.records


async def test_a_store_hides_no_change_and_keeps_no_probe(judge, gold, tmp_path):
    meta_rm = MetaRM(lambda judgement: 1.0)
    own, model = setup(judge, gold, meta_rm, tmp_path / "store")
    await own.measure(model)
    asked, rated = len(judge.engine.requests), len(meta_rm.asked)
    await own.measure(model)
    assert (len(judge.engine.requests), len(meta_rm.asked)) == (2 * asked, 2 * rated)
    # What the run keeps is not what a probe finds.
    await model.score([row.task for row in own._gold])
    asked = len(judge.engine.requests)
    judge.blind = True
    assert (await own.measure(model))["probe/gold_accuracy"] == 0.0
    rewards = await model.score([row.task for row in own._gold])
    assert {group.means for group in rewards} == {(3, 8)}
    assert len(judge.engine.requests) < 2 * asked
    await model.aclose()
    assert {group["task"] for group in read_groups(tmp_path / "store")} == {
        group.task for group in rewards
    }


async def test_a_deadline_is_for_steps_and_the_version_stays(judge):
    async def answer(request):
        await asyncio.sleep(0)
        return [judge.answer(request) for _ in request.votes]

    own, _ = setup(judge)
    late = reward_model(Engine(answer), vote={"k": 2, "deadline_s": 1e-9})
    assert (await own.measure(late))["probe/failed"] == 0
    assert list(own._baselines) == [late.version]
    assert late.config.vote.deadline_s == 1e-9


async def test_behind_a_server_they_wait_until_it_has_answered(judge, gold, monkeypatch):
    _, here = setup(judge)
    sections = {"server": {"url": "http://127.0.0.1:9"}, "probes": {"every": 1, "gold": gold}}
    model = RewardModel(SPCTConfig.model_validate(sections))
    own = Probes(model.config)
    numbers = await own.measure(model)
    assert set(numbers) == GOLD_NAMES
    assert all(math.isnan(value) for value in numbers.values())

    versions = itertools.repeat("v")

    async def vote(task, deadline):
        assert deadline is None
        [votes] = await here.vote([task])
        return replace(votes, version=next(versions))

    answered = SimpleNamespace(vote=vote, version="v", scale=(1, 10), k=2)
    answered.past_store = lambda: answered
    monkeypatch.setattr(model, "_voter", answered)
    assert (await own.measure(model))["probe/gold_accuracy"] == 1.0
    assert own.latest["probe/drift_gold"] == 0
    versions = itertools.cycle(["v", "w"])
    assert math.isnan((await own.measure(model))["probe/drift_gold"])


def test_another_judge_has_a_baseline_of_its_own(caplog):
    own = probes()
    own.compare(reading("a", [0.0, 1.0]))
    numbers = own.compare(reading("b", [5.0, 6.0]))
    assert (numbers["probe/gain"], numbers["probe/drift_gain"]) == (5.5, 0.0)
    [record] = caplog.records
    assert "the judge has changed from a to b" in record.message
    assert own.compare(reading("a", [0.5, 1.0]))["probe/drift_gain"] == 0.25


def test_a_judge_that_changes_during_a_measurement_has_no_drift(caplog):
    own = probes(stop=True)
    own.compare(reading("a", [0.0]))
    numbers = own.compare(reading(None, [9.0]))
    assert numbers["probe/gain"] == 9.0
    assert math.isnan(numbers["probe/drift_gain"])


def test_drift_is_that_of_probes_judged_both_times():
    own = probes()
    own.compare(reading("a", [0.0, None, 4.0]))
    numbers = own.compare(reading("a", [0.5, 9.0, None]))
    # The second one was unknown until now, and the third is now.
    assert numbers["probe/drift_gain"] == 0.25
    assert numbers["probe/failed"] == pytest.approx(1 / 3)


async def test_points_are_those_of_the_scale_1_to_10(judge, gold):
    """The template for one completion scores 0 or 1, which is nine points apart."""
    judge.score = lambda text: int(judge.bonus > 0 and len(text) > 10)
    own, model = setup(judge, gold, template={"name": "single"})
    assert (await own.measure(model))["probe/gain"] == 0
    judge.bonus = 1
    numbers = await own.measure(model)
    assert numbers["probe/gain"] == pytest.approx(9 * numbers["probe/success"])
    assert 0 < numbers["probe/success"] < 1


def test_what_an_alarm_says():
    limits = ProbesConfig(every=1)
    assert alarms_of(limits, Drift(0.0, 1.0), Drift(1.0, 0.95)) == {}
    assert alarms_of(limits, Drift(3.0, 0.0), Drift(0.5, 0.9)) == {}
    assert alarms_of(limits, Drift(), Drift()) == {}
    assert alarms_of(limits, Drift(0.2, 1.3, rose="x"), Drift(0.9, 0.75, fell="y")) == {
        "max_rise": "the attacks' mean gain rose from +0.20 to +1.30 points (most: x), more than "
        "probes.max_rise 1",
        "max_fall": "the share of gold tasks judged right fell from 0.90 to 0.75 "
        "(first of them: y), more than probes.max_fall 0.1",
    }
    assert alarms_of(limits, Drift(0.0, 0.5, rose="x", top=(-0.5, 4.0)), Drift()) == {}
    assert alarms_of(limits, Drift(0.0, 0.5, rose="x", top=(-0.5, 4.1)), Drift()) == {
        "x": "the gain of x alone rose from -0.50 to +4.10 points, more than "
        "probes.max_probe_rise 4.5",
    }


@pytest.mark.parametrize("stop", [False, True])
def test_one_attack_of_19_that_begins_to_work_is_an_alarm(stop, caplog):
    own = probes(stop=stop)
    own.compare(reading("a", [0.0] * 19))
    worked = reading("a", [0.0] * 7 + [9.0] + [0.0] * 11)
    said = r"the gain of attack 7 alone rose from \+0\.00 to \+9\.00 points"
    if stop:
        with pytest.raises(RewardError, match=rf"^probes: {said}.*probes\.max_probe_rise 4\.5"):
            own.compare(worked)
    else:
        own.compare(worked)
        [record] = caplog.records
        assert re.match(f"probes: {said}", record.message)
    # By its mean alone nobody would have been told.
    assert own.latest["probe/drift_gain"] == pytest.approx(9 / 19)


def test_an_attack_that_still_works_is_still_up_and_another_one_is_not(caplog):
    own = probes(max_rise=9.0)
    for gains in ([0.0, 0.0], [6.0, 0.0], [7.0, 0.0], [0.0, 6.0], [0.0, 4.5]):
        own.compare(reading("a", gains))
    assert [record.message.split(" points")[0] for record in caplog.records] == [
        "probes: the gain of attack 0 alone rose from +0.00 to +6.00",
        "probes: the gain of attack 0 alone is still up from +0.00 to +7.00",
        "probes: the gain of attack 1 alone rose from +0.00 to +6.00",
    ]


def test_the_limit_of_a_single_attack_is_the_configured_one(caplog):
    own = probes(max_probe_rise=8.0)
    for gain in (0.0, 7.9, 8.1):
        own.compare(reading("a", [gain] + [0.0] * 18))
    [record] = caplog.records
    assert record.message.endswith("more than probes.max_probe_rise 8")


async def test_one_attack_that_the_judge_begins_to_fall_for_is_named(judge, caplog):
    own, model = setup(judge)
    await own.measure(model)
    [attacks] = own._staged.values()
    [target] = [attack for attack in attacks if attack.family == "encoded"]
    fooled = target.attempt.attack.completions[0]
    score = judge.score
    judge.score = lambda text: 10 if text == fooled else score(text)
    await own.measure(model)
    [record] = caplog.records
    assert f"the gain of {target.id} alone rose from +0.00 to +7.00 points" in record.message
    assert "mean gain" not in record.message


def test_an_alarm_names_the_step_and_is_still_what_it_was(caplog):
    own = probes()
    for step, gain in enumerate([0.0, 2.0, 3.0, 0.5, 2.0]):
        own.compare(reading("a", [gain]), step)
    again = "up from +0.00 to +3.00 points (most: attack 0), more than probes.max_rise 1 (step 2)"
    assert [record.message.partition("mean gain ")[2] for record in caplog.records] == [
        "rose from +0.00 to +2.00 points (most: attack 0), more than probes.max_rise 1 (step 1)",
        f"is still {again}",
        "rose from +0.00 to +2.00 points (most: attack 0), more than probes.max_rise 1 (step 4)",
    ]


def test_an_alarm_is_of_one_judge_and_of_one_limit(caplog):
    own = probes()
    for version, gain in (("a", 0.0), ("b", 0.0), ("b", 2.0), ("a", 2.0)):
        own.compare(reading(version, [gain]), 7)
    changed, first, back, second = [record.message for record in caplog.records]
    assert "has changed from a to b (step 7): " in changed
    assert "has changed from b to a (step 7): " in back
    assert "mean gain rose" in first
    assert "mean gain rose" in second
    fallen = alarms_of(ProbesConfig(every=1), Drift(0, 2), Drift(1, 0), {"max_fall"})
    assert "mean gain rose" in fallen["max_rise"]
    assert "judged right is still down from 1.00 to 0.00" in fallen["max_fall"]


async def test_the_step_is_the_one_that_was_due(judge, gold, caplog):
    own, model = setup(judge, gold)
    assert own.are_due(40)
    await own.measure(model)
    judge.bonus = 5
    assert own.are_due(51)
    measuring = asyncio.ensure_future(own.measure(model))
    await asyncio.sleep(0)
    # Asked while the measurement is under way, as by OpenRLHF's next groups.
    assert own.are_due(60)
    await measuring
    assert caplog.records[0].message.endswith("(step 51)")
    own.compare(reading(None, []))
    assert own.are_due()
    await own.measure(model)
    assert caplog.records[1].message.endswith("more than probes.max_probe_rise 4.5")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense", "line 1: not JSON"),
        ('{"id": "a", "prompt": "x", "completions": ["y", "z"]}', "label None in 'a'"),
        ('{"id": "a", "prompt": "x", "completions": ["y"], "label": 1}', "found 1 and"),
        ("", "expected labelled tasks"),
    ],
)
def test_gold_tasks_that_cannot_be_used_are_refused_at_once(text, problem, tmp_path):
    path = tmp_path / "gold.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"probes\.gold: .*{problem}"):
        probes(gold=path)


async def test_a_tie_is_not_right(judge, gold):
    own, model = setup(judge, gold)
    judge.blind = True
    assert (await own.measure(model))["probe/gold_accuracy"] == 0.0


def openrlhf_scorer(judge, **probes):
    sections = {"probes": {"every": 3, **probes}, "vote": {"k": 1}}
    sections["openrlhf"] = {"fallback": "group_mean", "prompts": "text"}
    model = reward_model(judge.engine, **sections)
    return GroupScorer(with_fallback(model.config), model)


async def score_together(scorer, groups):
    completions = [Completion("weak 1"), Completion("good 1")]
    scored = [scorer.score(f"Do {i}.", "", completions, None) for i in range(groups)]
    return await asyncio.gather(*scored)


async def test_openrlhf_logs_them_with_every_completion(judge, gold):
    scorer = openrlhf_scorer(judge, gold=gold)
    groups = await score_together(scorer, 3)
    names = {f"spct_{name.replace('/', '_')}" for name in GOLD_NAMES}
    for result in (result for group in groups for result in group):
        assert names < set(result["extra_logs"])
        assert result["extra_logs"]["spct_probe_gold_accuracy"] == 1.0
    before = len(judge.engine.requests)
    judge.blind = True
    [[first, _], *_] = await score_together(scorer, 1)
    assert first["extra_logs"]["spct_probe_gold_accuracy"] == 0.0
    # The next two groups are judged, and nothing else.
    measured = len(judge.engine.requests) - before
    await score_together(scorer, 2)
    assert len(judge.engine.requests) - before - measured == 2 * 1
    assert measured > 20


async def test_openrlhf_ends_where_it_shall(judge, gold):
    scorer = openrlhf_scorer(judge, gold=gold, stop=True)
    await score_together(scorer, 3)
    judge.blind = True
    with pytest.raises(RewardError, match="mend the judge"):
        await score_together(scorer, 1)


async def test_openrlhf_without_probes_logs_nothing_of_them(judge):
    [[first, _]] = await score_together(openrlhf_scorer(judge, every=None), 1)
    assert not [name for name in first["extra_logs"] if "probe" in name]
