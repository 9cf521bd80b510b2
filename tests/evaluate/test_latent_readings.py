"""Read-outs of latents on an untrained reasoner, against passes made by hand."""

# pyright: reportOptionalMemberAccess=false

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, one_hot

from stir_core.errors import DataError
from stir_core.evaluate.interchange import other_answers
from stir_core.evaluate.latent_readings import read_latents
from stir_core.latent.registry import strategy_names
from stir_core.latent.thinking import LatentChoice, reason
from stir_core.latent.training import TrainedReasoner, load_reasoner
from stir_core.latent.words import as_batch
from stir_core.readings import LatentReading
from stir_core.seeding import generator_for
from stir_core.store.latents import SHIPPED, kept_reading, latent_folders, latent_report
from stir_core.tasks.modular import asked_chain, draw_chains
from tests.latent.toys import TINY, WORDS, toy

QUESTION, OTHER = "7+3*5?", "2*4-9?"


def trained(name: str, **options: Any) -> TrainedReasoner:
    return TrainedReasoner(toy(name, **options).float(), WORDS, TINY, {})


@pytest.fixture(scope="module")
def atp() -> TrainedReasoner:
    return trained("atp")


@pytest.fixture(scope="module")
def reading(atp: TrainedReasoner) -> LatentReading:
    return read_latents(atp, QUESTION, other=OTHER, runs=3)


class Always(nn.Module):
    """Logits that are largest for one token."""

    def __init__(self, token: int, size: int):
        super().__init__()
        self.token, self.size = token, size

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return one_hot(torch.tensor(self.token), self.size).float().expand(*states.shape[:-1], -1)


def own_answer(held: TrainedReasoner) -> Any:
    question = as_batch(WORDS, [asked_chain(QUESTION, TINY)]).question
    return question, reason(
        held.reasoner, question, LatentChoice(slots=None if held.reasoner.stops else held.reasoner.slots(2, 2)[0]), most_text=24
    )[0]


