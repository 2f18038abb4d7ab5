"""What a red team found, as JSON and as one self-contained HTML page."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2

from spct_plugin.redteam import PLACEBO, Attempt
from spct_plugin.redteam.results import Outcome, Rate, one_point
from spct_plugin.types import JudgeTask, Message

HERE = Path(__file__).parent
# Characters of a text on the page, half of them from its end. 600: chosen by us, enough to see what
# an attack does.
SHOWN_CHARACTERS = 600
# Attacks of a family on the page; the rest are counted. 50: chosen by us, as the largest bundled
# family has 44.
SHOWN_ATTACKS = 50


@dataclass(frozen=True, slots=True)
class Findings:
    """What was asked, and what came of it.

    Attributes:
        version: What judged: engine identity, template, configuration.
        template: The template's name.
        nonce: Whether delimiters carry a code; None for a template without any.
        scale: Lowest and highest score.
        k: Votes per group.
        rates: By family.
        sums: Over families.
        outcomes: Of all attacks.
    """

    version: str
    template: str
    nonce: bool | None
    scale: tuple[int, int]
    k: int
    rates: Sequence[Rate]
    sums: Sequence[Rate]
    outcomes: Sequence[Outcome]

    @property
    def asked_by(self) -> str:
        """The template, and whether its delimiters carry a code."""
        if self.nonce is None:
            return self.template
        return f"{self.template}, code in delimiters {'on' if self.nonce else 'off'}"

    @property
    def lost(self) -> int:
        """Attacks with judgements that infrastructure lost."""
        return sum(outcome.lost for outcome in self.outcomes)

    @property
    def placebos(self) -> int:
        """How many of the outcomes are of no attack, but of the placebo."""
        return sum(outcome.attack.family == PLACEBO for outcome in self.outcomes)

    @property
    def breached(self) -> list[Outcome]:
        """Attacks that got through template and parser."""
        return [outcome for outcome in self.outcomes if outcome.breaches]

    def as_dict(self, *, attacks: bool = True) -> dict[str, Any]:
        """Give all as JSON can hold it; without the attacks only what is counted."""
        found: dict[str, Any] = {
            "version": self.version,
            "template": self.template,
            "nonce": self.nonce,
            "scale": list(self.scale),
            "k": self.k,
            "points": one_point(self.scale),
            "lost": self.lost,
            "structure": {
                "attacks": len(self.outcomes),
                "breached": {o.attack.id: list(o.breaches) for o in self.breached},
            },
            "families": [asdict(rate) for rate in self.rates],
            "sums": [asdict(rate) for rate in self.sums],
        }
        if attacks:
            found["attacks"] = [_outcome_row(outcome) for outcome in self.outcomes]
        return found

    def problems(self, max_success: float | None) -> list[str]:
        """Say why these findings cannot be accepted; empty when they can.

        Args:
            max_success: The largest share of a family that may succeed; None = any.
        """
        problems: list[str] = []
        if self.breached:
            first = self.breached[0]
            problems.append(
                f"{len(self.breached)} attacks got through template and parser, whatever the "
                f"judge, the first is {first.attack.id}: {first.breaches[0]}"
            )
        if self.lost:
            problems.append(
                f"{self.lost} attacks lost judgements to infrastructure: mend that and run it again"
            )
        above = [
            f"{rate.family} {100 * rate.success:.0f} %"
            for rate in self.rates
            if max_success is not None and rate.family != PLACEBO
            if rate.success is not None and rate.success > max_success
        ]
        unjudged = [rate.family for rate in self.rates if rate.success is None]
        if unjudged and max_success is not None:
            # A judge that says nothing has withstood nothing.
            problems.append(f"no attack was judged in: {', '.join(unjudged)}")
        if above and max_success is not None:
            problems.append(f"above --max-success {100 * max_success:g} %: {', '.join(above)}")
        return problems

    def write_json(self, path: Path) -> None:
        """Write everything; characters that people do not see are escaped."""
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")

    def write_page(self, path: Path) -> None:
        """Write the page: rates by family, and attacks to read; of bounded size in each family."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([HERE, HERE.parent / "report"]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        by_family = {
            rate.family: _worst_first(o for o in self.outcomes if o.attack.family == rate.family)
            for rate in self.rates
        }
        page = environment.get_template("redteam.html.jinja").render(
            found=self,
            by_family=by_family,
            most=SHOWN_ATTACKS,
            points=one_point(self.scale),
            asked=asked,
            readable=readable,
        )
        path.write_text(page, encoding="utf-8", errors="replace")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what was asked, for people.

    Attributes:
        name: Which one.
        attack: How it reads in the attacked group.
        twin: How it reads in the twin group; None = the same.
    """

    name: str
    attack: str
    twin: str | None


def asked(attempt: Attempt) -> list[Part]:
    """Give both groups side by side, for people; see `readable`."""
    attack, twin = _parts(attempt.attack), _parts(attempt.twin)
    return [
        Part(
            name,
            readable(attack.get(name, "")),
            None if attack.get(name) == twin.get(name) else readable(twin.get(name, "")),
        )
        for name in dict.fromkeys([*attack, *twin])
    ]


def readable(text: str) -> str:
    """Give a text for people: the middle of a long one left out, invisible characters spelt out."""
    if len(text) > SHOWN_CHARACTERS:
        half = SHOWN_CHARACTERS // 2
        note = f"\n[... {len(text) - 2 * half} characters left out ...]\n"
        text = text[:half] + note + text[-half:]
    return "".join(c if _is_visible(c) else f"\\u{{{ord(c):x}}}" for c in text)


def _worst_first(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Put what got through first, then what succeeded, by gain, and last what was not judged."""
    return sorted(outcomes, key=lambda o: (not o.breaches, o.gain is None, -(o.gain or 0)))


def _parts(task: JudgeTask) -> dict[str, str]:
    parts = {"Request": _text(task.prompt)}
    if task.reference is not None:
        parts["Reference"] = task.reference
    if task.principles:
        parts["Principles"] = "\n".join(map(str, task.principles))
    own, *others = map(_text, task.completions)
    parts["Attacker's answer"] = own
    return parts | {f"Other answer {at}": text for at, text in enumerate(others, 1)}


def _is_visible(character: str) -> bool:
    if character in "\n\t":
        return True
    is_selector = unicodedata.name(character, "").startswith("VARIATION SELECTOR")
    return not is_selector and unicodedata.category(character)[0] != "C"


def _text(content: str | tuple[Message, ...]) -> str:
    if isinstance(content, str):
        return content
    if len(content) == 1 and not content[0].tool_calls:
        return content[0].content
    return json.dumps([turn.as_dict() for turn in content], ensure_ascii=False, indent=1)


def _outcome_row(outcome: Outcome) -> dict[str, Any]:
    attack = outcome.attack
    return {
        "id": attack.id,
        "family": attack.family,
        "name": attack.attempt.name,
        "scene": attack.scene,
        "structural": attack.structural,
        "surface": attack.attempt.surface,
        "attacked": outcome.attacked,
        "benign": outcome.benign,
        "gain": outcome.gain,
        "breaches": list(outcome.breaches),
        "lost": outcome.lost,
        "attack": attack.attempt.attack.as_dict(),
        "twin": attack.attempt.twin.as_dict(),
    }
