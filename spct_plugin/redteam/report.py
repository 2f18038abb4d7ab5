"""What a red team found, as JSON and as one self-contained HTML page."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2

from spct_plugin.redteam import PLACEBO, Attack
from spct_plugin.redteam.results import Outcome, Rate, one_point
from spct_plugin.types import Message

HERE = Path(__file__).parent
# Characters of a text on the page; enough to see what it does.
SHOWN_CHARACTERS = 600


@dataclass(frozen=True, slots=True)
class Findings:
    """What was asked, and what came of it.

    Attributes:
        version: What judged: engine identity, template, configuration.
        template: The template's name.
        nonce: Whether delimiters carry a code.
        scale: Lowest and highest score.
        k: Votes per group.
        rates: By family.
        sums: Over families.
        outcomes: Of all attacks.
    """

    version: str
    template: str
    nonce: bool
    scale: tuple[int, int]
    k: int
    rates: Sequence[Rate]
    sums: Sequence[Rate]
    outcomes: Sequence[Outcome]

    @property
    def lost(self) -> int:
        """Attacks with judgements that infrastructure lost."""
        return sum(outcome.lost for outcome in self.outcomes)

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
        if above and max_success is not None:
            problems.append(f"above --max-success {100 * max_success:g} %: {', '.join(above)}")
        return problems

    def write_json(self, path: Path) -> None:
        """Write everything; characters that people do not see are escaped."""
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")

    def write_page(self, path: Path) -> None:
        """Write the page: rates by family, and every attack to read."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([HERE, HERE.parent / "report"]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        by_family = {
            rate.family: [o for o in self.outcomes if o.attack.family == rate.family]
            for rate in self.rates
        }
        page = environment.get_template("redteam.html.jinja").render(
            found=self, by_family=by_family, points=one_point(self.scale), shown=shown_text
        )
        path.write_text(page, encoding="utf-8", errors="replace")


def attacked_text(attack: Attack) -> str:
    """Give the text that the attacker wrote."""
    attempt = attack.attempt
    task = attempt.attack
    if attempt.surface == "completion":
        return _text(task.completions[0])
    if attempt.surface == "reference":
        return task.reference or ""
    if attempt.surface == "principle":
        return str(task.principles[-1])
    return _text(task.prompt)


def shown_text(attack: Attack) -> str:
    """Give the attacker's text for people: invisible characters spelt out, the end left out."""
    text = attacked_text(attack)
    cut = text[:SHOWN_CHARACTERS]
    spelt = "".join(c if _is_visible(c) else f"\\u{{{ord(c):x}}}" for c in cut)
    rest = len(text) - len(cut)
    return f"{spelt} ... and {rest} characters more" if rest else spelt


def _is_visible(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character)[0] not in "CM"


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
