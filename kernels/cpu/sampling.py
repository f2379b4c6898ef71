"""Drawing tokens and their logprobs: candidates first, then inverse CDF, never a sort of the vocabulary.

The likeliest 64 tokens decide nearly every draw, 1024 most others; see exact_draw.py for the rest. All give
the token that sorting the whole row would give, so that it does not matter which one a row takes.
"""

from __future__ import annotations

import torch

from .exact_draw import draw_exactly

_FEW = 64
"""Candidates that decide nearly every draw."""
_MANY = 1024
"""Candidates for the rows that those do not decide."""
_GROUP = 32
"""Neighbouring tokens that are looked at together when candidates are searched."""
_NUMBERS_AT_ONCE = 1 << 20
"""Of which the whole mass is summed up; more would only make the memory cold."""


def rows_are_finite(logits: torch.Tensor) -> torch.Tensor:
    # One sum carries any NaN or infinity; finite float32 logits do not overflow it.
    return torch.isfinite(logits.sum(dim=-1))


def greedy(logits: torch.Tensor) -> torch.Tensor:
    return torch.argmax(logits, dim=-1)


def token_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    log_total = torch.logsumexp(logits, dim=-1, keepdim=True)
    chosen = logits.gather(1, token_ids[:, None])
    ranks = (logits > chosen).sum(dim=-1) + 1
    top, top_ids = likeliest(logits, num_top)
    return (chosen - log_total)[:, 0], ranks, top_ids, top - log_total


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> torch.Tensor:
    logits.div_(temperature[:, None])
    drawn, is_decided = _from_candidates(logits, top_k, top_p, min_p, uniforms, _FEW)
    if bool(is_decided.all()):
        return drawn
    rows = torch.nonzero(~is_decided)[:, 0]
    columns = logits[rows], top_k[rows], top_p[rows], min_p[rows], uniforms[rows]
    drawn[rows], is_decided = _from_candidates(*columns, num_candidates=_MANY)
    for place in torch.nonzero(~is_decided)[:, 0].tolist():
        row, k, p, least, uniform = (column[place] for column in columns)
        drawn[rows[place]] = draw_exactly(row.cpu().numpy(), int(k), float(p), float(least), float(uniform))
    return drawn


def _from_candidates(
    logits: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
    num_candidates: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [N] drawn among the likeliest, right where they suffice: bool [N]."""
    values, ids = likeliest(logits, num_candidates)
    places, is_decided = _draw(logits, values, top_k, top_p, min_p, uniforms)
    return ids.gather(1, places[:, None])[:, 0], is_decided


def likeliest(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As torch.topk: values and ids of the `count` largest of each row of [N, V] (all, if there are fewer), in order.

    The largest `count` numbers lie in those `count` groups that have the largest maxima, so that only these
    are looked at: several times as fast.
    """
    num_rows, vocab_size = logits.shape
    num_grouped = vocab_size // _GROUP * _GROUP
    if num_grouped < 2 * count * _GROUP:
        return torch.topk(logits, min(count, vocab_size), dim=-1)
    maxima = logits[:, :num_grouped].unflatten(1, (-1, _GROUP)).amax(dim=-1)
    groups = torch.topk(maxima, count, dim=-1, sorted=False).indices
    within = torch.arange(_GROUP, device=logits.device)
    left_over = torch.arange(num_grouped, vocab_size, device=logits.device).expand(num_rows, -1)
    ids = torch.cat(((groups[:, :, None] * _GROUP + within).flatten(1), left_over), dim=1)
    values, places = torch.topk(logits.gather(1, ids), count, dim=-1)
    return values, ids.gather(1, places)


def _draw(
    logits: torch.Tensor,
    values: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """values [N, C]: the C likeliest logits of each row, likeliest first.

    Returns the index of the drawn candidate [N], and whether candidates suffice to know it [N].
    """
    num_candidates = values.shape[1]
    weights = (values.double() - values[:, :1].double()).exp_()
    is_kept = weights >= min_p[:, None]
    is_kept &= (top_k[:, None] == 0) | (torch.arange(num_candidates, device=values.device) < top_k[:, None])
    weights.masked_fill_(~is_kept, 0.0)
    cumulative = weights.cumsum(dim=1)
    covered = cumulative[:, -1].contiguous()
    is_whole = ~is_kept[:, -1] | (top_k == num_candidates)
    if num_candidates == logits.shape[1]:
        is_whole = torch.ones_like(is_whole)
    is_uncut = ~is_whole & (top_k == 0) & (min_p <= 0)
    total = _totals(logits, covered, is_uncut)
    has_top_p = top_p < 1
    limits = total * top_p
    last_of_top_p = torch.searchsorted(cumulative, limits.unsqueeze(1))[:, 0]
    last = torch.where(has_top_p, last_of_top_p, (weights > 0).sum(dim=1) - 1).clamp_(0, num_candidates - 1)
    targets = uniforms * torch.where(has_top_p, cumulative.gather(1, last[:, None])[:, 0], total)
    places = torch.searchsorted(cumulative, targets.unsqueeze(1), right=True)[:, 0]
    is_enough = torch.where(has_top_p, covered >= limits, targets < covered)
    return torch.minimum(places, last), is_whole | (is_uncut & is_enough)


def _totals(logits: torch.Tensor, covered: torch.Tensor, is_uncut: torch.Tensor) -> torch.Tensor:
    """Mass of what may be drawn [N], in units of the likeliest token's.

    That is the candidates' where something is cut off, and else the whole vocabulary's.
    """
    total = covered.clone()
    rows = torch.nonzero(is_uncut)[:, 0]
    for part in rows.split(max(1, _NUMBERS_AT_ONCE // logits.shape[1])):
        total[part] = 1.0 / torch.softmax(logits[part], dim=-1).amax(dim=-1).double()
    return total
