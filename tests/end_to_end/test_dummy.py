"""A folder with a config.json alone, served: random weights, and a tokenizer from elsewhere."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import pytest
from checkpoints import make_checkpoint
from running_server import RunningServer, serving

from quire.services.launcher.preflight import LaunchError, check_model


def config_alone(folder: Path) -> Path:
    make_checkpoint("llama 2", folder / "whole", vocab_size=4096)
    (folder / "alone").mkdir()
    shutil.copy(folder / "whole" / "config.json", folder / "alone")
    return folder / "alone"


def complete(server: RunningServer, prompt: object) -> dict:
    body = {"model": "alone", "prompt": prompt, "max_tokens": 6, "temperature": 0, "ignore_eos": True, "logprobs": 1}
    request = urllib.request.Request(
        server.url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_a_config_alone_answers_texts_and_token_ids(tmp_path):
    with serving(str(config_alone(tmp_path)), "--load-format", "dummy", "--tokenizer", "quire-demo") as server:
        by_ids = complete(server, [4000, 5, 6])
        assert by_ids["usage"] == {**by_ids["usage"], "prompt_tokens": 3, "completion_tokens": 6}
        assert by_ids["choices"][0] == {**by_ids["choices"][0], **complete(server, [4000, 5, 6])["choices"][0]}
        assert complete(server, "Count from 1")["usage"]["completion_tokens"] == 6


def test_it_serves_in_8_bit_floats_and_says_so(tmp_path):
    flags = ("--load-format", "dummy", "--tokenizer", "quire-demo", "--quantization", "fp8", "--kv-cache-dtype", "fp8")
    with serving(str(config_alone(tmp_path)), *flags, "--log-level", "info") as server:
        prompts = [[4000, 5, 6], list(range(100, 140)), [9]]
        alone = [complete(server, prompt)["choices"][0] for prompt in prompts]
        together = complete(server, prompts)["choices"]
        assert [choice["text"] for choice in together] == [choice["text"] for choice in alone]
        told = server.get("/metrics").decode()
        assert "linear: fp8, fp8 KV cache" in told


def test_without_a_tokenizer_the_flag_is_named(tmp_path):
    server = RunningServer(str(config_alone(tmp_path)), "--load-format", "dummy")
    assert server.process.wait(60) == 1
    server.stop()
    assert "alone has no tokenizer.json" in server.output and "--tokenizer names another folder" in server.output


def test_without_the_flag_a_config_alone_is_refused_before_anything_starts(tmp_path):
    folder = str(config_alone(tmp_path))
    with pytest.raises(LaunchError, match="has no weights"):
        check_model(folder)
    check_model(folder, "dummy")
