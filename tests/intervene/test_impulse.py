"""What an impulse does, against plain Hugging Face passes on a tiny model: disturbance, divergence, attention, doses."""

import copy
import math
from typing import Any, NamedTuple

import pytest
import torch

from stir_core.config import RunConfig, config_from
from stir_core.errors import DataError, SteeringError
from stir_core.evaluate.dose import first_token, first_token_text
from stir_core.intervene.impulse import divergence, powers, respond
from stir_core.models.inside import look
from stir_core.models.loading import LoadedModel
from stir_core.models.passes import Feed, forward
from stir_core.models.steering import Impulse
from stir_core.records import Entry
from stir_core.responses import ImpulseResponse, Spot
from tests.builders import make_entry

LAYER, ALPHA, LAYERS = 1, 0.7, 4


class Case(NamedTuple):
    """One action at one place of the tiny model."""

    config: RunConfig
    spot: Spot
    entry: Entry
    action: torch.Tensor


@pytest.fixture(scope="module")
def case(tiny: LoadedModel) -> Case:
    given = [*tiny.tokens("one two"), *tiny.tokens("\n\n")]
    spot = Spot(
        kind="held-out",
        problem_id="p/0",
        m=1,
        prompt_ids=tuple(tiny.tokens("the sum of two and three is")),
        given=tuple(given),
        following=tuple(tiny.tokens("three four five")),
    )
    action = torch.randn(32, generator=torch.Generator().manual_seed(3))
    return Case(config_from({"decode": {"max_new_tokens": 16}}), spot, make_entry("p0001c", 1, LAYER), action)


@pytest.fixture(scope="module")
def plain(llama_pair: tuple[LoadedModel, Any]) -> Any:
    """The untouched twin, with attention that shows its patterns."""
    hf = copy.deepcopy(llama_pair[1])
    hf.set_attn_implementation("eager")
    return hf


@pytest.fixture(scope="module")
def found(tiny: LoadedModel, case: Case) -> ImpulseResponse:
    return respond(tiny, case.config, case.spot, case.entry, case.action, ALPHA, doses=(0.1, 5.0))


