"""A made-up impulse response with the properties of a real one: no effect before the impulse, and none at strength 0."""

import numpy as np
from fake_run import IDENTITY, NASTY

from stir_core.records import Entry, TokenWeight
from stir_core.responses import Dose, ImpulseResponse, LayerResponse, ReadToken, Spot, TokenShift

HEADS = 3


def fake_response(entry: Entry, action: np.ndarray, spot: Spot, alpha: float) -> ImpulseResponse:
    """Effects grow with the strength; from strength 4 on the text repeats itself."""
    norm = float(np.linalg.norm(action))
    layers = range(entry.layer, IDENTITY.n_layers)
    n = 1 + len(spot.following)
    words = (TokenWeight(token_id=5, text=NASTY, logit=0.4), TokenWeight(token_id=6, text=" so", logit=0.2))
    sizes = [alpha * norm / (10 + i) for i in range(len(layers))]
    unsteered = tuple(tuple(0.05 + 0.01 * ((layer + head) % 7) for head in range(HEADS)) for layer in range(IDENTITY.n_layers))
    bent = 0.004 * alpha
    steered = tuple(
        tuple(value + bent * (-1) ** head * (layer > entry.layer) for head, value in enumerate(row)) for layer, row in enumerate(unsteered)
    )
    return ImpulseResponse(
        entry_id=entry.id,
        layer=entry.layer,
        alpha=alpha,
        action_norm=norm,
        unsteered_norm=10.0,
        spot=spot,
        tokens=tuple(
            ReadToken(token_id=token, text=NASTY if i == 1 else f" t{i}", logprob=-0.5 if i else None)
            for i, token in enumerate([spot.given[-1], *spot.following])
        ),
        layers=tuple(
            LayerResponse(
                layer=layer,
                norm=10 * size,
                cosine=1 / (1 + i) if alpha else None,
                relative=size,
                promoted=words if alpha else (),
                suppressed=words if alpha else (),
            )
            for i, (layer, size) in enumerate(zip(layers, sizes, strict=True))
        ),
        relative=tuple((size, *([0.1 * size * (i > 0)] * (n - 1))) for i, size in enumerate(sizes)),
        shifts=(TokenShift(token_id=5, text=NASTY, before=0.6, after=0.4), TokenShift(token_id=6, text=" so", before=0.1, after=0.3)),
        kl=(0.2 * alpha**2, *([0.01 * alpha] * (n - 1))),
        kl_frozen=(0.05 * alpha**2, *([0.001 * alpha] * (n - 1))),
        attention_unsteered=unsteered if n > 1 else (),
        attention_steered=steered if n > 1 else (),
        doses=tuple(_dose(a, norm, n) for a in sorted({0.0, alpha, 0.5, 1.0, 4.0, 8.0})),
    )


def _dose(alpha: float, norm: float, n: int) -> Dose:
    ids = (7, 8, 9) * 8 if alpha >= 4 else tuple(range(24))
    following = 0.01 * alpha if n > 1 else None
    return Dose(
        alpha=alpha,
        fraction=alpha * norm / 10,
        kl=0.2 * alpha**2,
        kl_following=following,
        token_ids=ids,
        text=NASTY,
        unsteered_logprob=-0.5,
    )
