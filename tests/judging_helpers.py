"""Judges for tests: they read the rendered prompt, so a wrong order shows as a wrong score."""

import re
import tomllib
from pathlib import Path

from spct_plugin import JudgeTask, RewardModel, SPCTConfig
from spct_plugin.engines import Choice

SHOWN = re.compile(
    r"\[The Begin of Response( \d+|)(?: [0-9a-f]{12})?\]\n(.*?)\n\[The End of Response\1", re.DOTALL
)


def box(*scores):
    return f"Analysis: compared.\nScores: \\boxed{{{', '.join(str(score) for score in scores)}}}"


def shown(prompt):
    """Give the completions that a default or single prompt shows, in its order."""
    return [match[2] for match in SHOWN.finditer(prompt)]


def by_content(score):
    """Script a judge that gives each completion shown what `score` says of its text."""
    return lambda request: box(*(score(text) for text in shown(request.prompt)))


def reward_model(engine, *, meta_rm=None, **sections):
    """Make a model with the default template and the given sections of the configuration."""
    sections = {"template": {"name": "default"}, **sections}
    return RewardModel(SPCTConfig.model_validate(sections), engine=engine, meta_rm=meta_rm)


def numbered(n, start=1):
    """Make a task whose completions say the score they deserve."""
    return JudgeTask("Count.", [f"say {start + i}" for i in range(n)])


def said(text):
    return int(text.split()[-1])


class MetaRM:
    """Scores judgements by a function of them, and notes what it was asked."""

    identity = "test-meta-rm"

    def __init__(self, rate):
        self.asked = []
        self.closed = 0
        self._rate = rate

    async def score(self, task, judgements):
        self.asked.append((task, list(judgements)))
        return [self._rate(judgement) for judgement in judgements]

    async def aclose(self):
        self.closed += 1


class Engine:
    """An engine made of an async function of the request; `fits` limits the prompt's characters."""

    identity = "test-engine"

    def __init__(self, generate, max_chars=None):
        self.requests = []
        self.closed = 0
        self.answer = generate
        self._max_chars = max_chars

    @property
    def context(self):
        return self._max_chars

    async def generate(self, request):
        self.requests.append(request)
        answers = await self.answer(request)
        return [a if isinstance(a, Choice) else Choice(a, "stop", 5) for a in answers]

    def fits(self, prompt, max_tokens):
        return self._max_chars is None or len(prompt) <= self._max_chars

    async def aclose(self):
        self.closed += 1


EXAMPLE = Path(__file__).parent / "example_plugin"


def install(folder, name, module, source=None, *, version="1.0", project=None):
    """Put a plugin into a folder as an installer would: its module and its metadata."""
    info = folder / f"{(project or name).replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {project or name}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    entry = f"[spct_plugin]\n{name} = {module}\n"
    (info / "entry_points.txt").write_text(entry, encoding="utf-8")
    if source is not None:
        (folder / f"{module}.py").write_text(source, encoding="utf-8")


def install_example(folder):
    """Install tests/example_plugin from what its pyproject.toml says, without a network."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [(name, module)] = project["entry-points"]["spct_plugin"].items()
    source = (EXAMPLE / f"{module}.py").read_text(encoding="utf-8")
    install(folder, name, module, source, version=project["version"], project=project["name"])
