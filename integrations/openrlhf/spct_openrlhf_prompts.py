r"""What OpenRLHF hands over as rendered text, read back: a conversation, and the completion.

    reader = ChatReader(tokenizer)
    reader.messages("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")

The marks between turns are learnt from the chat template itself, and what was read is rendered
again: only a conversation that gives the very same text is believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from spct_plugin import TaskError

Turns = list[dict[str, str]]

# Stand for a turn's text; plain words, as templates may strip or escape anything else.
_WORDS = ("spctFirstWord", "spctSecondWord", "spctThirdWord")


class ChatReader:
    """Reads texts that a chat template rendered.

    Args:
        tokenizer: The policy's, as transformers loads it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def messages(self, prompt: str) -> Turns:
        """Read a conversation that ends where the assistant is to answer.

        Raises:
            TaskError: It is none, or rendering it again gives another text.
        """
        for turns in self._readings(prompt):
            if self._is_clean(turns) and self._render(turns) == prompt:
                return turns
        raise TaskError(
            f"cannot read the conversation in the prompt {prompt[:80]!r}; put {{'messages': "
            "[...]} into the label (--data.label_key), or say openrlhf.prompts: text when no "
            "chat template rendered it"
        )

    def completion(self, query: str, prompt: str) -> tuple[str, bool]:
        """Cut the completion out of prompt and completion together.

        Args:
            query: As decoded, special tokens included. OpenRLHF drops the head of a long prompt.
            prompt: As rendered.

        Returns:
            The completion without the tokens that end it, and whether it has an end.

        Raises:
            TaskError: The query does not begin with the prompt, nor with its end.
        """
        completion = self._behind(query, prompt)
        end = len(completion)
        while tokens := [t for t in self._special if completion[:end].endswith(t)]:
            end -= len(max(tokens, key=len))
        return completion[:end], end < len(completion)

    def _behind(self, query: str, prompt: str) -> str:
        # As given, and as the tokenizer gives it back: Qwen's normalises, others add spaces.
        ids = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        for known in (prompt, self._tokenizer.decode(ids)):
            end = _end_of_prompt(query, known)
            if end is not None:
                return query[end:]
        raise TaskError(
            f"cannot tell prompt and completion apart in {query[:80]!r}: the tokenizer does not "
            "give back the prompt as it was; use the group agent, which cuts by tokens: "
            "--train.agent_func_path $(spct path openrlhf-agent)"
        )

    def _is_clean(self, turns: Turns) -> bool:
        """Tell whether no turn holds a control token, which would be another turn's mark."""
        marks = "".join(self._marks[1:] + self._system_marks[1:])
        tokens = [token for token in self._special if token in marks]
        return not any(token in turn["content"] for turn in turns for token in tokens)

    @cached_property
    def _special(self) -> list[str]:
        # OpenRLHF hands over a processor where the model could see.
        tokenizer = getattr(self._tokenizer, "tokenizer", self._tokenizer)
        added = tokenizer.added_tokens_decoder.values()
        return [token.content for token in added if token.special]

    @cached_property
    def _marks(self) -> list[str]:
        """The texts before, between and behind the turns of user, assistant and user."""
        if not self._tokenizer.chat_template:
            raise TaskError(
                "the policy's tokenizer has no chat template; say openrlhf.prompts: text when "
                "prompts are plain texts, or put {'messages': [...]} into the label"
            )
        if "strftime_now" in str(self._tokenizer.chat_template):
            raise TaskError(
                "the policy's chat template writes the date, so today's prompts could not be read "
                "tomorrow; put {'messages': [...]} into the label (--data.label_key)"
            )
        try:
            return self._marks_around("user", "assistant", "user")
        except TemplateError as error:
            raise TaskError(
                f"the policy's chat template cannot show a conversation ({error}); put "
                "{'messages': [...]} into the label (--data.label_key)"
            ) from None

    @cached_property
    def _system_marks(self) -> list[str]:
        """The texts before, between and behind system and user; empty where none has a system."""
        try:
            return self._marks_around("system", "user")
        except TemplateError:
            return []

    def _marks_around(self, *roles: str) -> list[str]:
        turns = [{"role": r, "content": w} for r, w in zip(roles, _WORDS, strict=False)]
        rest = self._render(turns)
        marks: list[str] = []
        for turn in turns:
            mark, _, rest = rest.partition(turn["content"])
            marks.append(mark)
        return [*marks, rest]

    def _readings(self, prompt: str) -> Iterator[Turns]:
        """Read the prompt in every way that it may have been made, the likeliest first."""
        head, *_, tail = self._marks
        if not tail or not prompt.endswith(tail):
            return
        text = prompt.removesuffix(tail)
        if text.startswith(head):
            yield from self._dialogues([], text.removeprefix(head))
        if self._system_marks:
            head, end, _ = self._system_marks
            if text.startswith(head) and end and end in text:
                system, _, rest = text.removeprefix(head).partition(end)
                yield from self._dialogues([{"role": "system", "content": system}], rest)

    def _dialogues(self, before: Turns, text: str) -> Iterator[Turns]:
        """Read user and assistant taking turns; else one user's text that looks like it."""
        _, user_end, answer_end, _ = self._marks
        turns = list(before)
        rest, role, end = text, "user", user_end
        while end and end in rest:
            content, _, rest = rest.partition(end)
            turns.append({"role": role, "content": content})
            role, end = ("assistant", answer_end) if role == "user" else ("user", user_end)
        yield [*turns, {"role": role, "content": rest}]
        yield [*before, {"role": "user", "content": text}]

    def _render(self, turns: Sequence[dict[str, str]]) -> str:
        return self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )


def _end_of_prompt(query: str, prompt: str) -> int | None:
    """Find where the prompt ends in a query that begins with it, or with what is left of it."""
    if query.startswith(prompt):
        return len(prompt)
    tail = prompt[-20:]
    at = query.rfind(tail)
    while at >= 0:
        end = at + len(tail)
        # What is left of a cut prompt may begin within a letter.
        if prompt.endswith(query[:end].lstrip("\ufffd")):
            return end
        at = query.rfind(tail, 0, at)
    return None
