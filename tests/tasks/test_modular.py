"""Chains modulo a prime: true steps, and equivalent orders in one split."""

import re
from itertools import product

import pytest

from stir_core.errors import DataError
from stir_core.seeding import generator_for
from stir_core.tasks.arithmetic import SPLITS, split_of
from stir_core.tasks.modular import MODULAR, ModularChain, draw_chains, modular_setting


def drawn(name: str, count: int, n: int = 200, split: str = "train") -> list[ModularChain]:
    return draw_chains(modular_setting(name), split, count, n, generator_for(0, "test", count))


@pytest.mark.parametrize("name", MODULAR)
def test_every_step_is_true_and_leads_to_the_answer(name: str) -> None:
    modulus = MODULAR[name].modulus
    for chain in [*drawn(name, 3), *drawn(name, 4)]:
        value = int(re.match(r"\d+", chain.question)[0])  # type: ignore[index]
        for step in chain.steps:
            a, sign, b, result = re.fullmatch(r"<<(\d+)([-+*])(\d+)=(\d+)>>", step).groups()  # type: ignore[union-attr]
            assert int(a) == value
            assert f"{sign}{b}" in chain.question
            value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] % modulus
            assert int(result) == value
        assert value == chain.answer


def test_a_known_chain() -> None:
    chain = ModularChain(11, 7, (("+", 3), ("*", 5), ("-", 2)))
    assert chain.question == "7+3*5-2?"
    assert chain.steps == ("<<7+3=10>>", "<<10*5=6>>", "<<6-2=4>>")


def test_equivalent_orders_are_one_content_with_one_answer() -> None:
    changed = 0
    for chain in drawn("orders", 6):
        other = chain.reordered(generator_for(1, "order", chain.question))
        changed += other != chain
        assert (other.canonical, other.answer) == (chain.canonical, chain.answer)
    assert changed > 50
    assert ModularChain(11, 7, (("+", 3), ("*", 5))).canonical == ModularChain(11, 3, (("+", 7), ("*", 5))).canonical
    assert ModularChain(11, 7, (("+", 3), ("*", 5))).canonical != ModularChain(11, 7, (("*", 5), ("+", 3))).canonical


def test_splits_are_disjoint_and_draws_can_be_distinct() -> None:
    by_split = {split: {chain.canonical for chain in drawn("easy", 2, split=split)} for split in SPLITS}
    assert all(split_of(content) == split for split, contents in by_split.items() for content in contents)
    seen: set[str] = set()
    distinct = draw_chains(MODULAR["easy"], "eval", 2, 300, generator_for(0, "distinct"), without=seen)
    assert len({chain.canonical for chain in distinct}) == len(seen) == 300


def test_more_different_problems_than_there_are_is_one_line() -> None:
    """All contents of a split are found before a draw gives up, and a number beyond all contents is refused before one is drawn."""
    small = MODULAR["easy"]._replace(modulus=3)
    numbers = {"+": (1, 2), "-": (1, 2), "*": (2,)}
    operations = [(sign, number) for sign, each in numbers.items() for number in each]
    contents = {ModularChain(3, first, pair).canonical for first in range(3) for pair in product(operations, repeat=2)}
    own = {content for content in contents if split_of(content) == "eval"}
    assert 0 < len(own) < len(contents)
    seen: set[str] = set()
    draw_chains(small, "eval", 2, len(own), generator_for(0, "all"), without=seen)
    assert seen == own
    with pytest.raises(DataError, match=f"{len(own)} are all that could be drawn, ask for fewer"):
        draw_chains(small, "eval", 2, len(own) + 1, generator_for(0, "all"), without=set())
    with pytest.raises(
        DataError, match=r"1,000,000,000 different problems of 4 operations .* there are fewer than 7,780,091 of all splits"
    ):
        draw_chains(MODULAR["easy"], "eval", 4, 10**9, generator_for(0, "all"), without=set())


def test_a_problem_is_in_a_split_if_an_equivalent_order_is_drawn() -> None:
    """Against all that is drawn, with operands that never are: ``7+0*5?`` is ``0+7*5?`` in another order, ``7-0*5?`` is nothing's."""
    setting = MODULAR["easy"]._replace(modulus=5)
    least = {"+": 1, "-": 1, "*": 2}
    every = [(sign, number) for sign in "+-*" for number in range(5)]
    chains = [ModularChain(5, first, each) for first in range(5) for count in (2, 3) for each in product(every, repeat=count)]
    drawn = {chain.canonical for chain in chains if all(number >= least[sign] for sign, number in chain.operations)}
    assert 0 < len(drawn) < len({chain.canonical for chain in chains})
    for chain in chains:
        assert chain.split_in(setting) == (split_of(chain.canonical) if chain.canonical in drawn else None), chain.question
    longer = [chain for chain in chains if chain.canonical in drawn and split_of(chain.canonical) == "train" and len(chain.operations) == 3]
    assert longer and {chain.split_in(setting._replace(counts=(2,))) for chain in longer} == {None}


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(DataError, match="unknown setting 'medium': take one of easy, hard, orders"):
        modular_setting("medium")
