"""Compare a model's decoding with the plain Hugging Face model: full passes with eager attention, in float32 or the model's own type.

A fixed text is read as decoding reads it (segments, single tokens, branches, two sequences side by side), and every next-token distribution
is compared with that of one full pass. Windows and chunks that are longer than the text are shortened on both sides, so that they act.
"""

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stir_core.errors import ModelError, StirError
from stir_core.models.backends import Decodable, PlainDecoder, twin
from stir_core.models.passes import Feed, forward

TEXT = "Tom has 5 pens and buys 3 more. Then he gives 2 pens to each of his two friends.\n\nSo he has 5 + 3 - 4 = 4 pens left."
TOKENS = 48
"""Of the text that is compared."""
WINDOW = 16
"""Longer windows and chunks of attention are shortened to this."""
TOLERANCE = {"float32": (1e-4, 1.0), "bfloat16": (0.05, 0.9), "float16": (0.01, 0.9)}
"""By dtype: largest mean KL divergence in nats, and smallest share of positions whose likeliest token is the same."""
REFERENCE = "Hugging Face, eager attention, full passes"
UNFIT = (StirError, AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, NotImplementedError, AssertionError)
"""Errors of a model's own code when it is run in a way that it was not written for."""


class Agreement(NamedTuple):
    """How far decoding is from the reference on the fixed text."""

    agrees: bool
    """Whether divergence and share lie within :data:`TOLERANCE`."""
    kl: float
    """Mean KL divergence from the reference, in nats."""
    reference: str
    positions: int
    largest_logprob_difference: float
    """Of the reference's likeliest token, in nats."""
    same_token: float
    """Share of positions whose likeliest token is the reference's."""


def agreement(model: Any, *, exact: bool = False) -> Agreement:
    """Compare the model's decoding with the plain Hugging Face model.

    Args:
        model: a loaded model.
        exact: compare with float32, whatever the model's own type; needs memory for a float32 copy.

    Raises:
        ModelError: the plain model reads tokens after the one that it predicts, or its logits are not finite.
    """
    ids = text_ids(model)
    plain = copy.deepcopy(model.plain).float() if exact and model.identity.dtype != "float32" else model.plain
    narrowed = narrow(model, plain)
    theirs = reference_logits(model.identity.name, plain if narrowed is None else narrowed[1], ids, model.device)
    ours, positions = decoded(model if narrowed is None else narrowed[0], ids)
    return _compared(ours.log_softmax(-1), theirs[positions].log_softmax(-1), *TOLERANCE[model.identity.dtype])


def _compared(ours: Tensor, theirs: Tensor, most: float, least: float) -> Agreement:
    best = theirs.argmax(-1)
    gap = float((ours - theirs).gather(1, best[:, None]).abs().max())
    kl = max(float((theirs.exp() * (theirs - ours)).sum(-1).mean()), 0.0)
    near = ours.gather(1, best[:, None])[:, 0] > ours.amax(-1) - 1e-5  # random models have near ties
    same = float(((ours.argmax(-1) == best) | near).float().mean())
    return Agreement(kl <= most and same >= least, kl, REFERENCE, len(ours), gap, same)


def text_ids(model: Any) -> list[int]:
    """Token ids of the fixed text; of a vocabulary that has few words of it, tokens spread over the vocabulary."""
    ids = model.tokens(TEXT)
    rows = model.plain.get_input_embeddings().weight.shape[0]
    if len(set(ids)) < TOKENS // 3:
        ids = []
    spread = [(7 * i + 3) % rows for i in range(TOKENS)]
    return (ids + spread)[:TOKENS]


def decoded(model: Decodable, ids: list[int]) -> tuple[Tensor, list[int]]:
    """Next logits as decoding computes them, and the positions in ``ids`` that they belong to: two rows, then two branches of the first."""
    long, short, steps = len(ids) * 3 // 4, len(ids) // 2, 5
    store, branches = model.new_store(), model.new_store(columns=8)
    rows = [store.open(), store.open()]
    feeds = [Feed(rows[0], ids[:long], every=True, capture=(0,)), Feed(rows[1], ids[:short], every=True)]
    passes = [forward(model, feeds, (0, model.backend.n_layers - 1)).logits]  # captured: blocks must output one residual stream
    positions = [*range(long), *range(short)]
    for step in range(steps):
        passes.append(forward(model, [Feed(rows[0], [ids[long + step]]), Feed(rows[1], [ids[short + step]])]).logits)
        positions += [long + step, short + step]
    forks = [branches.open(rows[0], long) for _ in range(2)]
    for step in range(steps):
        feeds = [Feed(fork, [ids[long + step]]) for fork in forks]
        passes.append(forward(model, feeds).logits)
        positions += [long + step] * 2
    rest = ids[short + steps :]
    passes.append(forward(model, [Feed(rows[1], rest, every=True)]).logits)
    positions += range(short + steps, len(ids))
    return torch.cat(passes).cpu(), positions


@torch.inference_mode()
def reference_logits(name: str, plain: Any, ids: list[int], device: torch.device) -> Tensor:
    """Logits after each token in one full pass of the plain model, in float32.

    Raises:
        ModelError: a token's logits depend on later tokens, or are not finite.
    """
    whole = plain(torch.tensor([ids], device=device), use_cache=False).logits[0].float().cpu()
    if not whole.isfinite().all():
        raise ModelError(f"{name} computes logits that are not finite: its weights are damaged, take the model from its source again")
    part = plain(torch.tensor([ids[:-4]], device=device), use_cache=False).logits[0].float().cpu()
    difference = float((whole[: len(part)].log_softmax(-1) - part.log_softmax(-1)).abs().mean())
    if difference > _LATER[plain.dtype] * float(whole.log_softmax(-1).std()):
        raise ModelError(f"{name} reads the tokens after the one that it predicts, as encoders do: give a causal language model")
    return whole


_LATER = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Mean difference that later tokens may make to a log-probability, as a share of its standard deviation: rounding, in experts most."""
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


def narrow(model: Any, plain: Any) -> tuple[Any, Any] | None:
    """The model and the plain one over the same weights with short windows, so that a short text goes beyond them.

    ``None`` if they have none that is long, or if the bridge decodes: it has modules of its own, and computes attention as the plain model.
    """
    wide = {value for config in _configs(plain) for name in _WINDOWS if isinstance(value := vars(config).get(name), int) and value > WINDOW}
    own = getattr(model.backend, "model", None)
    if not wide or own is None:
        return None
    pair: list[Any] = []
    for tree in (own, plain):
        pair.append(other := twin(tree, tree.config._attn_implementation))
        for holder in (*_configs(other), *other.modules()):
            for name in _WINDOWS:
                if vars(holder).get(name) in wide:
                    setattr(holder, name, WINDOW)
    return replace(model, backend=PlainDecoder(pair[0])), pair[1]


def _configs(model: nn.Module) -> list[Any]:
    config: Any = model.config
    return [config, config.get_text_config()]
