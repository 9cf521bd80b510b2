"""Coherence: worked by hand from the published rule, and the strict rule beside it."""

import pytest

from stir_core.latent.coherence import equation_of, published_coherence, strict_coherence

GOLDEN = [
    (["<<16-3-4=9>>", "<<9*2=18>>"], "### 18", (16, 3, 4, 2), 1, 1),
    (["<<3*3=9>>", "<<2*60=120>>"], "### 120", (3, 2, 60), 1 / 2, 1 / 2),
    (["<<12/4=3>>", "<<13*2=26>>"], "### 26", (12, 4, 2), 1, 0),  # the 3 of 13, and 13 comes from nowhere
    (["16-3", "<<1+1=2>>"], "### 5", (16, 3, 1), 1 / 2, 0),  # a step that cannot be parsed always counts
    (["<<1+1=2>>"], "### 128", (1,), 1, 0),
    ([], "### 7", (1,), 1, 0),
]


@pytest.mark.parametrize(("steps", "answer", "given", "published", "strict"), GOLDEN)
def test_golden_cases(steps: list[str], answer: str, given: tuple[int, ...], published: float, strict: float) -> None:
    assert published_coherence(steps, answer) == published
    assert strict_coherence(steps, answer, given) == strict


def test_the_published_rule_never_asks_whether_a_step_is_true() -> None:
    false = ["<<2+2=5>>", "<<5*2=11>>"]
    assert published_coherence(false, "#### 11") == 1
    assert strict_coherence(false, "#### 11", (2,)) == 0
    assert published_coherence(["", ""], "#### 11") == 1
    assert published_coherence(["<<2+2=5", "<<9*1=4>>"], "#### 11") == 1 / 2  # cut before >>: counts


def test_strict_steps_are_true_modulo_the_modulus() -> None:
    steps = ["<<7+3=10>>", "<<10*5=6>>", "<<6-2=4>>"]
    assert strict_coherence(steps, "#### 4", (7, 3, 5, 2), 11) == 1
    assert strict_coherence(steps, "#### 4", (7, 3, 5, 2)) == 2 / 3
    assert strict_coherence(steps, "#### 5", (7, 3, 5, 2), 11) == 2 / 3  # the last result is not the answer
    assert strict_coherence(steps[1:], "#### 4", (7, 3, 5, 2), 11) == 1 / 2  # 10 comes from nowhere


@pytest.mark.parametrize(
    "step", ["", "<<=3>>", "<<3>>", "<<1/0=3>>", "<<1+=3>>", "<<2**3=8>>", "<<7+3=10", "1+1=2", "<<" + "(" * 300 + "=1>>"]
)
def test_what_is_no_equation(step: str) -> None:
    assert equation_of(step) is None


def test_precedence_and_fractions() -> None:
    assert equation_of("<<2+3*4=14>>").true  # type: ignore[union-attr]
    assert equation_of("<<(2+3)*4=20>>").true  # type: ignore[union-attr]
    assert equation_of("<<.5*3=1.5>>").true  # type: ignore[union-attr]
    assert not equation_of("<<1/3=0.34>>").true  # type: ignore[union-attr]
