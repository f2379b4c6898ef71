"""The memory plan: what fits, what is capped, and which flag an error names."""

from __future__ import annotations

import os

import msgspec
import pytest
import torch

from quire.services.worker.device import available_bytes
from quire.services.worker.device_memory import Room
from quire.services.worker.errors import DeviceError
from quire.services.worker.kv_cache import block_bytes
from quire.services.worker.memory_plan import MemoryPlan, plan_memory, workspace_bytes
from quire.shared import model_files
from quire.shared.messages import Configure

CONFIG = model_files.read_model_config(model_files.DEMO_MODEL)
WANTED = Configure(8, 256, None, 16, None, 0.9)
GIB = 1 << 30
OF_BLOCK = block_bytes(CONFIG, 16, torch.bfloat16)
WORKSPACE = workspace_bytes(CONFIG, WANTED, torch.bfloat16)


def plan(
    free: int = 16 * GIB, device: str = "cpu", weights: int = 10 << 20, room: Room | None = None, **changes
) -> MemoryPlan:
    wanted = msgspec.structs.replace(WANTED, **changes)
    return plan_memory(CONFIG, wanted, torch.device(device), torch.bfloat16, weights, free, room=room)


def test_no_more_is_taken_than_all_rows_can_use():
    found = plan()
    assert found.num_blocks == 8 * (4096 // 16 + 1)
    assert found.max_model_len == 4096
    assert dict(found.parts)["kv cache"] == found.num_blocks * OF_BLOCK


def test_a_cpu_takes_four_gib_at_most_unless_told():
    assert plan(max_num_seqs=4096, free=200 * GIB).num_blocks == 4 * GIB // OF_BLOCK
    assert plan(max_num_seqs=4096, free=200 * GIB, kv_cache_memory_bytes=5 * GIB).num_blocks == 5 * GIB // OF_BLOCK
    assert plan(max_num_seqs=4096, free=200 * GIB, device="cuda").num_blocks > 5 * GIB // OF_BLOCK


def test_utilization_counts_the_weights_that_are_there():
    found = plan(free=GIB, weights=GIB, device="cuda", memory_utilization=0.8, max_num_seqs=4096)
    wanted = msgspec.structs.replace(WANTED, max_num_seqs=4096)
    kv_bytes = int(2 * GIB * 0.8) - GIB - workspace_bytes(CONFIG, wanted, torch.bfloat16)
    assert found.num_blocks == kv_bytes // OF_BLOCK


def test_a_device_that_tells_its_room_is_believed():
    room = Room(weights=16 * GIB, workspace=3 * GIB, graphs=0, free=64 * GIB, limit=36 * GIB)
    found = plan(free=1, weights=1, device="cuda", max_num_seqs=4096, room=room)
    assert found.parts[:2] == [("weights", 16 * GIB), ("workspace", 3 * GIB)]
    assert found.num_blocks == min(4096 * 257, 17 * GIB // OF_BLOCK)
    with pytest.raises(DeviceError, match="lower --kv-cache-memory"):
        plan(device="cuda", room=room, kv_cache_memory_bytes=62 * GIB)
    with pytest.raises(DeviceError, match="but there are 0 bytes: lower --max-model-len or raise --memory-utilization"):
        plan(device="cuda", room=Room(16 * GIB, 3 * GIB, 0, 64 * GIB, 15 * GIB), max_model_len=4096)


def test_an_fp8_cache_has_blocks_of_half_the_size():
    args = (torch.device("cpu"), torch.bfloat16, 0, 16 * GIB)
    wanted = msgspec.structs.replace(WANTED, kv_cache_memory_bytes=1 << 26)
    counts = [plan_memory(CONFIG, wanted, *args, dtype).num_blocks for dtype in (None, torch.float8_e4m3fn)]
    assert counts[1] // 2 == counts[0]


def test_a_small_cache_shortens_the_texts():
    found = plan(kv_cache_memory_bytes=10 * OF_BLOCK)
    assert (found.num_blocks, found.max_model_len) == (10, 160)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_model_len": 5000}, "--max-model-len 5000 is more than the 4096"),
        (
            {"max_model_len": 4096, "kv_cache_memory_bytes": OF_BLOCK},
            "lower --max-model-len or raise --kv-cache-memory",
        ),
        ({"max_model_len": 4096, "free": WORKSPACE + (4 << 20)}, "raise --memory-utilization"),
        ({"free": 1 << 20}, "raise --memory-utilization"),
        ({"kv_cache_memory_bytes": 64 * GIB}, "lower --kv-cache-memory"),
    ],
)
def test_what_does_not_fit_names_the_flag(changes, said):
    with pytest.raises(DeviceError, match=said) as caught:
        plan(**changes)
    assert "\n" not in str(caught.value)


def test_free_memory_is_less_than_the_machine_has():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_bytes(torch.device("cpu")) < total
