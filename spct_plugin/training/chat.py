r"""A judge's prompt and judgement as the texts that trainers read.

    chat = Chat("Qwen/Qwen3-4B")
    chat.prompt(text)                      # "<|im_start|>user\n...<|im_start|>assistant\n"
    chat.example(text, judgement)          # that prompt, and the completion with its end of turn

We render, the trainer does not: TRL and OpenRLHF cut a rendered conversation at a guessed place.
No text inside a prompt becomes one of the tokenizer's control tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from spct_plugin.engines.tokenizer import ChatTokenizer
from spct_plugin.errors import ConfigError, TaskError
from spct_plugin.tiny import MODELS

Framework = Literal["trl", "openrlhf"]


class Chat:
    """Renders one user message, and one answer, by a tokenizer's chat template.

    Args:
        model: A folder, a hub id, or "tiny".
        framework: Whose trainer reads the texts. TRL's adds the tokens that begin and end a text,
            OpenRLHF's adds none but " " and an end where it misses one (datasets/sft_dataset.py).

    Attributes:
        tokenizer: As transformers loads it.
        framework: As given.

    Raises:
        ConfigError: There is no such tokenizer, or it has no chat template.
    """

    def __init__(self, model: str, framework: Framework = "trl") -> None:
        self.framework = framework
        self._chats = ChatTokenizer(model, path=MODELS / "grm" if model == "tiny" else None)
        self.tokenizer = self._chats.tokenizer
        # TRL tokenises texts with special tokens, so a rendered first one would be doubled.
        self._bos = self.tokenizer.bos_token if framework == "trl" and self._adds_bos() else ""

    def prompt(self, text: str) -> str:
        """Render a user message up to where the answer begins."""
        return self._render([_user(text)], add_generation_prompt=True)

    def example(self, text: str, answer: str) -> tuple[str, str]:
        """Render a user message and its answer: prompt, and completion up to the end of its turn.

        Raises:
            ConfigError: The chat template renders a finished answer otherwise than it begins one.
        """
        return self.last_turn([_user(text), {"role": "assistant", "content": answer}])

    def last_turn(self, turns: Sequence[dict[str, str]]) -> tuple[str, str]:
        """Render a conversation, cut before its last turn, the assistant's.

        Raises:
            ConfigError: The chat template renders a finished answer otherwise than it begins one.
            TaskError: The last turn is not the assistant's.
        """
        if len(turns) < 2 or turns[-1].get("role") != "assistant":
            raise TaskError("expected messages that end with a turn of the assistant")
        prompt = self._render(turns[:-1], add_generation_prompt=True)
        whole = self._render(turns, add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise ConfigError(
                "the chat template does not go on where its generation prompt ends, so an answer "
                "cannot be cut out; use the template of another tokenizer of the family"
            )
        return prompt, self._ended(whole[len(prompt) :].rstrip("\n"))

    def tokens(self, text: str) -> int:
        """Count the tokens of a rendered text as a trainer would."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def _ended(self, completion: str) -> str:
        end = self.tokenizer.eos_token or ""
        if self.framework == "trl" or completion.endswith(end):
            return completion
        return completion + end

    def _render(self, turns: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> str:
        text = self._chats.render(turns, add_generation_prompt=add_generation_prompt)
        return text.removeprefix(self._bos)

    def _adds_bos(self) -> bool:
        bos = self.tokenizer.bos_token_id
        return bos is not None and self.tokenizer("x")["input_ids"][:1] == [bos]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
