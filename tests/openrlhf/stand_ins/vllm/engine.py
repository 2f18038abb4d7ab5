"""An engine with vLLM's interface around a transformers model.

All work on the model happens in one thread, a token or a weight at a time; so requests take turns,
finish in any order, and may go on under new weights, as in vLLM.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pydoc import locate
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, AutoTokenizer

log = logging.getLogger(__name__)


@dataclass
class SamplingParams:
    """What OpenRLHF sets (trainer/ppo_utils/samples_generator.py:199), and a seed."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int | None = 16
    min_tokens: int = 0
    seed: int | None = None
    logprobs: int | None = None
    skip_special_tokens: bool = True


@dataclass
class AsyncEngineArgs:
    """What OpenRLHF passes (trainer/ray/vllm_engine.py:264); most of it changes nothing here."""

    model: str
    dtype: str
    seed: int
    max_model_len: int
    worker_extension_cls: str
    logprobs_mode: str = "raw_logprobs"
    enable_sleep_mode: bool = False
    tensor_parallel_size: int = 1
    distributed_executor_backend: str = "uni"
    enforce_eager: bool = True
    enable_prefix_caching: bool = False
    trust_remote_code: bool = False
    gpu_memory_utilization: float | None = None
    max_logprobs: int = 1


class _Worker:
    """The model; vLLM mixes OpenRLHF's extension into this class, which fills in new weights."""

    def __init__(self, args):
        model = AutoModelForCausalLM.from_pretrained(
            args.model, dtype=args.dtype, attn_implementation="eager"
        )
        self._model = model.eval()
        stop = model.generation_config.eos_token_id
        self.stop_ids = stop if isinstance(stop, list) else [stop]
        self._processed = args.logprobs_mode == "processed_logprobs"
        # The names that trainer/ray/vllm_worker_wrap.py reads.
        self.device = torch.device("cpu")
        self.model_config = SimpleNamespace(dtype=model.dtype)
        self.model_runner = SimpleNamespace(model=SimpleNamespace(load_weights=self._load_weights))
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)

    @torch.inference_mode()
    def next_token(self, ids, params, generator, may_stop):
        """Sample one token; give it with its log-probability."""
        logits = self._model(torch.tensor([ids])).logits[0, -1].float()
        raw = logits.log_softmax(-1)
        if not may_stop:
            logits[self.stop_ids] = -torch.inf
        if params.temperature == 0:
            token = int(logits.argmax())
            return token, float(raw[token])
        processed = _filtered(logits / params.temperature, params).log_softmax(-1)
        token = int(torch.multinomial(processed.exp(), 1, generator=generator))
        return token, float((processed if self._processed else raw)[token])

    @torch.no_grad()
    def _load_weights(self, weights):
        parameters = dict(self._model.named_parameters())
        for name, weight in weights:
            parameters[name].copy_(weight)


class _CudaIsCpu(TorchFunctionMode):
    """Makes the buffer for a new weight on the CPU (trainer/ray/vllm_worker_wrap.py:40)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return func(*args, **{**kwargs, "device": "cpu"} if "device" in kwargs else kwargs)


class AsyncLLMEngine:
    """Generates for many requests at once, a token for each in turn."""

    def __init__(self, args):
        if args.tensor_parallel_size != 1:
            raise NotImplementedError("the stand-in for vLLM does not shard a model")
        self._args = args
        self._thread = ThreadPoolExecutor(1, "vllm")
        worker_class = type("Worker", (_Worker, locate(args.worker_extension_cls)), {})
        self._worker = self._thread.submit(worker_class, args).result()
        self._tokenizer = AutoTokenizer.from_pretrained(args.model)
        self._requests = 0
        self._unfinished = 0
        self._asleep = set()
        self._may_step = asyncio.Event()
        self._may_step.set()
        self.output_processor = SimpleNamespace(
            get_num_unfinished_requests=lambda: self._unfinished
        )

    @classmethod
    def from_engine_args(cls, args):
        """Load the model."""
        return cls(args)

    async def generate(self, prompt, sampling_params, request_id):
        """Yield one finished output; `token_ids` end with the stop token if there is one."""
        ids = prompt["prompt_token_ids"]
        budget = self._args.max_model_len - len(ids)
        self._check(prompt, budget)
        if sampling_params.max_tokens is not None:
            budget = min(budget, sampling_params.max_tokens)
        self._requests += 1
        self._unfinished += 1
        try:
            yield await self._generate(ids, sampling_params, budget)
        finally:
            self._unfinished -= 1

    async def collective_rpc(self, method, args=()):
        """Call a method of OpenRLHF's extension between two tokens."""

        def call():
            with _CudaIsCpu():
                return getattr(self._worker, method)(*args)

        return [await self._in_thread(call)]

    async def pause_generation(self, mode):
        """Hold every request where it is, once the token under way is done."""
        if mode != "keep":
            raise NotImplementedError(f"expected mode 'keep', found {mode!r}")
        self._may_step.clear()
        await self._in_thread(lambda: None)
        log.warning("paused with %d requests under way", self._unfinished)

    async def resume_generation(self):
        """Let the held requests go on."""
        self._may_step.set()

    async def sleep(self, level=1):
        """Refuse requests until both tags are awake."""
        self._asleep = {"weights", "kv_cache"}

    async def wake_up(self, tags):
        """Wake up what `tags` name."""
        self._asleep -= set(tags)

    async def is_sleeping(self):
        """Tell whether anything still sleeps."""
        return bool(self._asleep)

    async def reset_prefix_cache(self):
        """Do nothing: every token is computed from the whole text."""

    def _check(self, prompt, budget):
        if "multi_modal_data" in prompt:
            raise NotImplementedError("the stand-in for vLLM has no images")
        if self._asleep:
            raise RuntimeError(f"expected an engine awake, found {sorted(self._asleep)} asleep")
        if budget < 1:
            raise ValueError(f"the prompt leaves no room in {self._args.max_model_len} tokens")

    async def _generate(self, prompt_ids, params, budget):
        seed = self._args.seed + self._requests if params.seed is None else params.seed
        generator = torch.Generator().manual_seed(seed)
        tokens, logprobs, stopped = [], [], False
        while len(tokens) < budget and not stopped:
            while not self._may_step.is_set():
                await self._may_step.wait()
            may_stop = len(tokens) >= params.min_tokens
            token, logprob = await self._in_thread(
                self._worker.next_token, prompt_ids + tokens, params, generator, may_stop
            )
            tokens.append(token)
            logprobs.append({token: SimpleNamespace(logprob=logprob)})
            stopped = token in self._worker.stop_ids
        shown = tokens[:-1] if stopped else tokens
        output = SimpleNamespace(
            token_ids=tokens,
            text=self._tokenizer.decode(shown, skip_special_tokens=params.skip_special_tokens),
            finish_reason="stop" if stopped else "length",
            logprobs=None if params.logprobs is None else logprobs,
        )
        return SimpleNamespace(outputs=[output])

    async def _in_thread(self, function, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _filtered(logits, params):
    """Rule out what top-k and top-p leave out."""
    ordered, places = logits.sort(descending=True)
    probabilities = ordered.softmax(-1)
    out = probabilities.cumsum(-1) - probabilities >= params.top_p
    if params.top_k > 0:
        out[params.top_k :] = True
    return logits.masked_fill(torch.zeros_like(out).scatter(-1, places, out), -torch.inf)
