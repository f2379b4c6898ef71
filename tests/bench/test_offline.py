"""The offline benchmark on the demo model, and its loop over a worker that falls short."""

from __future__ import annotations

import json

import pytest

from bench import offline
from quire.services.engine.limits import Limits
from quire.shared.messages import StepResult


def test_every_workload_is_measured_and_written_down(tmp_path, capsys):
    out = tmp_path / "offline.json"
    flags = ["--workload", "W1", "W3", "--rounds", "1", "--num-requests", "3", "--output-len", "4"]
    assert offline.main([*flags, "--kernels", "torch", "--threads", "1", "--out", str(out)]) == 0
    recorded = json.loads(out.read_text())
    for name in ("W1", "W3"):
        found = recorded["results"]["medians"][name]
        assert found["output_tokens"] == 12
        assert found["output_tokens_per_second"] > 0
        assert found["decode_step_ms"]["p50"] > 0
    assert recorded["settings"]["worker"] == ["--kernels", "torch", "--threads", "1"]
    assert "output tokens/s" in capsys.readouterr().out


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path, capsys):
    assert offline.main(["--model", str(tmp_path), "--kernels", "torch"]) == 1
    assert capsys.readouterr().err.startswith("quire bench: ")


def test_generate_is_measured_beside_the_engine_alone(tmp_path, capsys):
    out = tmp_path / "offline-llm.json"
    flags = ["--num-requests", "5", "--input-len", "6", "--output-len", "3", "--rounds", "2", "--max-num-seqs", "4"]
    assert offline.main(["--llm", *flags, "--out", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    assert len(results["rounds"]) == 2
    for one in results["rounds"]:
        assert one["ratio"] == pytest.approx(one["LLM.generate"]["seconds"] / one["engine alone"]["seconds"], rel=1e-4)
        assert one["LLM.generate"]["cpu_seconds"].keys() == {"worker-0-0", "engine-0", "tokenizer-0", "caller"}
    assert "of the engine's time" in capsys.readouterr().out


def test_a_prompt_that_the_engine_alone_refuses_ends_the_comparison(capsys):
    assert offline.main(["--llm", "--num-requests", "1", "--output-len", "100000", "--rounds", "1"]) == 1
    assert "the engine refused a prompt" in capsys.readouterr().err


def test_output_that_is_no_number_is_an_error():
    def apply(plan):
        return StepResult(
            step=plan.step, token_ids=bytes(4), failed_rows=[0], logprobs=[], prompt_logprobs=[], seconds=0.0
        )

    steps = offline.Steps(apply, Limits(64, 16, 8, 256, 128), [1])
    with pytest.raises(RuntimeError, match="not a number"):
        steps.run([[5, 6, 7]], 4, 1)


def test_a_request_that_can_never_be_scheduled_is_an_error():
    steps = offline.Steps(lambda plan: pytest.fail("nothing can be planned"), Limits(1, 4, 8, 256, 128), [1])
    with pytest.raises(RuntimeError, match="nothing can be scheduled"):
        steps.run([list(range(20))], 4, 1)