def whole(hf: Any, case: Case, alpha: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, block outputs and attention of one uncached pass of the untouched twin, ``alpha * action`` added by a plain torch hook."""
    ids = torch.tensor([[*case.spot.prompt_ids, *case.spot.given, *case.spot.following]])
    at = len(case.spot.prompt_ids) + len(case.spot.given) - 1
    outs: dict[int, torch.Tensor] = {}

    def hook(i: int):
        def kick(module, args, output):
            stream = output[0] if isinstance(output, tuple) else output
            if i == LAYER:
                stream = stream.clone()
                stream[:, at] += alpha * case.action
            outs[i] = stream[0].detach()
            return (stream, *output[1:]) if isinstance(output, tuple) else stream

        return kick

    handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(hf.model.layers)]
    with torch.no_grad():
        done = hf(ids, output_attentions=True)
    for handle in handles:
        handle.remove()
    return done.logits[0, at:], torch.stack([outs[i][at:] for i in range(LAYERS)]), torch.stack([a[0, :, at:] for a in done.attentions])


def test_strength_zero_has_no_effect(tiny: LoadedModel, case: Case) -> None:
    none = respond(tiny, case.config, case.spot, case.entry, case.action, 0.0, doses=())
    assert set(none.kl) == set(none.kl_frozen) == {0.0}
    assert {size for row in none.relative for size in row} == {0.0}
    assert {(each.norm, each.cosine, each.promoted) for each in none.layers} == {(0.0, None, ())}
    assert none.attention_unsteered == none.attention_steered
    assert all(shift.before == shift.after for shift in none.shifts)
    assert [(dose.alpha, dose.kl, dose.kl_following) for dose in none.doses] == [(0.0, 0.0, 0.0)]


def test_the_disturbance_begins_as_the_impulse_and_then_follows_the_model(plain: Any, case: Case, found: ImpulseResponse) -> None:
    _, calm, _ = whole(plain, case, 0.0)
    _, moved, _ = whole(plain, case, ALPHA)
    first = found.layers[0]
    assert first.layer == LAYER and [each.layer for each in found.layers] == [1, 2, 3]
    assert first.norm == pytest.approx(ALPHA * float(case.action.norm()), rel=1e-5)
    assert first.cosine == pytest.approx(1.0, abs=1e-6)
    assert found.relative[0][1:] == (0.0,) * len(case.spot.following)  # later tokens see it only after the injected layer
    gap = (moved - calm)[LAYER:]
    expected = gap.norm(dim=-1) / calm[LAYER:].norm(dim=-1)
    torch.testing.assert_close(torch.tensor(found.relative), expected, atol=1e-4, rtol=1e-3)
    cosines = torch.nn.functional.cosine_similarity(gap[:, 0], case.action[None], dim=-1)
    torch.testing.assert_close(torch.tensor([each.cosine for each in found.layers]), cosines, atol=1e-4, rtol=1e-3)


def test_divergences_and_tokens_are_those_of_two_plain_passes(plain: Any, case: Case, found: ImpulseResponse) -> None:
    p, q = (whole(plain, case, alpha)[0].double().log_softmax(-1) for alpha in (ALPHA, 0.0))
    expected = (p.exp() * (p - q)).sum(-1)
    assert float(expected[0]) > 1e-3
    assert list(found.kl) == pytest.approx(expected.tolist(), abs=1e-5)
    for shift in found.shifts:
        assert (shift.before, shift.after) == pytest.approx(
            (q[0, shift.token_id].exp().item(), p[0, shift.token_id].exp().item()), abs=1e-5
        )
    assert {int(q[0].argmax()), int(p[0].argmax())} <= {shift.token_id for shift in found.shifts}
    read = [token.token_id for token in found.tokens]
    assert read == [case.spot.given[-1], *case.spot.following]
    assert found.tokens[0].logprob is None
    following = torch.tensor(case.spot.following)[:, None]
    for which, logs in (("logprob", q), ("steered", p)):
        own = logs[:-1].gather(1, following)[:, 0].tolist()
        assert [getattr(token, which) for token in found.tokens[1:]] == pytest.approx(own, abs=1e-4)
    opening = first_token(found)
    assert opening.share == pytest.approx(float(expected[0] / expected.sum()), abs=1e-4)
    assert opening.whole == pytest.approx(float((p - q)[:-1].gather(1, following).sum()), abs=1e-3)
    assert opening.change == pytest.approx(float((p - q)[0, following[0, 0]]), abs=1e-4)
    assert f"{opening.share:.0%} of the KL over {len(read)} places" in first_token_text(opening)


def test_attention_is_the_models_own(plain: Any, case: Case, found: ImpulseResponse) -> None:
    at = len(case.spot.prompt_ids) + len(case.spot.given) - 1
    for alpha, seen in ((0.0, found.attention_unsteered), (ALPHA, found.attention_steered)):
        patterns = whole(plain, case, alpha)[2]
        torch.testing.assert_close(torch.tensor(seen), patterns[:, :, 1:, at].mean(-1), atol=1e-5, rtol=1e-4)
    assert found.attention_unsteered[: LAYER + 1] == found.attention_steered[: LAYER + 1]  # nothing has been disturbed yet there
    assert found.attention_unsteered[LAYER + 1 :] != found.attention_steered[LAYER + 1 :]


def test_frozen_patterns_are_the_clean_ones(tiny: LoadedModel, case: Case, found: ImpulseResponse) -> None:
    read = [*case.spot.prompt_ids, *case.spot.given]
    row = tiny.new_store().open()
    forward(tiny, [Feed(row, read[:-1], logits=False)])
    window = [read[-1], *case.spot.following]
    kick = Impulse(LAYER, ALPHA * case.action)
    unsteered, steered = look(tiny, row, window), look(tiny, row, window, kick)
    torch.testing.assert_close(unsteered.patterns.sum(-1), torch.ones(unsteered.patterns.shape[:-1]))
    assert row.length == len(read) - 1
    held = look(tiny, row, window, kick, unsteered.patterns)
    assert torch.equal(held.patterns, unsteered.patterns)
    assert torch.equal(look(tiny, row, window, None, unsteered.patterns).logits, unsteered.logits)
    own = look(tiny, row, window, kick, steered.patterns)
    assert torch.equal(own.logits, steered.logits)  # holding a pass's own patterns changes nothing
    assert not torch.equal(held.logits, steered.logits)
    assert list(found.kl_frozen) == divergence(held.logits, unsteered.logits).tolist()
    with pytest.raises(SteeringError, match="held where the pass has"):
        look(tiny, row, window[:-1], kick, unsteered.patterns)
    assert torch.equal(look(tiny, row, window).logits, unsteered.logits)  # and no hook was left behind


def test_with_attention_held_a_later_token_feels_nothing_but_values(tiny: LoadedModel, case: Case) -> None:
    """At the last block the patterns and values come from before the impulse: later tokens cannot feel it at all."""
    entry = make_entry("p0001c", 1, LAYERS - 1)
    last = respond(tiny, case.config, case.spot, entry, case.action, ALPHA, doses=())
    assert last.kl[0] > 0
    assert set(last.kl[1:]) == set(last.kl_frozen[1:]) == {0.0}
    assert first_token(last).share == 1  # and the whole effect is its first token's
    assert first_token(last).change == first_token(last).whole


def test_a_dose_is_what_the_pass_of_that_strength_shows(tiny: LoadedModel, case: Case, found: ImpulseResponse) -> None:
    assert [dose.alpha for dose in found.doses] == [0.0, 0.1, ALPHA, 5.0]
    own = found.doses[2]
    assert own.kl == pytest.approx(found.kl[0], abs=1e-4)
    assert own.kl_following == pytest.approx(sum(found.kl[1:]) / len(found.kl[1:]), abs=1e-4)
    assert own.fraction == pytest.approx(found.layers[0].relative, rel=1e-4)
    other = respond(tiny, case.config, case.spot, case.entry, case.action, 5.0, doses=())
    assert other.kl[0] == pytest.approx(found.doses[3].kl, abs=1e-4)


def test_continuations_are_greedy_and_judged_by_the_clean_model(tiny: LoadedModel, plain: Any, case: Case, found: ImpulseResponse) -> None:
    read = [*case.spot.prompt_ids, *case.spot.given]
    ids = list(read)
    for token in found.doses[0].token_ids:
        with torch.no_grad():
            assert int(plain(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)
    for dose in found.doses:
        assert dose.text == tiny.text(dose.token_ids)
        with torch.no_grad():
            logs = plain(torch.tensor([[*read, *dose.token_ids]])).logits[0].log_softmax(-1)
        own = [float(logs[len(read) - 1 + i, token]) for i, token in enumerate(dose.token_ids)]
        assert dose.unsteered_logprob == pytest.approx(sum(own) / len(own), abs=1e-3)
    first = whole(plain, case, 5.0)[0][0].argmax()
    assert found.doses[3].token_ids[0] == int(first)


def test_without_tokens_after_the_control_point_later_effects_are_not_measured(tiny: LoadedModel, case: Case) -> None:
    bare = respond(tiny, case.config, case.spot.model_copy(update={"following": ()}), case.entry, case.action, ALPHA, doses=())
    assert len(bare.kl) == len(bare.tokens) == 1
    assert bare.attention_unsteered == () and bare.doses[1].kl_following is None
    assert first_token(bare) == (None, 1, None, None)
    assert "cannot be told" in first_token_text(first_token(bare))


def test_strengths_span_the_residual() -> None:
    assert powers(1.0) == (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
    assert all(1 / 16 <= power / 2.7 <= 4.0 and math.log2(power).is_integer() for power in powers(2.7))


def test_refusals(tiny: LoadedModel, case: Case) -> None:
    def ask(**change: Any) -> None:
        asked = {"spot": case.spot, "action": case.action, "alpha": 1.0} | change
        respond(tiny, case.config, asked["spot"], case.entry, asked["action"], asked["alpha"], doses=())

    with pytest.raises(SteeringError, match="strength -1"):
        ask(alpha=-1.0)
    with pytest.raises(SteeringError, match="strength nan"):
        ask(alpha=math.nan)
    with pytest.raises(DataError, match="no action to inject"):
        ask(action=torch.zeros(32))
    with pytest.raises(DataError, match="not a control point"):
        ask(spot=case.spot.model_copy(update={"given": case.spot.given[:-2]}))
    with pytest.raises(DataError, match="no tokens before"):
        ask(spot=case.spot.model_copy(update={"given": (), "prompt_ids": ()}))
