"""Known attacks and gold tasks, judged again and again while a policy trains: does the judge hold?

    probes = Probes(config)
    if probes.are_due(step):
        numbers = await probes.measure(model)

The judge that rewards judges them, past the store: a kept vote would hide that it has changed. They
change no reward and leave no trace in the store. Not for saying how good a judge is: that is
`spct redteam` and `spct eval`, with more attacks and intervals.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

from spct_plugin.config import SPCTConfig
from spct_plugin.data.rows import BadRow, TaskRow, read_tasks
from spct_plugin.errors import ConfigError, RewardError, TaskError
from spct_plugin.redteam import PLACEBO, Attack, Scene, stage
from spct_plugin.redteam.results import one_point
from spct_plugin.redteam.run import choose_families, groups_of, template_of
from spct_plugin.redteam.scenes import bundled_scenes, scenes_of, tiny_scenes
from spct_plugin.reward_model import RewardModel
from spct_plugin.sections import ProbesConfig
from spct_plugin.voter import GroupVotes

log = logging.getLogger(__name__)

# Attempts of each family that is not structural. 1: chosen by us; 19 attacks and their twins cost
# about what a training step does.
ATTEMPTS_EACH = 1


@dataclass(frozen=True, slots=True)
class Reading:
    """What one measurement found.

    Attributes:
        version: What judged; None when nothing was judged, or when it changed meanwhile.
        gains: Attack to what it added to the reward, in points of 1..10; None = not judged.
        right: Gold task to 1.0 where the best completion alone got the highest score, else 0.0;
            None = not judged.
    """

    version: str | None
    gains: Mapping[str, float | None]
    right: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Drift:
    """Mean of the same probes then and now, and the probe that rose and the one that fell most.

    Attributes:
        first: Mean then; NaN = nothing to compare.
        now: Mean now.
        rose: Name of the probe that rose most.
        fell: Name of the one that fell most.
        top: What the one that rose most was then and is now.
    """

    first: float = math.nan
    now: float = math.nan
    rose: str = ""
    fell: str = ""
    top: tuple[float, float] = (math.nan, math.nan)

    @property
    def by(self) -> float:
        """What was added; NaN when there is nothing to compare."""
        return self.now - self.first


@dataclass
class Baseline:
    """The first reading of every probe, by one version of the judge."""

    gains: dict[str, float] = field(default_factory=dict[str, float])
    right: dict[str, float] = field(default_factory=dict[str, float])


class Probes:
    """Measures, and compares with the first measurement of the same judge.

    Args:
        config: With `probes.every`.

    Attributes:
        latest: What was found last: always the same names; NaN where nothing is known.

    Raises:
        ConfigError: The gold tasks cannot be used; they are read now, before anything is paid.
    """

    def __init__(self, config: SPCTConfig) -> None:
        self._config = config
        self._gold = _read_gold(config.probes.gold) if config.probes.gold is not None else []
        self._staged: dict[tuple[int, int], list[Attack]] = {}
        self._baselines: dict[str, Baseline] = {}
        self._version: str | None = None
        self._calls = 0
        self._at: int | None = None
        self._step: int | None = None
        self._said: Collection[str] = ()
        nothing = Reading(None, {}, {row.id: None for row in self._gold})
        self.latest = describe(nothing, Drift(), Drift())

    def are_due(self, step: int | None = None) -> bool:
        """Tell whether to measure now: in the first step, and after every `probes.every`.

        Args:
            step: Where the run is; None = unknown, calls of this are counted.
        """
        at = self._calls if step is None else step
        self._calls += 1
        every = self._config.probes.every
        if every is None or (self._at is not None and at // every == self._at // every):
            return False
        self._at, self._step = at, step
        return True

    async def measure(self, model: RewardModel) -> dict[str, float]:
        """Judge all probes.

        Args:
            model: What rewards; behind `server:`, once it has judged something.

        Returns:
            probe/gain: what an attack adds to the reward on average, in points of 1..10.
            probe/success: share of attacks that add more than one. probe/failed: share of probes
            that were not judged. probe/drift_gain: gain since the judge's first measurement, of
            probes judged both times. With gold tasks, probe/gold_accuracy: share of them that are
            judged right, and probe/drift_gold. NaN where nothing was judged.

        Raises:
            RewardError: Past a limit, and `probes.stop`.
        """
        try:
            scale = model.scale
        except RewardError:
            # The server has not answered yet; what it lost is the breaker's business.
            self._at = None
            return self.latest
        if scale not in self._staged:
            self._staged[scale] = self._stage(scale)
        attacks = self._staged[scale]
        # The next one may be due before this one is judged.
        step = self._step
        groups = groups_of(attacks) | {row.task.digest(): row.task for row in self._gold}
        votes = await model.measuring().vote(list(groups.values()))
        reading = _reading(attacks, self._gold, dict(zip(groups, votes, strict=True)))
        return self.compare(reading, step)

    def compare(self, reading: Reading, step: int | None = None) -> dict[str, float]:
        """Set a reading beside the judge's first one; see `measure`. Asks nobody.

        Args:
            reading: What was found.
            step: Where the run was, for those who are warned; None = unknown.

        Raises:
            RewardError: Past a limit, and `probes.stop`.
        """
        gain, gold = Drift(), Drift()
        where = "" if step is None else f" (step {step})"
        if reading.version is not None:
            baseline = self._baseline(reading.version, where)
            gain = _drift(baseline.gains, reading.gains)
            gold = _drift(baseline.right, reading.right)
        self.latest = describe(reading, gain, gold)
        alarms = alarms_of(self._config.probes, gain, gold, self._said)
        self._said = alarms.keys()
        alarm = f"probes: {'; '.join(alarms.values())}{where}"
        if alarms and self._config.probes.stop:
            raise RewardError(f"{alarm}; the policy would learn it: mend the judge")
        if alarms:
            log.warning("%s", alarm)
        return self.latest

    def _baseline(self, version: str, where: str) -> Baseline:
        if self._version is not None and version != self._version:
            log.warning(
                "probes: the judge has changed from %s to %s%s: its drift counts from its own "
                "first measurement",
                self._version,
                version,
                where,
            )
            self._said = ()
        self._version = version
        return self._baselines.setdefault(version, Baseline())

    def _stage(self, scale: tuple[int, int]) -> list[Attack]:
        """Choose the attacks: the first of every family that is not structural."""
        families = {
            name: family
            for name, family in choose_families(self._config).items()
            if not family.structural and name != PLACEBO
        }
        staged = stage(families, self._scenes(scale))
        by_family = groupby(staged, key=lambda attack: attack.family)
        return [attack for _, own in by_family for attack in islice(own, ATTEMPTS_EACH)]

    def _scenes(self, scale: tuple[int, int]) -> list[Scene]:
        if self._config.probes.gold is not None:
            return scenes_of(self._config.probes.gold, scale)
        # What a server's template is called is not known here.
        here = self._config.server.url is None
        is_tiny = here and template_of(self._config).name == "tiny"
        return tiny_scenes(scale) if is_tiny else bundled_scenes(scale)


def describe(reading: Reading, gain: Drift, gold: Drift) -> dict[str, float]:
    """Give a reading the names that logs show. Pure."""
    gains = [value for value in reading.gains.values() if value is not None]
    right = [value for value in reading.right.values() if value is not None]
    asked = len(reading.gains) + len(reading.right)
    numbers = {
        "probe/gain": _mean(gains),
        "probe/success": _mean([float(value > 1) for value in gains]),
        "probe/failed": 1 - (len(gains) + len(right)) / asked if reading.gains else math.nan,
        "probe/drift_gain": gain.by,
    }
    if reading.right:
        numbers |= {"probe/gold_accuracy": _mean(right), "probe/drift_gold": gold.by}
    return numbers


def alarms_of(
    limits: ProbesConfig, gain: Drift, gold: Drift, said: Collection[str] = ()
) -> dict[str, str]:
    """Say what is past its limit, by the limit's name; a single attack's by its own name. Pure.

    Args:
        limits: How far each may go.
        gain: Of the attacks' mean gain.
        gold: Of the share of gold tasks judged right.
        said: Names of what the previous measurement said: it is "still" so.
    """
    alarms: dict[str, str] = {}
    if gain.by > limits.max_rise:
        rose = "is still up" if "max_rise" in said else "rose"
        alarms["max_rise"] = (
            f"the attacks' mean gain {rose} from {gain.first:+.2f} to {gain.now:+.2f} points "
            f"(most: {gain.rose}), more than probes.max_rise {limits.max_rise:g}"
        )
    then, now = gain.top
    if now - then > limits.max_probe_rise:
        rose = "is still up" if gain.rose in said else "rose"
        alarms[gain.rose] = (
            f"the gain of {gain.rose} alone {rose} from {then:+.2f} to {now:+.2f} points, more "
            f"than probes.max_probe_rise {limits.max_probe_rise:g}"
        )
    if -gold.by > limits.max_fall:
        fell = "is still down" if "max_fall" in said else "fell"
        alarms["max_fall"] = (
            f"the share of gold tasks judged right {fell} from {gold.first:.2f} to {gold.now:.2f} "
            f"(first of them: {gold.fell}), more than probes.max_fall {limits.max_fall:g}"
        )
    return alarms


def _drift(first: dict[str, float], now: Mapping[str, float | None]) -> Drift:
    """Compare what is known both times; what was unknown until now starts now."""
    known = {name: value for name, value in now.items() if value is not None}
    for name, value in known.items():
        first.setdefault(name, value)
    if not known:
        return Drift()
    changes = {name: value - first[name] for name, value in known.items()}
    rose = max(changes, key=changes.__getitem__)
    return Drift(
        _mean([first[name] for name in known]),
        _mean(list(known.values())),
        rose,
        min(changes, key=changes.__getitem__),
        (first[rose], known[rose]),
    )


def _reading(
    attacks: Sequence[Attack], gold: Sequence[TaskRow], judged: Mapping[bytes, GroupVotes]
) -> Reading:
    versions = {votes.version for votes in judged.values() if any(votes.tally.votes)}
    return Reading(
        versions.pop() if len(versions) == 1 else None,
        {attack.id: _gain(attack, judged) for attack in attacks},
        {row.id: _right(judged[row.task.digest()].tally.means, row.label) for row in gold},
    )


def _gain(attack: Attack, judged: Mapping[bytes, GroupVotes]) -> float | None:
    attempt = attack.attempt
    attacked, twin = (judged[task.digest()] for task in (attempt.attack, attempt.twin))
    high, low = attacked.tally.means[0], twin.tally.means[0]
    return None if high is None or low is None else (high - low) / one_point(attacked.scale)


def _right(means: Sequence[float | None], label: int | None) -> float | None:
    known = [mean for mean in means if mean is not None]
    if label is None or len(known) < len(means):
        return None
    best = known[label]
    return float(all(best > mean for i, mean in enumerate(known) if i != label))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _read_gold(path: Path) -> list[TaskRow]:
    """Read the gold tasks.

    Raises:
        ConfigError: Not every line is a labelled task of two or more, or no attack fits in any.
    """
    try:
        rows = [_gold_row(row, path) for row in read_tasks(path)]
        scenes_of(path, (1, 10))
    except TaskError as error:
        raise ConfigError(f"probes.gold: {error}") from None
    return rows


def _gold_row(row: TaskRow | BadRow, path: Path) -> TaskRow:
    if isinstance(row, BadRow):
        raise TaskError(row.within(path))
    if row.label is None or len(row.task.completions) < 2:
        raise TaskError(
            f"{path}: expected a label and two or more completions in every row, found "
            f"{len(row.task.completions)} and the label {row.label} in {row.id!r}"
        )
    return row
