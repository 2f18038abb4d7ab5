"""The meta RMs that ship with the package: what their configuration sections hold.

Only names and checks, as in `spct_plugin.engines.builtin`; the meta RMs themselves are imported
when they are built.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spct_plugin.engines.builtin import CheckpointConfig, ServerConfig, not_installed
from spct_plugin.meta_rm import MetaRM, MetaRMConfig
from spct_plugin.templates import META, Template


class TransformersMetaConfig(CheckpointConfig, MetaRMConfig):
    """A classifier with one label, loaded into this process by transformers."""

    kind: Literal["transformers"] = "transformers"  # pyright: ignore[reportIncompatibleVariableOverride]
    """This meta RM."""
    batch_size: int = Field(default=32, ge=1)
    """Judgements scored at once. 32: chosen by us; each is a whole prompt, and 32 of 2,000 tokens
    keep a GPU busy."""

    @property
    def native_template(self) -> str:
        """The tiny meta RM reads what the tiny GRM read."""
        return "tiny" if self.model == "tiny" else META

    def build(self, template: Template) -> MetaRM:
        """Make the meta RM; the weights are loaded by its first request.

        Raises:
            ConfigError: torch and transformers are not installed, or the model cannot be used.
        """
        try:
            from spct_plugin.meta_rm.transformers import TransformersMetaRM
        except ModuleNotFoundError as error:
            raise not_installed(error, "meta_rm", "classify") from None

        return TransformersMetaRM(self, template)


class ClassifyConfig(ServerConfig, MetaRMConfig):
    """A vLLM server that runs a classifier with one label: `vllm serve MODEL --runner pooling`."""

    kind: Literal["classify"] = "classify"  # pyright: ignore[reportIncompatibleVariableOverride]
    """This meta RM."""
    url: tuple[str, ...] = Field(min_length=1)
    """Base address(es), with or without /v1 (vLLM serves /classify beside it), or "file:PATH" for a
    file of them, as for the engine; a request goes to the one with the fewest tokens in flight."""
    request_timeout_s: float = Field(default=120.0, gt=0)
    """Longest time for one try, and for a server to wake or fall asleep. Chosen by us: a score is
    one forward pass, the rest is queueing."""

    @classmethod
    def address(cls, text: str) -> str:
        """Bring one address into its usual form, without /v1.

        Raises:
            ValueError: It is none.
        """
        return super().address(text).removesuffix("/v1")

    def build(self, template: Template) -> MetaRM:
        """Make the meta RM; connections are opened by the first request."""
        from spct_plugin.meta_rm.classify import ClassifyMetaRM

        return ClassifyMetaRM(self, template)
