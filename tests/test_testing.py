"""The checks for plugin authors: built-ins and the example pass, faults are found."""

import pytest
from judging_helpers import EXAMPLE, MetaRM

from spct_plugin import JudgeTask, PluginError
from spct_plugin.engines import Choice
from spct_plugin.parsing import ParsedJudgement
from spct_plugin.plugins import load_plugins
from spct_plugin.redteam import Attempt, Family
from spct_plugin.templates import load_meta_template, load_template
from spct_plugin.testing import (
    ScriptedEngine,
    check_attacks,
    check_engine,
    check_meta_rm,
    check_template,
    check_vote,
)
from spct_plugin.voting import Tally

REGISTRY = load_plugins([EXAMPLE / "spct_example.py"])


async def test_the_scripted_engine_and_the_example_pass():
    await check_engine(ScriptedEngine(["hello"]))
    await check_engine(REGISTRY.engines["keyword"](kind="keyword", word="x").build())


@pytest.mark.parametrize("name", REGISTRY.templates)
def test_every_template_passes(name):
    check_template(REGISTRY.templates[name])


@pytest.mark.parametrize("name", REGISTRY.votes)
def test_every_vote_passes(name):
    check_vote(REGISTRY.votes[name])


class Generous(ScriptedEngine):
    async def generate(self, request):
        return [Choice("hello")] * 3


class Nameless(ScriptedEngine):
    def __init__(self):
        super().__init__(["hello"])
        self.identity = ""


@pytest.mark.parametrize("engine", [Generous(["x"]), Nameless()])
async def test_a_faulty_engine_is_found(engine):
    with pytest.raises(AssertionError, match="expected"):
        await check_engine(engine)


async def test_the_examples_meta_rm_passes():
    template = load_meta_template("meta", {})
    await check_meta_rm(REGISTRY.meta_rms["short"](kind="short").build(template))


class Anonymous(MetaRM):
    identity = ""


class Hasty(MetaRM):
    async def score(self, task, judgements):
        return [1.0] * min(2, len(judgements))


class ByPlace(MetaRM):
    async def score(self, task, judgements):
        return [float(place) for place in range(len(judgements))]


class Moody(MetaRM):
    async def score(self, task, judgements):
        return [None, *[1.0] * (len(judgements) - 1)] if judgements else []


@pytest.mark.parametrize(
    ("meta_rm", "message"),
    [
        (Anonymous(len), "expected an identity"),
        (Hasty(len), "expected one score or None for each of 3"),
        (ByPlace(len), "in another order"),
        (Moody(len), "again"),
        (MetaRM(lambda judgement: float("nan")), "expected a number or None"),
    ],
)
async def test_a_faulty_meta_rm_is_found(meta_rm, message):
    with pytest.raises(AssertionError, match=message):
        await check_meta_rm(meta_rm)


class Inventive:
    name, scale, max_responses = "inventive", (1, 10), None

    def render(self, task, order, nonce=""):
        return " ".join(str(task.completions[i]) for i in order)

    def parse(self, text, n, finish_reason):
        return ParsedJudgement((5,) * n)


class Forgetful(Inventive):
    def render(self, task, order, nonce=""):
        return str(task.completions[order[0]])


@pytest.mark.parametrize("template", [Inventive(), Forgetful()])
def test_a_faulty_template_is_found(template):
    with pytest.raises(AssertionError, match=r"expected no scores|a completion is missing"):
        check_template(template)


def test_a_faulty_vote_is_found():
    def zeros(scores_K_N, n):
        return Tally((0.0,) * n, (len(scores_K_N),) * n, (0.0,) * n)

    with pytest.raises(AssertionError, match="expected None for what no vote saw"):
        check_vote(zeros)


def test_a_users_file_passes(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ query }}{% for block in blocks %}\n{{ block }}{% endfor %}")
    check_template(load_template(str(path)))


@pytest.mark.parametrize("name", REGISTRY.attacks)
def test_every_family_of_attacks_passes(name):
    check_attacks(REGISTRY.attacks[name])


def no_twin(scene):
    yield scene.replaced("same", scene.weak)


def other_names(scene):
    yield scene.dressed(scene.id, "hello")


def one_name_twice(scene):
    yield from [scene.dressed("hello", "hello")] * 2


def another_size(scene):
    bigger = JudgeTask(scene.prompt, ["a", "b", "c"])
    yield Attempt("bigger", bigger, scene.dressed("x", "y").twin)


@pytest.mark.parametrize(
    "build", [no_twin, other_names, one_name_twice, another_size, lambda _: []]
)
def test_a_faulty_family_of_attacks_is_found(build):
    with pytest.raises((AssertionError, PluginError), match=r"expected|same as its twin"):
        check_attacks(Family(build, "faulty"))
