"""A model's tokenizer: chats in, token ids or text out; in training and in use alike.

    chats = ChatTokenizer("Qwen/Qwen3-4B")
    chats.encode([{"role": "user", "content": text}], add_generation_prompt=True)

No text inside a message becomes one of the tokenizer's special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spct_plugin.errors import ConfigError
from spct_plugin.templates import any_of, break_tokens, encodable


class ChatTokenizer:
    """Renders chats by a tokenizer's own chat template.

    Args:
        model: A folder or a hub id.
        path: Where `model` is, when that is a name of ours.
        section: Of the configuration, for messages: "engine"; "" = none names the model.
        padding_side: "left" to generate, "right" to classify; None = the tokenizer's own.
        pad_token: To pad with this one of its tokens; None = the tokenizer's own.
        chat_template_path: Whose tokenizer's chat template to use; None = the tokenizer's own.
        revision: Of a hub model.
        trust_remote_code: Run code that comes with it.

    Attributes:
        tokenizer: As transformers loads it.

    Raises:
        ConfigError: There is no such tokenizer or padding, or it has no chat template.
    """

    def __init__(
        self,
        model: str,
        *,
        path: Path | str | None = None,
        section: str = "",
        padding_side: str | None = None,
        pad_token: str | None = None,
        chat_template_path: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self._model = model
        self._key = f"{section}.model: " if section else ""
        side = {"padding_side": padding_side} if padding_side else {}
        self.tokenizer: Any = load_tokenizer(
            model,
            path=path,
            key=self._key,
            revision=revision,
            trust_remote_code=trust_remote_code,
            **side,
        )
        if chat_template_path is not None:
            self.tokenizer.chat_template = load_tokenizer(chat_template_path).chat_template
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"{self._key}the tokenizer of {model!r} has no chat template; name one that has, "
                "such as that of the instruction-tuned model of the family"
            )
        if pad_token is not None:
            if pad_token not in self.tokenizer.get_vocab():
                raise ConfigError(f"pad_token: expected a token of {model!r}, found {pad_token!r}")
            self.tokenizer.pad_token = pad_token
        self._special = any_of(self.tokenizer.get_added_vocab())

    def check_padding(self) -> None:
        """Refuse a padding that hides where a text ends: a classifier reads its last token.

        Raises:
            ConfigError: The tokenizer pads with nothing, or with its end token.
        """
        tokenizer = self.tokenizer
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
            raise ConfigError(
                f"{self._key}expected a padding token that differs from the end token, found "
                f"{tokenizer.pad_token!r} in the tokenizer of {self._model!r}; set pad_token to "
                "another of its tokens, the same in training and in use"
            )

    def encode(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
    ) -> list[int]:
        """Render a chat as token ids."""
        ids: Any = self.tokenizer.apply_chat_template(
            self._safe(messages),
            add_generation_prompt=add_generation_prompt,
            return_dict=False,
            # What is too long is a failure with a name, and no warning of the tokenizer's.
            tokenizer_kwargs={"verbose": False},
        )
        return list(ids)

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """Render a chat as the text that `encode` has the ids of."""
        return self.tokenizer.apply_chat_template(
            self._safe(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def _safe(self, messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        return [
            {**message, "content": break_tokens(encodable(message["content"]), self._special)}
            for message in messages
        ]


def load_tokenizer(
    model: str, *, path: Path | str | None = None, key: str = "", **options: Any
) -> Any:
    """Load a tokenizer by transformers.

    Args:
        model: A folder or a hub id.
        path: Where `model` is, when that is a name of ours.
        key: What of the configuration names it, for messages.
        options: For `AutoTokenizer.from_pretrained`.

    Raises:
        ConfigError: There is no such tokenizer.
    """
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError:
        raise ConfigError(
            f"{key}the tokenizer of {model!r} needs transformers, which is not installed; run: "
            "pip install 'spct-plugin[trl]'"
        ) from None
    try:
        return AutoTokenizer.from_pretrained(str(path or model), **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{key}cannot load the tokenizer of {model!r}: {reason}") from None
