"""Interchange of latents, judged on a mechanism that is known: each latent holds the value, and the answer is read off the last."""

from pathlib import Path

# pyright: reportOptionalMemberAccess=false
# (what is None where a test expects something raises there, and the test fails as it should)
import pytest
import torch

from stir_core.errors import DataError
from stir_core.evaluate import interchange as module
from stir_core.evaluate.interchange import carried_on, interchange, other_answers
from stir_core.latent.thinking import LatentAnswer, LatentChoice, reason
from stir_core.latent.training import load_reasoner, train_latent
from stir_core.latent.words import as_batch
from stir_core.seeding import generator_for
from stir_core.tasks.modular import ModularChain, applied, draw_chains
from tests.latent.toys import RECIPE, TINY, WORDS, problems, toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_latent("coconut", tmp_path_factory.mktemp("latent") / "coconut", recipe=RECIPE, options={"per_step": 1})


def test_the_answer_of_another_value_is_worked_out() -> None:
    for chain in draw_chains(TINY, "eval", 3, 5, generator_for(0, "carried")):
        assert carried_on(chain, 1, chain.values[1]) == carried_on(chain, 3, chain.answer) == chain.answer
        sign, number = chain.operations[2]
        assert carried_on(chain, 2, 4) == (4 + number if sign == "+" else 4 - number if sign == "-" else 4 * number) % 11


def test_answers_follow_a_value_that_is_read_and_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chains = {tuple(as_batch(WORDS, [c]).question[0].tolist()): c for count in (2, 3, 4) for c in drawn(folder, count)}

    def thinks(reasoner, question, choice, *, given=None):
        found = []
        for i, row in enumerate(question.tolist()):
            chain = chains[tuple(row)]
            values = [float(value) for value in chain.values[1:]]
            if choice.first is not None:
                values = choice.first[i, :, 0].tolist()
                for sign, number in chain.operations[len(values) :]:
                    values.append(float(applied(int(values[-1]), sign, number) % chain.modulus))
            vectors = torch.tensor(values)[:, None] if given is None else given[i]
            ids = WORDS(f"#### {int(vectors[-1, 0])}", add_special_tokens=False)["input_ids"]
            found.append(LatentAnswer(vectors, None, ids, 0, 0, vectors))
        return found

    monkeypatch.setattr(module, "reason", thinks)
    report = interchange(folder, n=30)
    rows = {(row.count, row.step, row.how): row for row in report.rows if row.latent is None}
    assert {row.count for row in report.rows} == {2, 3, 4} and min(row.problems for row in report.rows) > 5
    for (count, step, how), row in rows.items():
        last = step == count
        shares = [row.kept, row.after, row.before, row.operation]
        values = [None if share is None else share.value for share in shares]
        if how == "swapped":  # the later latents are kept, and the answer is read off the last
            assert values == ([0, 1, 0, 0] if last else [1, 0, 0, 0])
        elif how == "swapped, then thinking on":
            assert values == [0, 1, 0, 0]
        else:
            assert values[1:] == [None, None, None] and (last or values[0] == 1)
    single = [row for row in report.rows if row.latent is not None]
    assert [(row.step, row.after) for row in single] == [(row.step, row.after) for row in rows.values() if row.how.endswith("on")]


def test_what_another_step_would_have_led_to() -> None:
    one, two = (ModularChain(11, first, operations) for first, operations in ((7, (("+", 3), ("*", 5))), (2, (("-", 1), ("*", 2)))))
    # 7 + 3 = 10, * 5 = 6 modulo 11; 2 - 1 = 1, * 2 = 2
    assert other_answers(one, two, 1) == (1 * 5, (2 + 3) * 5 % 11, (7 - 1) * 5 % 11)
    assert other_answers(one, two, 2) == (2, 1 * 5, 10 * 2 % 11)


def drawn(folder: Path, count: int):
    setting = load_reasoner(folder).chains
    rng = generator_for(0, "latent interchange", setting.name)
    return [draw_chains(setting, "eval", each, 30, rng, without=set()) for each in setting.counts][count - setting.counts[0]]


def test_thinking_goes_on_from_latents_that_are_fed() -> None:
    reasoner, question = toy("atp"), problems(3).question
    own = reason(reasoner, question, LatentChoice(slots=6))
    first = torch.stack([each.vectors[:3] for each in own])
    again = reason(reasoner, question, LatentChoice(slots=6, first=first))
    assert [each.ids for each in again] == [each.ids for each in own]
    torch.testing.assert_close(torch.stack([each.vectors for each in again]), torch.stack([each.vectors for each in own]))
    other = reason(reasoner, question, LatentChoice(slots=6, first=first.roll(1, dims=0)))
    assert all(torch.equal(each.vectors[:3], fed) for each, fed in zip(other, first.roll(1, dims=0), strict=True))
    assert all(not torch.equal(each.vectors[3:], mine.vectors[3:]) for each, mine in zip(other, own, strict=True))


def test_what_cannot_exchange_latents_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="n is 1: give at least two problems"):
        interchange(folder, n=1)
    plain = train_latent("answer_only", tmp_path / "plain", recipe=RECIPE)
    with pytest.raises(DataError, match="answer_only, which has no latents"):
        interchange(plain)
