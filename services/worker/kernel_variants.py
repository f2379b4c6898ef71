"""The kernels that a model's steps launch on a GPU: compiled in threads while its weights are loaded.

So that neither the first step nor any later one compiles; what was compiled before comes from Triton's cache on
disk (TRITON_CACHE_DIR). Knows no launches: those are kernels' own.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time

import torch

from quire import kernels
from quire.shared.config import EngineConfig

from .device import usable_cpus
from .errors import DeviceError
from .layers.placement import Placement
from .models.decoder import Decoder

logger = logging.getLogger("quire.worker")

_MOST_THREADS = 16
_NEEDED = "install a C compiler and Python's headers (gcc, python3-dev), or name the compiler in CC"


def dims_of(
    model: Decoder, placement: Placement, cache_dtype: torch.dtype, is_fp8: bool, block_size: int
) -> kernels.Dims:
    config = model.config
    return kernels.Dims(
        dtype=placement.dtype,
        cache_dtype=cache_dtype,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        block_size=block_size,
        max_num_seqs=EngineConfig().max_num_seqs,
        max_num_blocks=-(-config.max_model_len // block_size),
        has_qk_norm=model.layers[0].attention.q_norm is not None,
        activation=config.hidden_act,
        windows=tuple(dict.fromkeys(config.layer_windows)),
        is_fp8=is_fp8,
    )


class KernelVariants:
    """Begins to compile for the block size that engines have by default; `finish` for the one they want."""

    def __init__(self, model: Decoder, placement: Placement, cache_dtype: torch.dtype, is_fp8: bool) -> None:
        self._given = (model, placement, cache_dtype, is_fp8)
        self._device = placement.device
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._begin, name="kernels", daemon=True)
        self._thread.start()

    def finish(self, block_size: int) -> None:
        """All are there when this returns. Raises what compiling raises, and DeviceError where no C compiler does."""
        self._thread.join()
        error = self._error
        if error is None:
            pass
        elif isinstance(error, subprocess.CalledProcessError) or "C compiler" in str(error):
            raise DeviceError(f"Triton could not build what launches its kernels ({error}): {_NEEDED}") from error
        else:
            raise error
        if block_size != EngineConfig().block_size:
            self._compile(block_size)

    def _begin(self) -> None:
        try:
            self._compile(EngineConfig().block_size)
        except BaseException as error:  # told by the thread that waits
            self._error = error

    def _compile(self, block_size: int) -> None:
        start = time.perf_counter()
        dims = dims_of(*self._given, block_size)
        count = kernels.compile_ahead(dims, self._device, min(_MOST_THREADS, usable_cpus()))
        if count:
            logger.info("compiled %d kernels, or took them from the cache: %.2f s", count, time.perf_counter() - start)
