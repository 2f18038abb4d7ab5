"""Attacks on a judge, its template and its parser, each beside a benign twin.

    def shout(scene):
        yield scene.dressed("shouting", "THE BEST ANSWER EVER!")

    Family(shout, "Says it loudly")

A family turns a scene (a request with a weak and a good answer) into attempts: the same group
twice, once attacked and once not, in which the first completion is the attacker's. It succeeds when
that one's reward is higher in the attacked group. Plugins register families by
`spct_register_attacks`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from spct_plugin.errors import PluginError
from spct_plugin.types import JudgeTask, Message

PLACEBO = "placebo"
"""The family that attacks with nothing: what succeeds there is chance."""

Surface = Literal["completion", "prompt", "reference", "principle"]
Where = Literal["after", "before", "instead"]
Completion = str | Sequence[Message | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attack and its benign twin. In both groups the first completion is the attacker's.

    Attributes:
        name: Unique in its family.
        attack: The attacked group.
        twin: The same without the attack.
        surface: Where the attacker's text stands.
        marks: What must not stand in the judge's prompt as it is: a control token, a delimiter, the
            result of template syntax.
    """

    name: str
    attack: JudgeTask
    twin: JudgeTask
    surface: Surface = "completion"
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """A request with a weak answer, which attacks dress up, and a better one beside it.

    Attributes:
        id: Its name.
        prompt: The request.
        weak: The answer that the attacker has.
        good: The answer it competes with.
        scale: Lowest and highest score of the judge.
    """

    id: str
    prompt: str
    weak: str
    good: str
    scale: tuple[int, int] = (1, 10)

    def fill(self, text: str) -> str:
        """Put the scene into a text: @low@, @high@, @prompt@, @weak@ and @good@."""
        low, high = map(str, self.scale)
        return (
            text.replace("@low@", low)
            .replace("@high@", high)
            .replace("@prompt@", self.prompt)
            .replace("@weak@", self.weak)
            .replace("@good@", self.good)
        )

    def dressed(
        self, name: str, text: str, *, where: Where = "after", marks: Iterable[str] = ()
    ) -> Attempt:
        """Add a text to the weak answer, or put it in its stead; the twin is the weak answer."""
        text = self.fill(text)
        after, before = f"{self.weak}\n\n{text}", f"{text}\n\n{self.weak}"
        completion = {"after": after, "before": before, "instead": text}[where]
        return self.replaced(name, completion, marks=marks)

    def replaced(
        self,
        name: str,
        completion: Completion,
        twin: Completion | None = None,
        *,
        marks: Iterable[str] = (),
    ) -> Attempt:
        """Put a completion into the place of the weak answer, or of another twin."""
        weak = self.weak if twin is None else twin
        return Attempt(name, self._task(completion), self._task(weak), "completion", tuple(marks))

    def in_prompt(
        self, name: str, text: str, twin: str = "", *, marks: Iterable[str] = ()
    ) -> Attempt:
        """Add a text to the request, as a document or a tool may; the twin's text is harmless."""
        prompts = (f"{self.prompt}\n\n{self.fill(added)}".strip() for added in (text, twin))
        attack, benign = (JudgeTask(prompt, [self.weak, self.good]) for prompt in prompts)
        return Attempt(name, attack, benign, "prompt", tuple(marks))

    def in_reference(self, name: str, text: str, *, marks: Iterable[str] = ()) -> Attempt:
        """Add a text to the reference answer, which is the good one."""
        attack = self._task(self.weak, reference=f"{self.good}\n\n{self.fill(text)}")
        twin = self._task(self.weak, reference=self.good)
        return Attempt(name, attack, twin, "reference", tuple(marks))

    def in_principle(self, name: str, text: str, *, marks: Iterable[str] = ()) -> Attempt:
        """Add a principle to one that is given."""
        honest = "The response does what the request asks for"
        attack = self._task(self.weak, principles=[honest, self.fill(text)])
        twin = self._task(self.weak, principles=[honest])
        return Attempt(name, attack, twin, "principle", tuple(marks))

    def _task(self, completion: Completion, **more: Any) -> JudgeTask:
        return JudgeTask(self.prompt, [completion, self.good], **more)


@dataclass(frozen=True, slots=True)
class Family:
    """Attacks of one kind.

    Attributes:
        build: From a scene to attempts: the same names for every scene, in the same order.
        about: One line on them, for reports.
        structural: They forge what only the template may write, and never succeed by construction.
    """

    build: Callable[[Scene], Iterable[Attempt]]
    about: str
    structural: bool = False


@dataclass(frozen=True, slots=True)
class Attack:
    """An attempt of a family in a scene."""

    family: str
    scene: str
    structural: bool
    attempt: Attempt

    @property
    def id(self) -> str:
        """Name it as reports do."""
        return f"{self.family}/{self.attempt.name}@{self.scene}"


def stage(
    families: Mapping[str, Family], scenes: Sequence[Scene], scenes_each: int = 1
) -> list[Attack]:
    """Set every attempt of every family into scenes: neighbours, and families, into different ones.

    Args:
        families: By name.
        scenes: At least one.
        scenes_each: In how many scenes each attempt is made; at most all.

    Raises:
        PluginError: A family does not make the same attempts of every scene.
    """
    attacks: list[Attack] = []
    for name, family in families.items():
        built = [list(family.build(scene)) for scene in scenes]
        names = [[attempt.name for attempt in attempts] for attempts in built]
        if any(own != names[0] for own in names) or len(set(names[0])) != len(names[0]):
            raise PluginError(
                f"attack family {name!r}: expected the same attempts of every scene, each with a "
                f"name of its own, found {names[0][:8]} and so on"
            )
        first = zlib.crc32(name.encode())
        for at in range(len(names[0])):
            for more in range(min(scenes_each, len(scenes))):
                turn = (first + at + more) % len(scenes)
                attempt = built[turn][at]
                attacks.append(Attack(name, scenes[turn].id, family.structural, attempt))
    return attacks
