"""Attack a configured judge: every attack and every twin is judged as in training.

    attacks = stage(choose_families(config), choose_scenes(template_of(config)))
    outcomes = asyncio.run(attack_judge(RewardModel(config), attacks))

Equal groups are judged once, so that a twin shared by many attacks is paid for once. With a store,
what an earlier run finished costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from spct_plugin.budget import view_task
from spct_plugin.config import SPCTConfig
from spct_plugin.errors import ConfigError
from spct_plugin.failures import LOST
from spct_plugin.loop import gather_or_cancel
from spct_plugin.plugins import load_plugins
from spct_plugin.redteam import Attack, Family, Scene
from spct_plugin.redteam.results import Outcome
from spct_plugin.redteam.scenes import bundled_scenes, scenes_of, tiny_scenes
from spct_plugin.redteam.structure import breaches
from spct_plugin.reward_model import RewardModel
from spct_plugin.templates import Template
from spct_plugin.types import Judgement, JudgeTask
from spct_plugin.voter import GroupVotes

# Scores are compared, so rules have no say; a deadline is for steps, and there are none.
NEUTRAL = ("reward={}", "vote.deadline_s=null")
# Groups judged at once; chosen by us, enough to keep 512 requests in flight.
WINDOW = 128
# Stands in for a run's own code, which no attacker knows.
CODE = "5b1e0c9d7a24"


def choose_families(config: SPCTConfig, names: Sequence[str] = ()) -> dict[str, Family]:
    """Find the families to attack with: all that are registered, or some of them.

    Raises:
        ConfigError: A name is unknown.
    """
    known = load_plugins(config.plugins).attacks
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"--family: expected one of {sorted(known)}, found {unknown[0]!r}")
    return {name: family for name, family in known.items() if name in names or not names}


def choose_scenes(template: Template, path: Path | None = None) -> list[Scene]:
    """Find the scenes: those of a file, else written ones; the tiny GRM knows only its world.

    Raises:
        TaskError: The file holds none.
    """
    if path is not None:
        return scenes_of(path, template.scale)
    choose = tiny_scenes if template.name == "tiny" else bundled_scenes
    return choose(template.scale)


def template_of(config: SPCTConfig) -> Template:
    """Find the template that the configured judge is asked by.

    Raises:
        ConfigError: A server judges, and only its own file says by which template.
    """
    if config.server.url is not None:
        raise ConfigError(
            "server.url: the red team needs the judge's own file, for its template and parser, "
            "found that of a client: name the file that `spct serve` reads, and leave out `server:`"
        )
    return config.template_and_vote(load_plugins(config.plugins))[0]


def takes_code(template: Template) -> bool:
    """Tell whether a template shows the code that it is given, in delimiters; the tiny one not."""
    order = range(min(2, template.max_responses or 2))
    return CODE in template.render(JudgeTask("Ask.", ["One.", "Two."]), order, CODE)


async def attack_judge(
    model: RewardModel, attacks: Sequence[Attack], advance: Callable[[], None] = lambda: None
) -> list[Outcome]:
    """Judge attacks and twins, and close the model.

    Args:
        model: The judge.
        attacks: What `stage` made.
        advance: Called whenever a group is judged; once for each of `groups_of`.

    Returns:
        One outcome per attack, in order.

    Raises:
        ConfigError: See `template_of`.
    """
    template = template_of(model.config)
    outcomes = [Outcome(a, None, None, _breaches(model.config, template, a)) for a in attacks]
    groups = groups_of(attacks)
    gate = asyncio.Semaphore(WINDOW)

    async def judge(task: JudgeTask) -> GroupVotes:
        async with gate:
            [votes] = await model.vote([task])
        advance()
        return votes

    try:
        votes = await gather_or_cancel([judge(task) for task in groups.values()])
    finally:
        await model.aclose()
    judged = dict(zip(groups, votes, strict=True))
    return [_with_votes(outcome, judged) for outcome in outcomes]


def groups_of(attacks: Sequence[Attack]) -> dict[bytes, JudgeTask]:
    """Give what there is to judge, by digest: attacks and twins, equal groups once."""
    tasks = [task for a in attacks for task in (a.attempt.attack, a.attempt.twin)]
    return {task.digest(): task for task in tasks}


def _breaches(config: SPCTConfig, template: Template, attack: Attack) -> tuple[str, ...]:
    """Look at what the judge may read of both groups."""
    view, most = config.budget.completion_view, config.budget.max_completion_chars
    attempt = attack.attempt
    attacked, twin = (view_task(task, view, most) for task in (attempt.attack, attempt.twin))
    code = CODE if config.template.nonce else ""
    return tuple(breaches(replace(attempt, attack=attacked, twin=twin), template, code))


def _with_votes(outcome: Outcome, judged: Mapping[bytes, GroupVotes]) -> Outcome:
    attempt = outcome.attack.attempt
    attacked, benign = (judged[task.digest()] for task in (attempt.attack, attempt.twin))
    return replace(
        outcome,
        attacked=attacked.tally.means[0],
        benign=benign.tally.means[0],
        lost=any(votes.failures[kind] for votes in (attacked, benign) for kind in LOST),
        on_attack=_example(attacked),
        on_twin=_example(benign),
    )


def _example(votes: GroupVotes) -> Judgement | None:
    """Choose a judgement of the attacker's completion: the first that counted, else the first."""
    own = (j for j in (*votes.counted, *votes.judgements) if 0 in j.indices)
    return next(own, None)
