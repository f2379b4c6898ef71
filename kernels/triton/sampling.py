"""The sampler on the device: two launches from raw logits to tokens, none of which waits for the host.

The first goes over all logits once, a tile a program: edits, grammar, penalties, temperature, noise.
The second, a program a row, takes the best, or cuts first (sampling_cuts.py), and counts up what
its slot has had. Specified by cpu/gumbel.py and cpu/penalties.py; a row's draw depends on its slot alone.
"""

from __future__ import annotations

import torch

from ..slot_state import SlotState, make_slots
from .launch import Dims, Launch, ceil_div, next_power_of_2
from .sampling_kernels import sampling_finish, sampling_pass
from .sampling_state import CANDIDATES, GROUP, TILE, Workspace, make_sampling_workspace


def sample_slots(
    logits: torch.Tensor,
    slots: torch.Tensor,
    grammar_rows: torch.Tensor,
    grammar: torch.Tensor,
    state: SlotState,
    workspace: Workspace,
    token_ids: torch.Tensor,
    is_ok: torch.Tensor,
) -> None:
    if logits.shape[0]:
        for launch in _launches(logits, slots, grammar_rows, grammar, state, workspace, token_ids, is_ok):
            launch.run()


def _launches(
    logits: torch.Tensor,
    slots: torch.Tensor,
    grammar_rows: torch.Tensor,
    grammar: torch.Tensor,
    state: SlotState,
    workspace: Workspace,
    token_ids: torch.Tensor,
    is_ok: torch.Tensor,
) -> list[Launch]:
    num_rows, vocab_size = logits.shape
    num_tiles = ceil_div(vocab_size, TILE)
    outputs, prompt = state.counts
    cuts = (state.temperature, state.top_k, state.top_p, state.min_p)
    tiles = (workspace.tile_mass, workspace.tile_best, workspace.tile_token, workspace.tile_is_finite)
    first = Launch(
        sampling_pass,
        (num_rows, num_tiles),
        (
            *(logits, logits.stride(0), slots, grammar_rows, grammar, grammar.stride(0), *cuts),
            *(state.repetition, state.frequency, state.presence, state.seed, state.num_outputs),
            *(state.num_edits, state.edit_ids, state.edit_values, state.edit_until, state.edit_ids.stride(0)),
            *(outputs, outputs.stride(0), prompt, prompt.stride(0)),
            *(workspace.scaled, workspace.scaled.stride(0), workspace.group_largest, *tiles, vocab_size),
        ),
        {"GROUP": GROUP},
        num_warps=8,
        expects=("wide loads",) if logits.stride(0) % 16 == 0 else (),
    )
    second = Launch(
        sampling_finish,
        (num_rows,),
        (
            *(slots, *cuts, state.seed, state.num_outputs, outputs, outputs.stride(0)),
            *(workspace.scaled, workspace.scaled.stride(0), workspace.candidates, workspace.groups),
            *(workspace.group_largest, *tiles, token_ids, is_ok.view(torch.int8), vocab_size, num_tiles),
        ),
        {
            "NUM_CANDIDATES": CANDIDATES,
            "GROUP": GROUP,
            "TILES": next_power_of_2(num_tiles),
            "LIST_TILE": TILE,
        },
        num_warps=16,
    )
    return [first, second]


def launches(dims: Dims) -> list[Launch]:
    device, vocab_size = torch.device("meta"), dims.vocab_size
    rows = torch.empty(2, dtype=torch.int32, device=device)
    state = make_slots(2, vocab_size, 1024, device)
    return _launches(
        torch.empty(2, vocab_size, dtype=torch.float32, device=device),
        rows,
        rows,
        state.counts.prompt,
        state,
        make_sampling_workspace(2, vocab_size, device),
        rows,
        torch.empty(2, dtype=torch.bool, device=device),
    )
