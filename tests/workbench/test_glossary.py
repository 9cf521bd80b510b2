"""The tooltips' glossary says what docs/glossary.md says, and terms are found in running text."""

import re
from pathlib import Path

from workbench.shared.glossary import TERMS, meanings, terms_in

PAGE = Path(__file__).resolve().parents[2] / "docs" / "glossary.md"
SIGNS = {r"\alpha": "alpha", r"\mu": "mu", "_+": "+", "_-": "-", "$": "", "*": "", "`": ""}


def plain(text: str) -> str:
    for sign, word in SIGNS.items():
        text = text.replace(sign, word)
    return text.strip()


def test_meanings_are_those_of_the_documentation() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    documented = {re.sub(r" [A-Zmq]$", "", plain(name)): plain(meaning) for name, meaning in rows}
    assert TERMS.keys() <= documented.keys()
    assert [term for term, meaning in TERMS.items() if not documented[term].startswith(meaning)] == []


def test_terms_are_found_whole_and_in_the_plural() -> None:
    assert terms_in("Two gates at a Control point; a latent action, keyed.") == ("control point", "gate", "latent action")
    assert terms_in("latents") == ("latent",) and meanings("nothing here") is None
    assert "**gate**" in str(meanings("the gate"))
