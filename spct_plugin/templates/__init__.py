r"""Templates: how a task becomes the judge's one user message, and how its answer is read.

    load_template("default").render(task, order=(1, 0))

A template is a named Jinja file. Values are inserted once, by a sandboxed environment: text inside
a completion is never template, and `neutralise` makes sure that it is never a delimiter, a section
heading, a score box or a chat control token either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from spct_plugin.errors import ConfigError
from spct_plugin.parsing import ParsedJudgement, parse_judgement
from spct_plugin.types import JudgeTask, Message

HERE = Path(__file__).parent

BUNDLED: dict[str, tuple[tuple[int, int], int | None]] = {
    "default": ((1, 10), None),
    "single": ((0, 1), 1),
    "tiny": ((1, 10), None),
}
"""Bundled templates of judges: their scale, and the most responses they show at once."""
META = "meta"
"""The bundled template of meta RMs. It asks for no judgement, so that no judge may be given it."""


class Template(Protocol):
    """What the judge needs of a template; plugins may bring their own object.

    Attributes:
        name: What the version stamp calls it.
        scale: Lowest and highest score.
        max_responses: The most responses it can show at once; larger groups are split. None = all.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def scale(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def max_responses(self) -> int | None: ...  # noqa: D102

    def render(self, task: JudgeTask, order: Sequence[int], nonce: str = "") -> str:
        """Write the judge's user message, with the completions in the given order."""
        ...

    def parse(self, text: str, n: int, finish_reason: str | None) -> ParsedJudgement:
        """Read the judge's answer; scores in the order the judge saw the completions."""
        ...


@dataclass(frozen=True)
class JinjaTemplate:
    """A template from a Jinja file.

    The file sees `conversation` (text), `query` (text of the last turn), `responses` (texts, in
    the order to show), `blocks` (the same between numbered delimiters), `reference` (text or
    None), `principles` (texts), `low`, `high`, `nonce` ("" when off), and `begin(what)`,
    `end(what)`, which write a delimiter.

    Attributes:
        name: What the version stamp calls it.
        scale: Lowest and highest score.
        source: The compiled file.
        max_responses: The most responses it can show at once; None without a limit.
    """

    name: str
    scale: tuple[int, int]
    source: jinja2.Template
    max_responses: int | None = None
    wording: str = ""

    def render(self, task: JudgeTask, order: Sequence[int], nonce: str = "") -> str:
        """Write the judge's user message, with the completions in the given order.

        Raises:
            ConfigError: The file fails while rendering.
        """
        responses = [_completion_text(task.completions[i], nonce) for i in order]
        try:
            return self.source.render(
                conversation=_turns_text(task.prompt, nonce),
                query=neutralise(task.prompt[-1].content),
                responses=responses,
                blocks=[
                    _block(f"Response {i}", text, nonce) for i, text in enumerate(responses, 1)
                ],
                reference=None if task.reference is None else neutralise(task.reference),
                principles=[neutralise(str(principle)) for principle in task.principles],
                low=self.scale[0],
                high=self.scale[1],
                nonce=nonce,
                begin=partial(_delimiter, "Begin", nonce),
                end=partial(_delimiter, "End", nonce),
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(f"template {self.name!r} cannot be rendered: {error}") from error

    def parse(self, text: str, n: int, finish_reason: str | None) -> ParsedJudgement:
        """Read the judge's answer; scores in the order the judge saw the completions."""
        return parse_judgement(text, n, finish_reason, self.scale)


# Chat control tokens of the current model families, our own delimiters and headings, the score box.
# A hit gets a space after its first character: people and judges can still read it, no tokenizer
# maps it to a control token, and the parser does not take it for a box. Only the first character is
# consumed, so that a box inside a control token is found as well.
_TURNS = (
    r"<(?=[|｜][^<>\s]{1,64}>|[^<>\s|｜]{1,64}[|｜]>"
    r"|/?(?:s|bos|eos|pad|unk|cls|sep|mask|start_of_turn|end_of_turn|start_of_image|image|sop|eop"
    r"|end_of_utterance|(?:bos|eos|pad|unk|cls|sep|mask|eop)_token"
    r"|(?:extra_id_|special_|reserved_|unused)[0-9]{1,4}|seed:[a-z_]{1,32})>"
    r"|</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK|MASK|sMASK"
    # As written only: in lower case these are ordinary words.
    r"|(?-i:THINK|TOOL_CONTENT|ARGS|CALL_ID|IMG|PREFIX|MIDDLE|SUFFIX|BOS|EOS|EOT|UNK|PAD|CLS|SEP)"
    r"|(?:start|end)_header_id)\]|\|[^\[\]\s|]{1,64}\|\]|e~\[)"
    r"|\](?=~!?b[\[\]])"
)
_CONTROL = re.compile(_TURNS, re.IGNORECASE)
_HEADINGS = (
    r"(?:Evaluation Criteria|Conversation Context|Reference Response|Specific Criteria"
    r"|Responses to be Scored|Output Format Requirements)"
).replace(" ", r"\s{1,8}")
_STRUCTURE = re.compile(
    _TURNS + r"|<(?=/?(?:think|tool_call|tool_response)>)"
    r"|\[(?=The\s{1,8}(?:Begin|End)\s{1,8}of\b)"
    rf"|#(?=###\s{{0,8}}{_HEADINGS})"
    r"|\\(?=boxed\{)",
    re.IGNORECASE,
)
# A turn's head where no code marks it, at what may be taken for the beginning of a line.
_HEAD = re.compile(
    r"(?<![^\n\r\v\f\x1c-\x1e\x85\u2028\u2029])"
    r"(?=(?:system|developer|user|assistant|tool|function)(?: \([^\n]{0,64}\))?:)",
    re.IGNORECASE,
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def neutralise(text: str) -> str:
    r"""Break whatever in a user's text could pass for structure, and keep it readable.

    `<|im_start|>` becomes `< |im_start|>`, `\boxed{9}` becomes `\ boxed{9}`. One pass: nothing that
    was inserted is looked at again. Lone surrogates become U+FFFD, as no engine can encode them.
    """
    return _STRUCTURE.sub(r"\g<0> ", encodable(text))


def break_control(text: str) -> str:
    """Break only chat control tokens, for a text by a judge that goes to an unknown tokenizer."""
    return _CONTROL.sub(r"\g<0> ", text)


def encodable(text: str) -> str:
    """Replace lone surrogates by U+FFFD, as no engine can encode them."""
    return _SURROGATES.sub("\ufffd", text)


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Match any of a tokenizer's special tokens that could be spelt inside a text."""
    spelt = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelt)) or r"(?!)")


