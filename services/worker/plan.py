"""`quire plan MODEL`: does it fit? The memory plan of a server with these flags, without loading a weight.

By the worker's own arithmetic, on a device of the size that is here or is asked for. Needs a config.json and no more.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from quire.shared import model_files
from quire.shared.config import EngineConfig, WorkerConfig, all_fields
from quire.shared.flags import add_to, build, parse_size, settle
from quire.shared.messages import Configure
from quire.shared.model_config import ModelConfig
from quire.shared.model_errors import ModelFilesError

from .errors import DeviceError

if TYPE_CHECKING:
    import torch

_NAMES = (
    "model", "dtype", "quantization", "kv_cache_dtype", "max_model_len", "max_num_seqs", "max_num_batched_tokens",
    "block_size", "kv_cache_memory", "memory_utilization", "tensor_parallel_size", "enforce_eager", "config",
)  # fmt: skip
"""Of the flags of a server, those that memory depends on."""


class Forecast(Struct, frozen=True):
    """What `forecast` finds. Bytes."""

    parts: list[tuple[str, int]]
    memory: int
    token_bytes: int
    """Of KV cache."""
    num_tokens: int
    """That the KV cache holds."""
    max_model_len: int
    dtype: str


def main(argv: list[str]) -> int:
    values, memory = _parse(argv)
    try:
        folder = model_files.find_model(values.get("model"), has_weights=False)
        whole = model_files.read_model_config(folder)
        found = forecast(whole, values, memory)
    except (ModelFilesError, DeviceError) as error:
        print(f"It does not fit, or cannot be served: {error}", file=sys.stderr)
        return 1
    print(_table(folder, whole, found, values))
    return 0


def _parse(argv: list[str]) -> tuple[dict[str, Any], int | None]:
    parser = argparse.ArgumentParser(
        prog="quire plan",
        usage="quire plan [MODEL] [--memory SIZE] [flags of quire serve]",
        description="Does it fit? The memory plan of a server, without loading the model.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar="MODEL", nargs="?", help="folder with a config.json, or hub id")
    parser.add_argument("--memory", type=_size, metavar="SIZE", help="of one GPU to plan for; absent: what is here")
    kinds = (EngineConfig, WorkerConfig)
    added = add_to(parser, kinds, without=set(all_fields()) - set(_NAMES))
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    memory = given.pop("memory", None)
    if "checkpoint" in given:
        given["model"] = given.pop("checkpoint")
    try:
        return settle(added, given, all_fields()), memory
    except ValueError as error:
        parser.error(str(error))


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def forecast(whole: ModelConfig, values: dict[str, Any], memory: int | None) -> Forecast:
    """`values`: settings by name; memory: of one GPU, None for what is here. Raises DeviceError and ModelFilesError."""
    import torch

    from quire.shared.sharding import part_of

    from .device_memory import size_text
    from .device_setup import reserved_parts
    from .kv_cache import block_bytes
    from .memory_plan import plan_memory

    engine, worker = build(EngineConfig, values), build(WorkerConfig, values)
    config = part_of(whole, worker.tensor_parallel_size)
    has_gpu = torch.cuda.is_available()
    device = torch.device("cpu" if memory is None and not has_gpu else "cuda")
    dtype = _dtype(worker.dtype, whole, device)
    cache = torch.float8_e4m3fn if worker.kv_cache_dtype == "fp8" else dtype
    weights = _weight_bytes(config, device, dtype, worker)
    total = memory if memory is not None else _memory_here(device, worker.tensor_parallel_size)
    if weights >= total:
        raise DeviceError(f"the weights take {size_text(weights)} of {size_text(total)}; see --quantization and"
                          " --tensor-parallel-size")  # fmt: skip
    wanted = Configure(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=engine.max_model_len,
        block_size=engine.block_size,
        kv_cache_memory_bytes=engine.kv_cache_memory,
        memory_utilization=engine.memory_utilization,
    )
    beside = reserved_parts(config, wanted, dtype, not worker.enforce_eager) if device.type == "cuda" else []
    plan = plan_memory(config, wanted, device, dtype, weights, total - weights, cache, beside)
    return Forecast(
        parts=plan.parts,
        memory=total,
        token_bytes=block_bytes(config, engine.block_size, cache) // engine.block_size,
        num_tokens=plan.num_blocks * engine.block_size,
        max_model_len=plan.max_model_len,
        dtype=str(dtype).removeprefix("torch."),
    )


def _dtype(wanted: str, config: ModelConfig, device: torch.device) -> torch.dtype:
    from .device import choose_placement
    from .dummy_weights import dummy_entries

    if device.type == "cuda":  # one that need not be here
        import torch

        return getattr(torch, wanted if wanted != "auto" else config.dtype or "bfloat16")
    return choose_placement("cpu", wanted, config, dummy_entries(config)).dtype


def _weight_bytes(config: ModelConfig, device: torch.device, dtype: torch.dtype, worker: WorkerConfig) -> int:
    """What a rank's weights take once they are loaded, and quantised if they are to be."""
    import torch

    from .layers.placement import Placement, unpacked
    from .models import build_model
    from .tensor_parallel import RankGroup

    num_ranks, quantization = worker.tensor_parallel_size, worker.quantization
    model = build_model(config, Placement(torch.device("meta"), dtype, RankGroup(0, num_ranks)))
    total = sum(target.nbytes for target in model.targets().values())
    for linear in model.linears():
        if quantization == "int8" or (quantization == "fp8" and linear is not model.head):
            weight = unpacked(linear.weight)
            total += weight.numel() + 4 * weight.shape[0] - weight.nbytes
    if device.type == "cpu" and dtype == torch.float32 and config.tie_word_embeddings and quantization != "int8":
        # float32 is multiplied by a library, whose packed head holds no rows that an embedding could be read from.
        total += unpacked(model.head.weight).nbytes
    return total


def _memory_here(device: torch.device, num_ranks: int) -> int:
    import torch

    from .device import available_bytes

    return torch.cuda.mem_get_info()[1] if device.type == "cuda" else available_bytes(device, num_ranks)


def _table(folder: Path, config: ModelConfig, found: Forecast, values: dict[str, Any]) -> str:
    from .device_memory import size_text

    ranks = values.get("tensor_parallel_size", 1)
    each = f", on each of {ranks}" if ranks > 1 else ""
    lines = [f"{folder.name} ({config.architecture}), {found.dtype}, {size_text(found.memory)} of memory{each}", ""]
    rest = found.memory - sum(size for _, size in found.parts)
    width = max(len(what) for what, _ in found.parts)
    for what, size in [*found.parts, ("left", max(0, rest))]:
        note = f"   {size_text(found.token_bytes)} a token" if what == "kv cache" else ""
        lines.append(f"  {what:<{width}}  {size_text(size):>12}{note}")
    lengths = sorted({min(length, found.max_model_len) for length in (1024, 8192, found.max_model_len)})
    rows = [f"{found.num_tokens // length:,} of {length:,}" for length in lengths]
    lines += [
        "",
        f"It fits: the KV cache holds {found.num_tokens:,} tokens, texts may have {found.max_model_len:,};",
        f"at once so many texts of so many tokens: {', '.join(rows)}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
