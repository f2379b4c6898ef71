"""What a section is told, what it gives back, and the sizes it works on: of a GPU, or tiny ones for a dry run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

ROOT = Path(__file__).resolve().parents[2]


class Sizes(Struct, frozen=True, kw_only=True):
    """Of one run."""

    models: tuple[str, ...]
    """Folders of bench/dimensions/, or "demo"."""
    copy_bytes: int
    gemm: int
    cold_bytes: int
    """Inputs that are taken in turn, so that none is found in a cache."""
    rows: tuple[int, ...]
    """Of the kernel table's decode steps, largest last."""
    contexts: tuple[int, ...]
    prefill: int
    batches: tuple[int, ...]
    """Of the decode sweep."""
    decode_context: int
    decode_steps: int
    streams: tuple[int, ...]
    """Of the HTTP sweep."""
    input_len: int
    output_len: int
    checkpoint: str
    """Of bench/checkpoints.py, written for the comparison with transformers."""
    kv_cache_memory: str


OF_A_GPU = Sizes(
    models=("qwen3-0.6b", "qwen3-8b"),
    copy_bytes=2 << 30,
    gemm=8192,
    cold_bytes=512 << 20,
    rows=(1, 64, 256),
    contexts=(1024, 4096),
    prefill=8192,
    batches=(1, 32, 64, 256),
    decode_context=1024,
    decode_steps=48,
    streams=(1, 16, 64, 256),
    input_len=512,
    output_len=128,
    checkpoint="A",
    kv_cache_memory="16GiB",
)
TINY = Sizes(
    models=("demo",),
    copy_bytes=8 << 20,
    gemm=256,
    cold_bytes=1 << 20,
    rows=(1, 4),
    contexts=(64,),
    prefill=64,
    batches=(1, 4),
    decode_context=32,
    decode_steps=12,
    streams=(1, 4),
    input_len=16,
    output_len=8,
    checkpoint="tiny",
    kv_cache_memory="32MiB",
)


class Setting(Struct):
    """What every section gets."""

    device: str
    """cuda | cpu"""
    is_tiny: bool
    work: str
    """Folder for what a section writes; shared by all of a run."""
    bytes_per_second: float = 0.0
    """Of a copy, read and written; 0 until the ceilings are known."""
    flops: float = 0.0
    """A second, of bfloat16 matrix products."""

    def learn(self, section: str, figures: dict[str, Any]) -> None:
        """Take over the ceilings, which later sections' percentages refer to; nothing of another section."""
        if section == "ceilings":
            self.bytes_per_second, self.flops = figures["bytes_per_second"], figures["flops"]

    @property
    def folder(self) -> Path:
        return Path(self.work)

    @property
    def sizes(self) -> Sizes:
        return TINY if self.is_tiny else OF_A_GPU

    def model_flags(self, model: str) -> list[str]:
        """`--model` for a worker or tokenizer, with weights that need no files."""
        return [] if model == "demo" else ["--model", *self._of_dimensions(model)]

    def serve_flags(self, model: str) -> list[str]:
        """The same for `quire serve`."""
        return [] if model == "demo" else [*self._of_dimensions(model), "--tokenizer", "quire-demo"]

    def _of_dimensions(self, model: str) -> list[str]:
        return [str(ROOT / "bench" / "dimensions" / model), "--load-format", "dummy"]


class Outcome(Struct):
    """What a section found: a table for people, and whatever else is worth keeping."""

    header: list[str]
    rows: list[list[Any]]
    figures: dict[str, Any] = {}
    notes: list[str] = []
