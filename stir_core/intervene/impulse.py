"""Measure the effect of one impulse: how its disturbance travels through layers and later tokens, and how it changes the model's text.

The recorded answer is read again, unsteered, up to a control point. The step after it is then read three times from there: unsteered; with
``alpha * action`` added at the control point's token, on the same tokens; and so again with every attention pattern held at its unsteered
value. The effect that is left in the third reading went through values, MLPs and the residual stream only.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from stir_core.config import RunConfig, with_changes
from stir_core.errors import DataError, SteeringError
from stir_core.intervene.controller import run_all
from stir_core.intervene.jobs import NULL, Forced, Job, Settings
from stir_core.models.cache import CacheRow
from stir_core.models.inside import Look, look
from stir_core.models.lens import direction_logits, token_weights
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, batches, forward
from stir_core.models.steering import Impulse
from stir_core.records import Entry, Trace
from stir_core.responses import Dose, ImpulseResponse, LayerResponse, ReadToken, Spot, TokenShift

FOLLOW = 32
"""Maximum number of recorded tokens that are read after the control point."""
CONTINUE = 32
"""Tokens decoded at each strength."""
WEAKEST, STRONGEST = 1 / 16, 4.0
"""The doses tried span these fractions of the residual's norm."""
_TOKENS_AT_ONCE = 160
"""Tokens whose logits are in memory together while doses are compared."""


def respond(
    model: LoadedModel,
    config: RunConfig,
    spot: Spot,
    entry: Entry,
    action: Float[Tensor, "d_model"],
    alpha: float,
    *,
    doses: Sequence[float] | None = None,
) -> ImpulseResponse:
    """Measure one action at one control point.

    Args:
        action: raw, in the residual stream's units.
        alpha: multiple of it that is injected.
        doses: multiples to try besides 0 and ``alpha``; by default powers of two from ``WEAKEST`` to ``STRONGEST`` of the residual's norm.

    Raises:
        DataError: a null entry, an empty prefix, or a control point that is not one when the answer is read again.
        SteeringError: a strength that is not finite and at least 0.
    """
    wrong = [dose for dose in (alpha, *(doses or ())) if not (math.isfinite(dose) and dose >= 0)]
    if wrong:
        raise SteeringError(f"strength {wrong[0]:g} cannot be injected: give a multiple of the action that is at least 0")
    norm = float(action.float().norm())
    if norm == 0:
        raise DataError(f"{entry.id} has no action to inject: choose a corrective entry")
    read = [*spot.prompt_ids, *spot.given]
    if not read:
        raise DataError(f"{spot.name} has no tokens before its control point: choose another place")
    window = [read[-1], *spot.following[:FOLLOW]]
    row = model.new_store().open()
    if read[:-1]:
        forward(model, [Feed(row, read[:-1], logits=False)])
    unsteered = look(model, row, window)
    steered = look(model, row, window, Impulse(entry.layer, alpha * action))
    frozen = look(model, row, window, Impulse(entry.layer, alpha * action), unsteered.patterns)
    scale = float(unsteered.stream[entry.layer, 0].norm())
    tried = sorted({0.0, alpha, *(powers(scale / norm) if doses is None else doses)})
    disturbance = (steered.stream - unsteered.stream)[entry.layer :]
    unsteered_norms = unsteered.stream[entry.layer :].norm(dim=-1)
    back_unsteered, back_steered = (_back(each, row.total) for each in (unsteered, steered))
    return ImpulseResponse(
        entry_id=entry.id,
        layer=entry.layer,
        alpha=alpha,
        action_norm=norm,
        unsteered_norm=scale,
        spot=spot,
        tokens=_tokens(model, window, unsteered, steered),
        layers=_layers(model, entry.layer, disturbance[:, 0], unsteered_norms[:, 0], action),
        relative=_rows(disturbance.norm(dim=-1) / unsteered_norms),
        shifts=_shifts(model, unsteered.logits[0], steered.logits[0]),
        kl=tuple(divergence(steered.logits, unsteered.logits).tolist()),
        kl_frozen=tuple(divergence(frozen.logits, unsteered.logits).tolist()),
        attention_unsteered=back_unsteered,
        attention_steered=back_steered,
        doses=_doses(model, config, spot, entry.layer, action, tried, scale, row),
    )


