"""The frame: what a batch looks like with its latents, the terms of the losses, and their gradients."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from stir_core.errors import ConfigError
from stir_core.latent import strategies
from stir_core.latent.frame import LatentRecipe, Reasoner
from stir_core.latent.registry import strategy, strategy_names
from stir_core.latent.strategies.atp import AtpOptions, kl_to_prior
from tests.latent.toys import TINY, WORDS, noise, problems, toy

LATENT = ("atp", "coconut", "sim_cot")


def test_strategies_are_found_by_their_files() -> None:
    names = strategy_names()
    assert {"answer_only", "cot", *LATENT} <= set(names)
    assert all(strategy(name).name == name and strategy(name).source for name in names)
    with pytest.raises(ConfigError, match="unknown latent strategy 'cocoa': take one of answer_only, atp,"):
        strategy("cocoa")


def test_a_new_file_is_a_strategy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = "from stir_core.latent.frame import Latent, Reasoner\nclass Zero(Reasoner):\n    name, about, source = 'zero', 'zeros', 'test'\n"
    (tmp_path / "zero.py").write_text(
        code + "    def latent(self, state, noise, step=None):\n        return Latent(0 * state, 0 * state)\n"
    )
    (tmp_path / "empty.py").write_text("")
    monkeypatch.setattr(strategies, "__path__", [*strategies.__path__, str(tmp_path)])
    assert "zero" in strategy_names()
    assert not strategy("zero").latent(toy("cot"), torch.ones(1, 16), None).vector.any()
    with pytest.raises(ConfigError, match="defines no subclass of Reasoner with name = 'empty': add one"):
        strategy("empty")


def test_every_strategy_has_the_same_number_of_steps() -> None:
    recipe = LatentRecipe()
    totals = {name: sum(phase.steps for phase in toy(name).phases(recipe, started=False)) for name in strategy_names() if name != "cot"}
    assert set(totals.values()) == {1200 + 3 * 400 + 900}
    assert sum(phase.steps for phase in toy("atp").phases(recipe, started=True)) == 3 * 400 + 900


def test_the_latents_of_the_first_steps_replace_their_text() -> None:
    batch = problems(3)
    reasoner = toy("coconut")
    seen = reasoner.unroll(batch, 2, None)
    assert (seen.active, seen.replaced, seen.vectors.shape) == (4, 2, (4, 4, 16))
    text = WORDS.decode(seen.text[0])
    assert text == f"{WORDS.decode(batch.steps[0, 2])}{WORDS.decode(batch.answer[0])}"
    rms = reasoner.embed(torch.arange(len(WORDS))[None]).square().mean().sqrt()
    torch.testing.assert_close(seen.vectors, rms * seen.states)  # Coconut: the state, in units of the embeddings
    as_published = toy("coconut", scale="one").unroll(batch, 2, None)
    assert torch.equal(as_published.vectors, as_published.states)
    assert toy("coconut").unroll(batch, 9, None).active == 6
    plain = toy("cot").unroll(batch, 0, None)
    assert WORDS.decode(plain.text[0]).count("<<") == 3


@pytest.mark.parametrize("name", ["cot", "answer_only"])
def test_without_latents_the_loss_is_that_of_the_plain_model(name: str) -> None:
    reasoner, batch = toy(name), problems(3)
    replaced = 0 if name == "cot" else 3
    ids = torch.cat([batch.question, batch.steps[:, replaced:].flatten(1), batch.answer], dim=1)
    labels = ids.clone()
    labels[:, : batch.question.shape[1]] = -100
    plain = reasoner.lm(input_ids=ids).logits[:, :-1]
    expected = cross_entropy(plain.flatten(0, 1), labels[:, 1:].flatten())
    assert reasoner.losses(reasoner.unroll(batch, replaced, None))["text"].item() == pytest.approx(expected.item(), abs=1e-12)


def test_passes_with_a_cache_equal_one_pass_over_the_same_inputs() -> None:
    reasoner, batch = toy("atp", surplus="all"), problems(2)
    seen = reasoner.unroll(batch, 3, noise())
    assert (seen.active, len(seen.latents)) == (4, 6)  # two steps, and surplus latents up to the longest chain
    fed = torch.cat([seen.text.new_full((4, 1), reasoner.markers.end), seen.text[:, :-1]], dim=1)
    parts = [reasoner.embed(reasoner.marked(batch.question, reasoner.markers.start)), seen.vectors[:, :4], reasoner.embed(fed)]
    states = reasoner.read(torch.cat(parts, dim=1))
    start = batch.question.shape[1]
    torch.testing.assert_close(states[:, start : start + 5], seen.states[:, :5], atol=1e-12, rtol=0)
    torch.testing.assert_close(reasoner.logits(states[:, start + 5 :]), seen.logits, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("published", [False, True])
def test_gradients_agree_with_finite_differences(name: str, published: bool) -> None:
    options = AtpOptions.compat().model_dump() if published and name == "atp" else {"train_eos": not published}
    options |= {"kl": 1.0} if name == "atp" else {}
    reasoner, batch = toy(name, d_model=8, **options), problems(2)

    def losses() -> dict[str, torch.Tensor]:
        return reasoner.losses(reasoner.unroll(batch, 3 if name == "atp" else 1, noise()))

    for term, value in losses().items():
        reasoner.zero_grad()
        losses()[term].backward()
        reached = [(parameter, parameter.grad) for parameter in reasoner.parameters() if parameter.grad is not None]
        assert len(reached) > 5, term
        generator, slope, moves = noise(1), 0.0, []
        for parameter, grad in reached:
            moves.append(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            slope += float((moves[-1] * grad).sum())
        ends = []
        with torch.no_grad():
            for side in (1e-5, -2e-5):
                for (parameter, _), move in zip(reached, moves, strict=True):
                    parameter += side * move
                ends.append(losses()[term].item())
            for (parameter, _), move in zip(reached, moves, strict=True):
                parameter += 1e-5 * move
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-3, abs=1e-4), term  # transformers norms in float32
        assert abs(slope) > 1e-3, term
        assert value.item() > 0


def test_the_kl_is_that_of_torch() -> None:
    mean, logvar = torch.randn(50), torch.randn(50)
    prior = torch.distributions.Normal(torch.zeros(50), torch.ones(50))
    torch.testing.assert_close(
        kl_to_prior(mean, logvar), torch.distributions.kl_divergence(torch.distributions.Normal(mean, (logvar / 2).exp()), prior)
    )


def test_each_loss_of_atp_is_the_sum_that_it_says() -> None:
    reasoner, batch = toy("atp", kl=0.5, stop=2.0, decoder=3.0), problems(2)
    seen = reasoner.unroll(batch, 3, noise())
    terms = reasoner.losses(seen)
    assert len(seen.latents) == 5  # the last one stops
    states = [seen.states[:, slot] for slot in range(5)]
    kl = [kl_to_prior(state + mean, logvar).mean().item() for state, (mean, logvar) in zip(states, map(reasoner.head, states), strict=True)]
    assert terms["kl"].item() == pytest.approx(0.5 * sum(kl) / 5)
    stops = [cross_entropy(reasoner.stop_logits(seen.vectors[:, slot]), torch.full((4,), int(slot == 4))).item() for slot in (0, 2, 4)]
    assert terms["stop"].item() == pytest.approx(2 * sum(stops) / 3)
    nats = []
    for row in range(4):
        for step in range(2):
            ids = [*batch.steps[row, step, :-1].tolist(), reasoner.markers.eos]
            vectors = [seen.vectors[row, 2 * step], seen.vectors[row, 2 * step + 1], *reasoner.table[ids[:-1]]]
            states = reasoner.decoder.body(inputs_embeds=torch.stack(vectors)[None]).last_hidden_state[0]
            nats += [-(states[i + 1] @ reasoner.table.T).log_softmax(-1)[token].item() for i, token in enumerate(ids)]
    assert terms["decoder"].item() == pytest.approx(3 * sum(nats) / 8)  # of a step, and there are 4 times 2 steps


def test_published_options_change_the_terms_as_published() -> None:
    reasoner, batch = toy("atp", **AtpOptions.compat().model_dump()), problems(2)
    seen = reasoner.unroll(batch, 3, noise())
    assert len(seen.latents) == 6
    groups = [(prefix, ids) for prefix, ids in reasoner.readings(seen)]
    assert [ids.shape for _, ids in groups] == [(8, 8), (4, 1)]
    sums = [reasoner.decoder.loss(prefix, reasoner.table, ids).sum().item() for prefix, ids in groups]
    terms = reasoner.losses(seen)
    assert terms["decoder"].item() == pytest.approx(sum(sums) / 12)  # a sum over tokens, a mean over groups
    stops = [cross_entropy(reasoner.stop_logits(seen.vectors[:, slot]), torch.full((4,), int(slot >= 4))).item() for slot in range(6)]
    assert terms["stop"].item() == pytest.approx(sum(stops) / 3)
    assert seen.text[0, -1] == reasoner.markers.eos
    without = cross_entropy(seen.logits[:, :-1].flatten(0, 1), seen.text[:, :-1].flatten())
    assert terms["text"].item() == pytest.approx(without.item())


def test_latents_can_be_deterministic_and_the_stop_head_left_out() -> None:
    batch = problems(2)
    mean = toy("atp", latents="mean", kl=0.0, stop=0.0)
    seen = mean.unroll(batch, 3, noise())
    assert torch.equal(seen.vectors, mean.unroll(batch, 3, noise(5)).vectors)
    assert mean.losses(seen).keys() == {"text", "decoder"}
    assert not torch.equal(toy("atp").unroll(batch, 3, noise()).vectors, toy("atp").unroll(batch, 3, noise(5)).vectors)
    with pytest.raises(ConfigError, match="unknown option klx: did you mean kl"):
        toy("atp", klx=1)


def test_latents_may_be_on_the_scale_of_embeddings() -> None:
    batch = problems(2)
    rms = {scale: toy("atp", scale=scale).unroll(batch, 3, None).vectors.square().mean().sqrt().item() for scale in ("embedding", "one")}
    table = toy("atp").lm.get_input_embeddings().weight.square().mean().sqrt().item()
    assert 0.2 * table < rms["embedding"] < 2 * table
    assert rms["one"] * table == pytest.approx(rms["embedding"], rel=0.5)
    published = toy("atp", residual=False, scale="one")
    seen = published.unroll(batch, 1, None)
    assert seen.latents[0].vector.equal(published.head(seen.states[:, 0])[0])


def test_a_surplus_latent_is_seen_by_nothing_after_it() -> None:
    batch = problems(2)
    short, long = toy("atp", surplus="first"), toy("atp", surplus="all")
    assert torch.equal(short.unroll(batch, 3, None).logits, long.unroll(batch, 3, None).logits)


def test_a_strategy_without_latents_says_so() -> None:
    with pytest.raises(NotImplementedError, match="cot has no latents"):
        toy("cot").latent(torch.zeros(1, 16), None)
    assert issubclass(strategy("cot"), Reasoner)
    assert TINY.longest == 4
