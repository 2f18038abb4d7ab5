"""The checks for plugin authors: built-ins and the example pass, faults are found."""

import pytest
from judging_helpers import EXAMPLE

from spct_plugin.engines import Choice
from spct_plugin.parsing import ParsedJudgement
from spct_plugin.plugins import load_plugins
from spct_plugin.templates import load_template
from spct_plugin.testing import ScriptedEngine, check_engine, check_template, check_vote
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