def powers(unit: float) -> tuple[float, ...]:
    """Powers of two whose impulses lie between ``WEAKEST`` and ``STRONGEST`` of the residual; ``unit``: the multiple that equals it."""
    first, last = math.ceil(math.log2(WEAKEST * unit)), math.floor(math.log2(STRONGEST * unit))
    return tuple(2.0**power for power in range(first, last + 1))


def divergence(ours: Float[Tensor, "n d_vocab"], theirs: Float[Tensor, "n d_vocab"]) -> Float[Tensor, "n"]:
    """``KL(ours || theirs)`` row by row, in nats, summed in float64; equal logits give exactly 0."""
    rows: list[Tensor] = []
    for our_row, their_row in zip(ours, theirs, strict=True):  # row by row, since a whole window in float64 would be large
        p, q = our_row.double().log_softmax(-1), their_row.double().log_softmax(-1)
        rows.append((p.exp() * (p - q)).sum().clamp_min(0))
    return torch.stack(rows).cpu()


def _tokens(model: LoadedModel, window: list[int], unsteered: Look, steered: Look) -> tuple[ReadToken, ...]:
    before, after = (each.logits.log_softmax(-1) for each in (unsteered, steered))
    read = [ReadToken(token_id=window[0], text=model.token_text(window[0]), logprob=None)]
    for i, token in enumerate(window[1:]):
        read.append(
            ReadToken(token_id=token, text=model.token_text(token), logprob=float(before[i, token]), steered=float(after[i, token]))
        )
    return tuple(read)


def _layers(
    model: LoadedModel, first: int, disturbance: Tensor, unsteered_norms: Tensor, action: Tensor, top: int = 5
) -> tuple[LayerResponse, ...]:
    """Describe the disturbance after each block at the control point, ``[layers, d_model]``, from block ``first`` on."""
    responses: list[LayerResponse] = []
    vector = action.to(disturbance)
    for i, logits in enumerate(direction_logits(model, disturbance)):
        size = float(disturbance[i].norm())
        cosine = float(torch.nn.functional.cosine_similarity(disturbance[i], vector, dim=0)) if size > 0 else None
        best = [logits.topk(top if size > 0 else 0, largest=largest) for largest in (True, False)]
        up, down = (token_weights(model, each.indices.tolist(), each.values.tolist()) for each in best)
        relative = size / float(unsteered_norms[i])
        responses.append(LayerResponse(layer=first + i, norm=size, cosine=cosine, relative=relative, promoted=up, suppressed=down))
    return tuple(responses)


def _shifts(model: LoadedModel, unsteered: Tensor, steered: Tensor, top: int = 10) -> tuple[TokenShift, ...]:
    before, after = unsteered.softmax(-1), steered.softmax(-1)
    ids = dict.fromkeys([*before.topk(top).indices.tolist(), *after.topk(top).indices.tolist()])
    ordered = sorted(ids, key=lambda token: -float(before[token]))
    return tuple(TokenShift(token_id=t, text=model.token_text(t), before=float(before[t]), after=float(after[t])) for t in ordered)


def _back(seen: Look, column: int) -> tuple[tuple[float, ...], ...]:
    """Mean attention to the control point over the tokens after it, ``[layers][heads]``."""
    later = seen.patterns[:, :, 1:, column]
    return _rows(later.float().mean(dim=-1)) if later.shape[-1] else ()


def _doses(
    model: LoadedModel,
    config: RunConfig,
    spot: Spot,
    layer: int,
    action: Tensor,
    tried: list[float],
    scale: float,
    row: CacheRow,
) -> tuple[Dose, ...]:
    """The effect of each dose on the recorded tokens, and its continuation; ``row`` holds the tokens before the control point."""
    control = [*spot.prompt_ids, *spot.given][-1]
    following = list(spot.following[:FOLLOW])
    traces = _continuations(model, config, spot, layer, action, tried)
    written = [list(trace.token_ids[len(spot.given) :]) for trace in traces]
    on_record = _kls(model, row, control, following, [None if a == 0 else Impulse(layer, a * action) for a in tried])
    unsteered_logprobs = _unsteered_logprobs(model, row, control, written)
    norm = float(action.float().norm())
    return tuple(
        Dose(
            alpha=a,
            fraction=a * norm / scale,
            kl=kls[0],
            kl_following=sum(kls[1:]) / len(kls[1:]) if kls[1:] else None,
            token_ids=tuple(ids),
            text=model.text(ids),
            unsteered_logprob=logprob,
        )
        for a, kls, ids, logprob in zip(tried, on_record, written, unsteered_logprobs, strict=True)
    )


