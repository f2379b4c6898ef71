"""transformers as a peer: its own continuous batching behind the least HTTP that serving.py can measure.

`python bench/peers/transformers_server.py MODEL --port 8102`. /v1/completions of token ids, greedy, streamed or
whole, without ends (ignore_eos). What it costs beyond transformers is one thread that hands tokens on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

_POLL_SECONDS = 0.5


class Batching:
    """transformers' manager, and a thread that waits for what it gives."""

    def __init__(self, folder: str, num_blocks: int, max_batch_tokens: int, device: str = "cpu") -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa")
        model.to(device).eval()
        generation = GenerationConfig(do_sample=False, max_new_tokens=4096, eos_token_id=-1, pad_token_id=0)
        batching = ContinuousBatchingConfig(num_blocks=num_blocks, max_batch_tokens=max_batch_tokens)
        self._manager = model.init_continuous_batching(
            generation_config=generation, continuous_batching_config=batching
        )
        self._queues: dict[str, asyncio.Queue[list[int] | None]] = {}
        self._numbers = itertools.count()
        self._is_ending = False

    def start(self) -> None:
        """Called on the server's loop."""
        self._loop = asyncio.get_running_loop()
        self._manager.start()
        self._thread = threading.Thread(target=self._hand_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._is_ending = True
        self._manager.stop(block=True)
        self._thread.join()

    def _hand_on(self) -> None:
        while not self._is_ending:
            output = self._manager.get_result(timeout=_POLL_SECONDS)
            if output is not None:
                tokens = None if output.error else list(output.generated_tokens)
                self._loop.call_soon_threadsafe(self._arrived, output.request_id, tokens)

    def _arrived(self, request_id: str, tokens: list[int] | None) -> None:
        if request_id in self._queues:
            self._queues[request_id].put_nowait(tokens)

    async def stream(self, prompt: Sequence[int], max_tokens: int) -> AsyncIterator[list[int]]:
        """What is new, until there are max_tokens. Raises RuntimeError when the manager gives up."""
        request_id = f"request-{next(self._numbers)}"
        queue = self._queues[request_id] = asyncio.Queue()
        try:
            self._manager.add_request(list(prompt), request_id=request_id, max_new_tokens=max_tokens, streaming=True)
            count = 0
            while count < max_tokens:
                tokens = await queue.get()
                if tokens is None:
                    raise RuntimeError("the request failed")
                if len(tokens) > count:
                    yield tokens[count:]
                    count = len(tokens)
        finally:
            del self._queues[request_id]
            self._manager.cancel_request(request_id)


class Api:
    """The few routes."""

    def __init__(self, batching: Batching, name: str) -> None:
        self._batching = batching
        self._name = name
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._batching.start()
        yield
        self._batching.stop()

    async def _health(self, _: Request) -> Response:
        return Response()

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self._name, "object": "model"}]})

    async def _completions(self, request: Request) -> Response:
        body = json.loads(await request.body())
        prompt, max_tokens = body["prompt"], int(body.get("max_tokens", 16))
        if isinstance(prompt, str):
            prompt = self._batching.tokenizer.encode(prompt)
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": max_tokens,
            "total_tokens": len(prompt) + max_tokens,
        }
        if body.get("stream"):
            return StreamingResponse(self._frames(prompt, max_tokens, usage), media_type="text/event-stream")
        tokens = [token async for some in self._batching.stream(prompt, max_tokens) for token in some]
        return JSONResponse({**self._chunk(tokens), "usage": usage})

    def _chunk(self, tokens: list[int]) -> dict[str, Any]:
        # A token that is no whole character has no text yet, and would not count as having come.
        text = self._batching.tokenizer.decode(tokens) or " "
        choice = {"index": 0, "text": text, "finish_reason": None}
        return {"id": "cmpl", "object": "text_completion", "model": self._name, "choices": [choice]}

    async def _frames(self, prompt: list[int], max_tokens: int, usage: dict[str, int]) -> AsyncIterator[str]:
        async for tokens in self._batching.stream(prompt, max_tokens):
            yield f"data: {json.dumps(self._chunk(tokens))}\n\n"
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


def main() -> None:
    made = argparse.ArgumentParser(description="transformers behind /v1/completions.")
    made.add_argument("model", help="checkpoint folder")
    made.add_argument("--port", type=int, default=8102)
    made.add_argument("--threads", type=int, help="of torch")
    made.add_argument("--device", default="cpu", help="(default: cpu)")
    made.add_argument("--num-blocks", type=int, default=64, help="of 256 tokens, of the KV cache")
    made.add_argument("--max-batch-tokens", type=int, default=1024, help="token budget of one step")
    options = made.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    batching = Batching(options.model, options.num_blocks, options.max_batch_tokens, options.device)
    api = Api(batching, options.model)
    uvicorn.run(api.app, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
