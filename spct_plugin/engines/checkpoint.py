"""A model and its tokenizer, loaded by transformers: what engines in this process share."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from spct_plugin.engines.builtin import CheckpointConfig
from spct_plugin.engines.tokenizer import ChatTokenizer
from spct_plugin.errors import ConfigError
from spct_plugin.tiny import MODELS

PROCESS_LOCK = threading.Lock()
"""Held while weights are loaded or answers drawn. Both change what all threads share: torch's
default dtype and functions of transformers, or the state of torch's random numbers."""


class Checkpoint:
    """A model's configuration and tokenizer; its weights only when they are asked for.

    Args:
        keys: Which model, and how.
        section: Of the configuration, for messages: "engine".
        bundled: Folder of the bundled model that "tiny" stands for.
        padding_side: "left" to generate, "right" to classify.

    Attributes:
        chats: Its tokenizer, with a chat template.
        tokenizer: As transformers loads it.
        config: The model's own configuration.
        context: Tokens it can hold; None where it states no limit.
        identity: Model, and revision or fingerprint of the weights.

    Raises:
        ConfigError: There is no such model or device, or its tokenizer has no chat template.
    """

    def __init__(
        self, keys: CheckpointConfig, *, section: str, bundled: str, padding_side: str
    ) -> None:
        self._keys = keys
        self._section = section
        self._path = str(MODELS / bundled) if keys.model == "tiny" else keys.model
        self._source: dict[str, Any] = {
            "revision": keys.revision,
            "trust_remote_code": keys.trust_remote_code,
        }
        try:
            self.config: Any = AutoConfig.from_pretrained(self._path, **self._source)
        except (OSError, ValueError) as error:
            raise self._cannot_load(error) from None
        self.chats = ChatTokenizer(
            keys.model,
            path=self._path,
            section=section,
            padding_side=padding_side,
            **self._source,
        )
        self.tokenizer = self.chats.tokenizer
        self.context: int | None = getattr(
            self.config.get_text_config(), "max_position_embeddings", None
        )
        self.identity = f"{keys.model}@{keys.revision or _fingerprint(Path(self._path))}"
        self._device = _device(keys.device, section)

    def encode(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
    ) -> list[int]:
        """Render a chat; no text in it becomes one of this tokenizer's special tokens."""
        return self.chats.encode(messages, add_generation_prompt=add_generation_prompt)

    def load(self, model_class: Any) -> Any:
        """Load the weights, ready to use.

        Args:
            model_class: One of transformers' Auto classes.

        Raises:
            ConfigError: They cannot be loaded, or some are missing, which transformers makes up at
                random.
        """
        with PROCESS_LOCK:
            return self._load(model_class)

    def _load(self, model_class: Any) -> Any:
        tiny = self._keys.model == "tiny"
        dtype = "float32" if tiny and self._keys.dtype == "auto" else self._keys.dtype
        try:
            model, info = model_class.from_pretrained(
                self._path,
                config=self.config,
                dtype=dtype,
                output_loading_info=True,
                **self._source,
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise self._cannot_load(error) from None
        if info["missing_keys"]:
            raise ConfigError(
                f"{self._section}.model: {self._keys.model!r} lacks the weights "
                f"{sorted(info['missing_keys'])[:3]} of a {type(model).__name__}"
            )
        return model.to(self._device).eval()

    def _cannot_load(self, error: Exception) -> ConfigError:
        reason = " ".join(str(error).split())[:300]
        return ConfigError(f"{self._section}.model: cannot load {self._keys.model!r}: {reason}")


def _device(name: str, section: str) -> str:
    """Choose the device; under a launcher every rank has its own GPU.

    Raises:
        ConfigError: There is no such device here.
    """
    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).split("\n")[0]
            raise ConfigError(
                f"{section}.device: expected a device of this machine, found {name!r} ({reason})"
            ) from None
        return name
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def _fingerprint(folder: Path) -> str:
    """Tell local weights apart by size, first and last megabyte; "main" for a hub id."""
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(2**20))
            file.seek(max(0, size - 2**20))
            digest.update(file.read())
    return digest.hexdigest()[:12] if files else "main"
