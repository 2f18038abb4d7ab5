"""The exception tree of spct_plugin.

    SPCTError
    ├── ConfigError(ValueError)   bad file, unknown key, impossible combination
    ├── TaskError(ValueError)     a prompt or completion that cannot be judged
    ├── PluginError               cannot import, duplicate name, unknown name
    ├── EngineError               a request failed for good; .failure, .status_code, .retryable
    ├── StoreError                votes cannot be written or read
    ├── RewardError               no reward can be given and the configuration says to stop
    └── TrainingError             a training run that must not go on

A judgement without usable scores is no exception: it is a `Judgement` with a `failure`.
"""

from spct_plugin.failures import Failure


class SPCTError(Exception):
    """Any mistake this package reports; says what was expected, what found, and the remedy."""


class ConfigError(SPCTError, ValueError):
    """A configuration file or option that cannot be used."""


class TaskError(SPCTError, ValueError):
    """A prompt or completion that cannot be judged."""


class PluginError(SPCTError):
    """A plugin that cannot be loaded, or a name nobody registered."""


class StoreError(SPCTError):
    """Votes that cannot be written to the store's directory, or read from it."""


class RewardError(SPCTError):
    """No reward, and the configuration says to stop: `on_failure: stop` or the breaker."""


class RuleError(RewardError):
    """A rule beside the judge that gave something else than numbers; it would do so again."""


class TrainingError(SPCTError):
    """A training run that must not go on: its loss is no number."""


class EngineError(SPCTError):
    """An engine request that failed for good.

    Attributes:
        failure: What the judgements of this request are recorded as.
        status_code: HTTP status, None where there was no HTTP response.
        retryable: Whether the same request may succeed later.
    """

    def __init__(
        self,
        message: str = "",
        *,
        failure: Failure = "engine_error",
        status_code: int | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.failure: Failure = failure
        self.status_code = status_code
        self.retryable = retryable

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the attributes when the error crosses a process border."""
        return (type(self), (str(self),), self.__dict__)