def break_tokens(text: str, tokens: re.Pattern[str]) -> str:
    """Put a space into every special token that a text spells; people can still read it."""
    return tokens.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def load_template(
    name: str, scale: tuple[int, int] | None = None, max_responses: int | None = None
) -> JinjaTemplate:
    """Load a judge's bundled template by its name, or a file by its path.

    Args:
        name: A name in `BUNDLED`, or a path.
        scale: Lowest and highest score; None = the bundled template's own, 1..10 for a file.
        max_responses: The most responses it can show at once; None = the template's own.

    Raises:
        ConfigError: No such template, or its syntax is wrong.
    """
    own_scale, own_max = BUNDLED.get(name, ((1, 10), None))
    return _load(name, scale or own_scale, max_responses or own_max, "template.name", BUNDLED)


def load_meta_template(
    name: str, templates: Mapping[str, Template], *, key: str = "meta_rm.template"
) -> Template:
    """Find the template by which a meta RM is shown a task, in training and in use.

    Args:
        name: "meta", the name of a judge's template, or a path.
        templates: Those of judges, by name: the bundled ones and those of plugins.
        key: The key that names it, for messages.

    Raises:
        ConfigError: No such template, or its syntax is wrong.
    """
    # What "meta" means must not change under a model by a plugin's template for judges.
    if name != META and name in templates:
        return templates[name]
    return _load(name, *BUNDLED.get(name, ((1, 10), None)), key, (META, *BUNDLED))


def _load(
    name: str,
    scale: tuple[int, int],
    max_responses: int | None,
    key: str,
    bundled: Collection[str],
) -> JinjaTemplate:
    path = HERE / f"{name}.jinja" if name in bundled else Path(name)
    try:
        wording = path.read_text(encoding="utf-8")
        source = _environment().from_string(wording)
    except OSError as error:
        raise ConfigError(
            f"{key}: expected one of {sorted(bundled)}, a plugin's template or a readable "
            f"file, found {name!r} ({error.strerror})"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"template {name!r} is not UTF-8 text") from None
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"template {name!r}, line {error.lineno}: {error.message}") from None
    return JinjaTemplate(name, scale, source, max_responses, wording)


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=False, keep_trailing_newline=False
    )
    filters: dict[str, Callable[[str], object]] = {"units": units, "one_line": one_line}
    environment.filters.update(filters)  # pyright: ignore[reportUnknownMemberType]
    return environment


def _block(what: str, text: str, nonce: str) -> str:
    return f"{_delimiter('Begin', nonce, what)}\n{text}\n{_delimiter('End', nonce, what)}"


def _delimiter(which: str, nonce: str, what: str) -> str:
    return f"[The {which} of {what} {nonce}]" if nonce else f"[The {which} of {what}]"


def one_line(text: str) -> str:
    """Put a text into one line of the tiny template, without brackets: those number the units."""
    return " ".join(text.split()).replace("[", "(").replace("]", ")")


_UNIT_START = re.compile(r",| (?=(?:at|in|on|by|near|since|until) )")


def units(text: str) -> list[str]:
    """Cut a text into the units in which the tiny GRM reads, the final mark being one.

    A unit starts after a comma and at a preposition. Lower case, as it learnt.
    """
    text = one_line(text.lower())
    body, mark = (text[:-1], [text[-1]]) if text[-1:] in (".", "!", "?") else (text, [])
    return [unit.strip() for unit in _UNIT_START.split(body) if unit.strip()] + mark


def _completion_text(completion: str | tuple[Message, ...], nonce: str) -> str:
    if isinstance(completion, str):
        return _plain(completion, nonce)
    if len(completion) == 1 and not completion[0].tool_calls:
        return _plain(completion[0].content, nonce)
    return _turns_text(completion, nonce)


def _turns_text(turns: tuple[Message, ...], nonce: str) -> str:
    return "\n".join(_turn_text(turn, nonce) for turn in turns)


def _turn_text(turn: Message, nonce: str) -> str:
    """Head every turn by its role; text inside a turn cannot open another one."""
    role = turn.role.capitalize()
    who = neutralise(" ".join((f"{role} ({turn.name})" if turn.name else role).split()))
    head = f"[{who} {nonce}]\n" if nonce else f"{who}: "
    calls = "".join(f"\n(calls {_plain(call, nonce)})" for call in turn.tool_calls)
    return head + _plain(turn.content, nonce) + calls


def _plain(text: str, nonce: str) -> str:
    """Break structure, and where no code marks the heads of turns, those too, by a space."""
    neutral = neutralise(text)
    return neutral if nonce else _HEAD.sub(" ", neutral)
