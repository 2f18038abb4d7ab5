"""An agent for OpenRLHF that has the completions of a prompt judged together.

    python -m openrlhf.cli.train_ppo_ray --train.agent_func_path "$(spct path openrlhf-agent)" ...

SPCT_CONFIG names the configuration, in every Ray worker. Generation is OpenRLHF's own; the last
sibling of a prompt has the whole group judged, while other prompts still generate.
"""

# OpenRLHF is in an environment of its own.
# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
from typing import Any

from openrlhf.utils.agent import SingleTurnAgentExecutor

from spct_openrlhf import Completion, GroupScorer, Result, load_config
from spct_plugin import TaskError

__all__ = ["AgentExecutor"]


class _Group:
    """The siblings of one prompt.

    Attributes:
        outputs: What each has generated, in order of arrival; None until it has.
        results: What each gets, in the same order.
    """

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any] | None] = []
        self.results: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()

    def fail(self, error: BaseException) -> None:
        """End the siblings' waiting with the error of one."""
        if not self.results.done():
            self.results.set_exception(error)
            # It is raised by who failed, too: asyncio must not complain that nobody saw it.
            self.results.exception()


class AgentExecutor(SingleTurnAgentExecutor):
    """What OpenRLHF makes one of in every vLLM actor, without arguments.

    RolloutRayActor.generate_responses gives the n executions of a prompt the very same sampling
    parameters and starts them together (trainer/ray/vllm_engine.py:183-206): the object tells the
    group, the arrivals tell its size.

    Args:
        scorer: Reward with this instead of what SPCT_CONFIG names.

    Raises:
        ConfigError: SPCT_CONFIG is missing, or names what cannot be used here.
    """

    def __init__(self, scorer: GroupScorer | None = None) -> None:
        super().__init__(remote_rm_url=None)
        self._scorer = scorer or GroupScorer(load_config())
        self._groups: dict[tuple[int, str], _Group] = {}

    async def execute(
        self,
        prompt: str,
        label: Any,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:
        """Generate one completion, and wait for its group's rewards.

        Returns:
            OpenRLHF's own output, with `reward`, `scores` and `extra_logs`.

        Raises:
            RewardError: The breaker, or `on_failure: stop`; it ends the run.
            TaskError: The prompt cannot be judged; likewise.
        """
        if images:
            raise TaskError("expected a prompt without images, as the judge reads text only")
        key = (id(sampling_params), prompt)
        group = self._groups.setdefault(key, _Group())
        place = len(group.outputs)
        group.outputs.append(None)
        # Lets all siblings arrive before one can be done.
        await asyncio.sleep(0)
        try:
            output = await super().execute(
                prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine
            )
            group.outputs[place] = output
            outputs = [found for found in group.outputs if found is not None]
            if len(outputs) == len(group.outputs):
                self._groups.pop(key)
                completions = [_completion(found, hf_tokenizer) for found in outputs]
                group.results.set_result(
                    await self._scorer.score(prompt, label, completions, hf_tokenizer)
                )
        except BaseException as error:
            # Whatever it is, it ends the run; the siblings must not wait for ever.
            self._groups.pop(key, None)
            group.fail(error)
            raise
        result = (await asyncio.shield(group.results))[place]
        return output | {
            "reward": result["rewards"],
            "scores": result["scores"],
            "extra_logs": result["extra_logs"],
        }


def _completion(output: dict[str, Any], tokenizer: Any) -> Completion:
    """Cut a completion out by its tokens."""
    [(start, end)] = output["action_ranges"]
    ids = output["observation_tokens"][start:end]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Completion(text, ids, is_whole=not output["truncated"])
