"""Judge labelled tasks into files, and compare what stands there with the labels.

    run = prepare(Path("tasks.jsonl"), Path("judged.jsonl"), ks=[1, 2, 4], k_metas=[], load=load)
    run.evaluate(judge)    # what was found, and how many rows infrastructure spoilt

It may be stopped and started at any time: finished judgements are only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spct_plugin.config import SPCTConfig
from spct_plugin.data import check_writable
from spct_plugin.data.judged import read_judged, recorded_votes
from spct_plugin.data.rows import BadRow, read_tasks
from spct_plugin.errors import ConfigError, TaskError
from spct_plugin.evaluation import Evaluation, evaluate
from spct_plugin.evaluation.blocks import JudgedTask
from spct_plugin.plugins import load_plugins
from spct_plugin.types import Judgement
from spct_plugin.voting import Vote

# Neither rewards nor the way of voting matter while judging; fixed, so that other ones reuse the
# judgements. Rules beside the judge are not asked, and no reward can stop the run.
NEUTRAL = ("vote.stop=never", "vote.how=mean", "vote.k_meta=null", "reward={}")
NO_META = "meta_rm=null"

Load = Callable[[Sequence[str]], SPCTConfig]
"""Loads the user's configuration with overrides after the user's own."""
Judge = Callable[[SPCTConfig, Path, Path, str], int]
"""Judges what is missing: configuration, tasks, judged rows, what to call it. Gives how many rows
lost judgements to infrastructure."""
Labels = Mapping[str, tuple[int, int]]
"""Id to the number of completions and the label."""


@dataclass(frozen=True, slots=True)
class Run:
    """What to judge and what to compare.

    Attributes:
        source: Labelled tasks.
        judged: Their sampled judgements; resumed.
        ks: Numbers of votes to compare, ascending.
        k_metas: Votes that the meta RM keeps of the largest k; empty = it is not asked.
        sampled: Judges with as many votes as `judged` holds, or the largest k.
        greedy: Judges once, at temperature 0.
        vote: How scores become means.
    """

    source: Path
    judged: Path
    ks: Sequence[int]
    k_metas: Sequence[int]
    sampled: SPCTConfig
    greedy: SPCTConfig
    vote: Vote

    @property
    def judged_greedily(self) -> Path:
        """Where the greedy judgements stand."""
        return self.judged.with_name(f"{self.judged.stem}.greedy.jsonl")

    def check_results(self, paths: Iterable[Path]) -> None:
        """Find out before the work that results could not be written.

        Raises:
            TaskError: A file cannot be written, or is one that the run needs.
        """
        own = {path.resolve() for path in (self.source, self.judged, self.judged_greedily)}
        for path in paths:
            if path.resolve() in own:
                raise TaskError(
                    f"expected another file for the results, found {str(path)!r} for both"
                )
            check_writable(path)

    def evaluate(self, judge: Judge) -> tuple[Evaluation, int]:
        """Judge what is missing and compare.

        Returns:
            What was found, and how many rows lost judgements to infrastructure.

        Raises:
            TaskError: A file cannot be read, or does not hold what it should.
        """
        labels = _labels(self.source)
        lost = judge(self.sampled, self.source, self.judged, "judging")
        lost += judge(self.greedy, self.source, self.judged_greedily, "judging greedily")
        sampled = _judgements(self.judged, labels)
        greedily = _judgements(self.judged_greedily, labels)
        tasks = [
            JudgedTask(task, n, label, sampled[task], greedily[task])
            for task, (n, label) in labels.items()
        ]
        return evaluate(tasks, self.ks, self.k_metas, vote=self.vote), lost


def prepare(
    source: Path, judged: Path, ks: Sequence[int], k_metas: Sequence[int], load: Load
) -> Run:
    """Find out what to ask; nothing is asked yet.

    Args:
        source: Labelled tasks.
        judged: Sampled judgements, perhaps of an earlier run.
        ks: Numbers of votes to compare, ascending.
        k_metas: Votes that the meta RM keeps of the largest k; empty = it is not asked.
        load: Loads the configuration.

    Raises:
        ConfigError: The configuration cannot do it, or the earlier run has too few votes.
    """
    votes = _votes(judged, ks[-1])
    sampled = load([*NEUTRAL, f"vote.k={votes}", *([] if k_metas else [NO_META])])
    if sampled.sampling.temperature == 0:
        raise ConfigError(
            "sampling.temperature: expected more than 0 for votes that differ, found 0; greedy "
            "judging is always done too"
        )
    if k_metas:
        sampled = sampled.with_bundled_meta_rm()
    if k_metas and sampled.meta_rm is None:
        raise ConfigError("--meta-rm: the configuration has no section meta_rm; add one")
    greedy = load([*NEUTRAL, NO_META, "vote.k=1", "sampling.temperature=0"])
    given = load([])
    _, vote = given.template_and_vote(load_plugins(given.plugins))
    return Run(source, judged, ks, k_metas, sampled, greedy, vote)


def _votes(judged: Path, k: int) -> int:
    """Go on with the votes of an earlier run when they are enough."""
    recorded = recorded_votes(judged)
    if recorded is not None and recorded < k:
        raise ConfigError(
            f"expected {k} votes a task in {str(judged)!r}, found {recorded}; choose another "
            f"output file, or ask for k up to {recorded}"
        )
    return recorded or k


def _labels(source: Path) -> Labels:
    """Read what is right in every task; a task that cannot be compared makes the whole unfair."""
    labels: dict[str, tuple[int, int]] = {}
    unlabelled: list[str] = []
    for row in read_tasks(source):
        if isinstance(row, BadRow):
            raise TaskError(row.within(source))
        if row.label is None:
            unlabelled.append(row.id)
        else:
            labels[row.id] = (len(row.task.completions), row.label)
    if unlabelled:
        raise TaskError(
            f"expected a label in every row of {str(source)!r}, found none in {len(unlabelled)} of "
            f"{len(labels) + len(unlabelled)}, the first is {unlabelled[0]!r}; label them or leave "
            "them out"
        )
    if not labels:
        raise TaskError(f"expected labelled tasks, found none in {str(source)!r}")
    return labels


def _judgements(path: Path, labels: Labels) -> dict[str, tuple[Judgement, ...]]:
    """Read the judgements of these tasks by id; their texts are left out, to spare memory."""
    found: dict[str, tuple[Judgement, ...]] = {}
    for row in read_judged(path):
        if isinstance(row, BadRow):
            raise TaskError(row.within(path))
        if row.id in labels:
            found[row.id] = tuple(replace(judgement, text="") for judgement in row.judgements)
    missing = [task for task in labels if task not in found]
    if missing:
        raise TaskError(f"expected judgements of task {missing[0]!r}, found none in {str(path)!r}")
    return found
