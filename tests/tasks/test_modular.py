"""Chains modulo a prime: true steps, and equivalent orders in one split."""

import re

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


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(DataError, match="unknown setting 'medium': take one of easy, hard, orders"):
        modular_setting("medium")
