"""The engines that ship with the package: what their configuration sections hold.

Only names and checks live here; the engines themselves are imported when they are built, so that
reading a configuration needs neither torch nor an HTTP client.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from spct_plugin.config_file import Section
from spct_plugin.engines import Engine, EngineConfig
from spct_plugin.errors import ConfigError

FROM_FILE = "file:"
"""Begins an address that names a file of addresses."""


class CheckpointConfig(Section):
    """What every model loaded into this process needs to be told."""

    model: str = "tiny"
    """A folder, a hub id, or "tiny": the bundled one, a toy for a toy world."""
    revision: str | None = None
    """Revision of a hub model; votes and scores kept of another one are not used."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights' type; auto = what the checkpoint says, float32 for "tiny"."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1"; auto = the first GPU when there is one."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint."""
    batch_size: int = Field(ge=1)
    """Prompts in the model at once."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it runs, and how much of it at once."""
        return ("device", "batch_size")


class ServerConfig(Section):
    """What every server that is asked over HTTP needs to be told."""

    url: tuple[str, ...] = Field(min_length=1)
    """Base address(es) ending in /v1, or "file:PATH" for a file of them, one per line, which is
    read again while it is used; relative to the working directory. A request goes to the one with
    the fewest tokens in flight."""
    model: str
    """Model name the server knows."""
    revision: str | None = None
    """Which weights stand behind the name; change it with them, or old votes and scores are used
    again."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; no file ever holds the key itself."""
    max_in_flight: int = Field(default=512, ge=1)
    """Requests at once, all addresses together. 512: chosen by us, about what one vLLM replica
    schedules (its max_num_seqs is 256 to 1024)."""
    connect_timeout_s: float = Field(default=10.0, gt=0)
    """Longest wait for a connection. Chosen by us: a host that is up answers within one second."""
    request_timeout_s: float = Field(default=600.0, gt=0)
    """Longest time for one try, and for a server to wake or fall asleep. Chosen by us: 4,096 tokens
    at 10 tokens/s under full load."""
    retries: int = Field(default=6, ge=0)
    """Rounds of tries after the first, each with every server once, on connection errors, 408, 429
    and 5xx only. 6: chosen by us, as the waits add up to 31 to 63 s: a server's restart behind a
    proxy takes 30."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the server is, and how hard it is asked."""
        return (
            *("url", "api_key_env", "max_in_flight"),
            *("connect_timeout_s", "request_timeout_s", "retries"),
        )

    @field_validator("url", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _usable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(url if url.startswith(FROM_FILE) else cls.address(url) for url in value)

    @classmethod
    def address(cls, text: str) -> str:
        """Bring one address into its usual form.

        Raises:
            ValueError: It is none.
        """
        if _is_address(text):
            return text.rstrip("/")
        if {"@", "?"} & set(text):
            # Not shown, as messages go into logs.
            raise ValueError(
                "expected http://host:port/v1, found one with a user, a password or a query; "
                "a key is read from the environment variable that api_key_env names"
            )
        raise ValueError(f"expected http://host:port/v1, found {text!r:.200}")


class TransformersConfig(CheckpointConfig, EngineConfig):
    """A model loaded into this process by transformers."""

    kind: Literal["transformers"] = "transformers"  # pyright: ignore[reportIncompatibleVariableOverride]
    """This engine."""
    batch_size: int = Field(default=256, ge=1)
    """Answers generated at once. 256: chosen by us; more gains little on 2 cores."""

    @property
    def native_template(self) -> str:
        """The tiny GRM reads only the template it was trained on."""
        return "tiny" if self.model == "tiny" else "default"

    def build(self) -> Engine:
        """Make the engine; the weights are loaded by its first request.

        Raises:
            ConfigError: torch and transformers are not installed, or the model cannot be loaded.
        """
        try:
            from spct_plugin.engines.transformers import TransformersEngine
        except ModuleNotFoundError as error:
            raise not_installed(error, "engine", "openai") from None

        return TransformersEngine(self)


class OpenAIConfig(ServerConfig, EngineConfig):
    """Any server that speaks OpenAI's /v1/chat/completions: vLLM, SGLang, a hosted one."""

    kind: Literal["openai"] = "openai"  # pyright: ignore[reportIncompatibleVariableOverride]
    """This engine."""
    context: int | None = Field(default=None, ge=1)
    """Tokens of prompt + answer the model can hold; None = leave it to the server to refuse."""
    extra_body: dict[str, Any] = Field(default_factory=dict[str, Any])
    """More keys for every request's JSON body, such as chat_template_kwargs."""

    def build(self) -> Engine:
        """Make the engine; connections are opened by the first request."""
        from spct_plugin.engines.openai import OpenAIEngine

        return OpenAIEngine(self)


class ReplayConfig(EngineConfig):
    """Recorded judgements instead of a model: what `spct judge` wrote."""

    kind: Literal["replay"] = "replay"  # pyright: ignore[reportIncompatibleVariableOverride]
    """This engine."""
    path: Path
    """The output file of `spct judge`."""

    def build(self) -> Engine:
        """Read the recording."""
        from spct_plugin.engines.replay import ReplayEngine

        return ReplayEngine(self.path)


def not_installed(error: ModuleNotFoundError, section: str, other: str) -> ConfigError:
    """Say what to install for a model in this process, or which kind does without."""
    return ConfigError(
        f"{section}.kind: 'transformers' needs {error.name}, which is not installed; run: "
        f"pip install 'spct-plugin[trl]', or set {section}.kind: {other}"
    )


def _is_address(text: str) -> bool:
    """Tell whether a text names a server, so that a path can be put behind it."""
    # Looked at before it is split: urlsplit leaves out line ends and tabs wherever they stand.
    if not text.startswith(("http://", "https://")) or not text.isprintable():
        return False
    if set(" \\?#") & set(text):
        return False
    try:
        url = urlsplit(text)
        # Reading the port checks it; encoding finds what a resolver would choke on.
        host, has_port = (url.hostname or "").encode("idna"), url.port != 0
    except ValueError:
        return False
    return bool(host) and has_port and "@" not in url.netloc