def test_a_problem_is_read_from_its_text() -> None:
    for chain in draw_chains(TINY, "eval", 3, 5, generator_for(0, "texts")):
        assert asked_chain(chain.question, TINY) == asked_chain(f" {chain.question[:-1]} ", TINY) == chain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7+?", "'7\\+\\?' is no chain of operations"),
        ("<b>1+1</b>", "is no chain of operations"),
        ("7+13-2?", "13 is too large: .* modulus 11"),
        ("7+1?", "7\\+1\\? has 1 operation: ask between 2 and 4"),
        ("7" + "+1" * 9999 + "?", "^.{0,70} has 9999 operations"),
    ],
)
def test_what_is_no_problem_is_one_line(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        asked_chain(text, TINY)


def test_the_latents_are_those_of_the_answer(atp: TrainedReasoner, reading: LatentReading) -> None:
    question, answer = own_answer(atp)
    assert len(reading.latents) == len(answer.vectors) > 0
    table = atp.reasoner.lm.get_input_embeddings().weight
    begun = atp.reasoner.embed(atp.reasoner.marked(question, atp.reasoner.markers.start))
    states = atp.reasoner.read(torch.cat([begun, answer.vectors[None]], dim=1))[0, begun.shape[1] :]
    for slot, (latent, vector) in enumerate(zip(reading.latents, answer.vectors, strict=True)):
        assert latent.step == slot // 2 + 1
        assert latent.norm == pytest.approx(vector.norm().item())
        assert latent.nearest[0].value == pytest.approx(cosine_similarity(table, vector[None]).max().item())
        assert (latent.stop is None) == (slot % 2 == 1)
        assert [layer.layer for layer in latent.layers] == [0, 1, 2]
        last = atp.reasoner.logits(states[slot]).softmax(-1)
        assert latent.layers[2].top[0].value == pytest.approx(last.max().item(), rel=1e-5)
        assert latent.layers[2].entropy == pytest.approx(torch.special.entr(last).sum().item(), rel=1e-5)
        fed = atp.reasoner.logits(atp.reasoner.lm.base_model.norm(vector)).softmax(-1)
        assert latent.layers[0].top[0].value == pytest.approx(fed.max().item(), rel=1e-5)


def test_replaced_latents_give_the_answers_of_those_latents(atp: TrainedReasoner, reading: LatentReading) -> None:
    question, answer = own_answer(atp)
    changes = {(each.step, each.how, each.then): each for each in reading.changes}
    steps = len(answer.vectors) // 2
    assert len(changes) == len(reading.changes) == 7 * steps
    for step in range(1, steps + 1):
        fed = answer.vectors.clone()
        fed[2 * (step - 1) : 2 * step] = 0
        ids = reason(atp.reasoner, question, given=fed[None], most_text=24)[0].ids
        text = WORDS.batch_decode([ids], skip_special_tokens=True)[0]
        assert changes[step, "zero", "later latents kept"].answer == text.partition("#### ")[2]
    known = min(steps, len(reading.other_values))
    assert [(change.step, change.implied) for change in reading.changes if change.implied] == [
        (
            step,
            dict(
                zip(
                    ("after", "before", "operation"),
                    other_answers(asked_chain(QUESTION, TINY), asked_chain(OTHER, TINY), step),
                    strict=True,
                )
            ),
        )
        for step in range(1, known + 1)
        for _ in ("kept", "thought anew")
    ]


def test_samples_begin_at_the_answer_and_end_at_the_other_problem_s_latent(atp: TrainedReasoner, reading: LatentReading) -> None:
    question, answer = own_answer(atp)
    asked = as_batch(WORDS, [asked_chain(OTHER, TINY)]).question
    other = reason(atp.reasoner, asked, LatentChoice(slots=len(answer.vectors)))[0].vectors
    line = {(each.latent, each.amount): each for each in reading.samples if each.how == "interpolation"}
    noisy = [each for each in reading.samples if each.how == "its own noise"]
    assert len(line) == 11 * len(answer.vectors) and len(reading.samples) == len(line) + len(noisy)
    for slot in range(len(answer.vectors)):
        assert line[slot + 1, 0.0].answer == reading.answer and line[slot + 1, 0.0].step == reading.steps[slot // 2].text
        first = torch.cat([answer.vectors[:slot], other[slot][None]])[None]
        moved = reason(atp.reasoner, question, LatentChoice(slots=len(answer.vectors), first=first), most_text=24)[0]
        text = WORDS.batch_decode([moved.ids], skip_special_tokens=True)[0]
        assert line[slot + 1, 1.0].answer == text.partition("#### ")[2]
    assert {(each.draws, each.amount) for each in noisy} == {(16, 1.0), (16, 2.0), (16, 4.0)}
    assert all(round(each.kept.value * each.draws, 6).is_integer() for each in noisy)


def test_noise_where_no_latent_is_drawn_is_that_of_problems() -> None:
    found = read_latents(trained("sim_cot"), QUESTION, other=OTHER)
    assert {each.how for each in found.samples} == {"interpolation", "noise of problems"}


def test_latents_of_the_same_problem_change_nothing(atp: TrainedReasoner) -> None:
    same = read_latents(atp, QUESTION, other=QUESTION, runs=1)
    swapped = [change for change in same.changes if change.how == "swapped"]
    assert swapped and {change.answer for change in swapped} == {same.answer}
    assert {number for change in swapped for number in change.implied.values()} == {same.truth}
    assert {each.kept.value for each in same.samples if each.how == "interpolation"} == {1.0}
    assert max(change.probability for change in swapped) - min(change.probability for change in swapped) < 1e-6


def test_attention_is_that_of_the_number_s_place() -> None:
    held = trained("sim_cot")
    states = WORDS.get_vocab()["#### "]
    with torch.no_grad():  # an unembedding that always writes the token before a number
        held.reasoner.lm.set_output_embeddings(Always(states, len(WORDS)))
    found = read_latents(held, QUESTION, other=OTHER)
    assert found.runs is None and {latent.deviation for latent in found.latents} == {None} and found.stop_at_end is None
    question, answer = own_answer(held)
    assert set(answer.ids) == {states}
    begun = held.reasoner.embed(held.reasoner.marked(question, held.reasoner.markers.start))
    fed = held.reasoner.embed(torch.tensor([[held.reasoner.markers.end, *answer.ids]]))
    passed = held.reasoner.lm.base_model(inputs_embeds=torch.cat([begun, answer.vectors[None], fed], dim=1), output_attentions=True)
    for slot, latent in enumerate(found.latents):
        paid = [weights[0, :, -1, begun.shape[1] + slot].mean().item() for weights in passed.attentions]
        assert latent.layers[0].attention is None
        assert [layer.attention for layer in latent.layers[1:]] == pytest.approx(paid)


def test_runs_are_drawn_and_reproducible(atp: TrainedReasoner, reading: LatentReading) -> None:
    assert reading.runs is not None and len(reading.runs) == 3
    assert read_latents(atp, QUESTION, other=OTHER, runs=3) == reading
    assert LatentReading.model_validate_json(reading.model_dump_json()) == reading


@pytest.mark.parametrize("name", strategy_names())
def test_every_strategy_can_be_read(name: str) -> None:
    held = trained(name)
    found = read_latents(held, QUESTION, other=OTHER, runs=1)
    assert len(found.latents) == len(own_answer(held)[1].vectors)
    assert bool(found.latents) == bool(found.changes) == bool(held.reasoner.most)
    decoded = [step.text for step in found.steps if step.text is not None]
    assert bool(decoded) or not hasattr(held.reasoner, "decoded") or not found.latents


def test_written_steps_are_read_as_they_stand() -> None:
    found = read_latents(trained("cot"), QUESTION)
    assert found.latents == found.changes == () and found.other is None and found.runs is None
    assert [step.truth for step in found.steps][:2] == ["<<7+3=10>>", "<<10*5=6>>"]


def test_the_other_problem_has_as_many_operations(atp: TrainedReasoner) -> None:
    with pytest.raises(DataError, match="has 3 operations, 7\\+3\\*5\\? has 2"):
        read_latents(atp, QUESTION, other="1+1+1+1?")


@pytest.mark.parametrize("folder", sorted(SHIPPED.iterdir()), ids=lambda folder: folder.name)
def test_what_is_shipped_is_small_and_is_read_as_it_is_kept(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
    report, kept = latent_report(folder), kept_reading(folder)  # the report is refused if it is of other weights
    assert report is not None and kept is not None and kept.strategy == report.strategy == folder.name
    found = read_latents(load_reasoner(folder), kept.question)
    assert (found.text, found.steps, found.other) == (kept.text, kept.steps, kept.other)
    assert [change.answer for change in found.changes] == [change.answer for change in kept.changes]
    assert [layer.entropy for latent in found.latents for layer in latent.layers] == pytest.approx(
        [layer.entropy for latent in kept.latents for layer in latent.layers], abs=1e-3
    )


def test_what_is_shipped_is_offered_without_any_folder_of_one_s_own(tmp_path: Path) -> None:
    assert set(latent_folders([tmp_path])) == {folder.name for folder in SHIPPED.iterdir()} >= {"cot"}
