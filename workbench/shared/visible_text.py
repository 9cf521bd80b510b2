"""Model text made visible on one line: white space drawn, length bounded. Never produces markup."""

_SIGNS = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"})


def visible_token(text: str) -> str:
    """A token's text with its white space drawn: ``" the"`` becomes ``"␣the"``."""
    return text.translate(_SIGNS) if text else "∅"


def one_line(text: str, limit: int = 120) -> str:
    """The first ``limit`` characters with runs of white space folded into one space."""
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else folded[: limit - 1].rstrip() + "…"


def plain(text: str) -> str:
    """``text`` with every markdown sign escaped, for the few Streamlit elements that cannot be told to take plain text."""
    return "".join(f"\\{sign}" if sign in _MARKDOWN else sign for sign in text)


_MARKDOWN = frozenset("\\`*_{}[]()<>#+-.!|~$:@^=\"'&")
