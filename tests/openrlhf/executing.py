"""What OpenRLHF does around an executor, in this process: an engine, and n executions together."""

import asyncio
from types import SimpleNamespace


class Engine:
    """Stands where RolloutRayActor does; completions come from a list, in any order of time.

    Args:
        texts: Completions, by order of asking.
        tokenizer: Whose tokens they are.
        delays: Seconds until each is there, by order of asking; without one, at once.
        cut: Which ones are cut off at the longest length.
    """

    def __init__(self, texts, tokenizer, delays=(), cut=()):
        self.texts, self.tokenizer, self.delays, self.cut = list(texts), tokenizer, delays, cut
        self.asked = 0

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        at = self.asked
        self.asked += 1
        if at < len(self.delays):
            await asyncio.sleep(self.delays[at])
        text = self.texts[at]
        if isinstance(text, Exception):
            raise text
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        cut = at in self.cut
        ids = ids if cut else [*ids, self.tokenizer.eos_token_id]
        logprobs = [{i: SimpleNamespace(logprob=-0.5)} for i in ids]
        reason = "length" if cut else "stop"
        output = SimpleNamespace(token_ids=ids, text=text, finish_reason=reason, logprobs=logprobs)
        return SimpleNamespace(outputs=[output])


def sampling_params(logprobs=None):
    return SimpleNamespace(max_tokens=64, logprobs=logprobs)


async def generate_responses(executor, engine, prompt, label, n, params=None):
    """Do what RolloutRayActor.generate_responses does (trainer/ray/vllm_engine.py:183-206)."""
    params = params or sampling_params()
    executions = [
        executor.execute(
            prompt=prompt,
            label=label,
            sampling_params=params,
            max_length=512,
            hf_tokenizer=engine.tokenizer,
            llm_engine=engine,
            images=None,
        )
        for _ in range(n)
    ]
    return await asyncio.gather(*executions)