def _kls(model: LoadedModel, row: CacheRow, control: int, following: list[int], plan: list[Impulse | None]) -> list[list[float]]:
    """``KL(steered || unsteered)`` at the control point and at each recorded token after it; the first of ``plan`` must be ``None``."""
    kls: list[list[float]] = []
    unsteered_logits: Tensor | None = None
    for part in batches([1 + len(following)] * len(plan), _TOKENS_AT_ONCE):
        copies = _copies(row, len(plan[part]))
        heads = forward(model, [Feed(copy, [control], impulse) for copy, impulse in zip(copies, plan[part], strict=True)]).logits
        tails = forward(model, [Feed(copy, following, every=True) for copy in copies]).logits if following else heads[:0]
        tails = rearrange(tails, "(copies tokens) vocab -> copies tokens vocab", copies=len(copies))
        both = torch.cat([heads[:, None], tails], dim=1)
        unsteered_logits = both[0].clone() if unsteered_logits is None else unsteered_logits
        kls += [divergence(each, unsteered_logits).tolist() for each in both]
        _close(copies)
    return kls


def _unsteered_logprobs(model: LoadedModel, row: CacheRow, control: int, written: list[list[int]]) -> list[float | None]:
    """Mean log-probability of each continuation under the unsteered model; ``None`` for an empty one."""
    means: dict[tuple[int, ...], float | None] = {(): None}
    others = [list(ids) for ids in dict.fromkeys(tuple(ids) for ids in written if ids)]  # weak impulses often change no token
    for part in batches([len(ids) for ids in others], _TOKENS_AT_ONCE):
        copies = _copies(row, len(others[part]))
        feeds = [Feed(copy, [control, *ids[:-1]], every=True) for copy, ids in zip(copies, others[part], strict=True)]
        logits = iter(forward(model, feeds).logits.log_softmax(-1))
        for ids in others[part]:
            means[tuple(ids)] = sum(float(next(logits)[token]) for token in ids) / len(ids)
        _close(copies)
    return [means[tuple(ids)] for ids in written]


def _continuations(model: LoadedModel, config: RunConfig, spot: Spot, layer: int, action: Tensor, tried: list[float]) -> list[Trace]:
    """Greedy continuations at each dose, decoded side by side by the step loop; the impulse is forced at the spot only."""
    room = min(CONTINUE, model.n_ctx - len(spot.prompt_ids) - len(spot.given))
    if room < 1:
        raise DataError(
            f"{spot.name} fills the context of {model.n_ctx} tokens, so nothing can be decoded after it: choose an earlier place"
        )
    decode = with_changes(config.decode, temperature=0.0, max_new_tokens=len(spot.given) + room)
    settings = Settings.of(config, decode)._replace(control_points=max(config.mining.control_points, spot.m))
    jobs = [_dose_job(config, spot, Forced("dose", layer, action, dose) if dose > 0 else NULL, str(dose)) for dose in tried]
    traces = run_all(model, jobs, settings)
    for trace, dose in zip(traces, tried, strict=True):
        if not trace.steps or trace.steps[0].evidence.m != spot.m or (dose > 0 and trace.steps[0].decision.chosen is None):
            raise DataError(f"{spot.name} is not a control point when the answer is read again: choose another place")
    return traces


def _dose_job(config: RunConfig, spot: Spot, forced: Forced, name: str) -> Job:
    prompt = list(spot.prompt_ids)
    return Job(f"{spot.name} x {name}", prompt, config.gate, given=spot.given, force=lambda m: forced if m == spot.m else NULL)


def _copies(row: CacheRow, n: int) -> list[CacheRow]:
    copies = [row.store.open() for _ in range(n)]
    for copy in copies:
        row.store.copy(row, copy, row.length)
    return copies


def _close(copies: list[CacheRow]) -> None:
    for copy in reversed(copies):
        copy.store.close(copy)


def _rows(table: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in table.float().cpu().tolist())
