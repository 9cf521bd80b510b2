"""The glossary's terms for tooltips, word for word as docs/glossary.md has them (a test compares the two)."""

import re
from functools import cache

TERMS = {
    "advantage": "share of right continuations with an action minus without it, from the same states with the same random numbers",
    "candidate": "one of the at most L retrieved corrective entries that are previewed",
    "coherence": "how well decoded steps lead to each other and to the answer: as published, by comparing texts, or strict, by arithmetic",
    "control basis": "the entries that Stage II selected",
    "control point": "the state after m finished steps, at the delimiter's last token; step k begins at control point k - 1",
    "gate": "the decision at a control point: the best candidate, or null",
    "impulse": "alpha v added at one token of one block's output",
    "key": "the mean state that an entry is retrieved by",
    "latent": "a vector that is fed as an input embedding in place of a written step's tokens",
    "latent action": "v = mu+ - mu- at one control point and layer, raw",
    "library": "the entries from which the gate retrieves",
    "logit lens": "a direction multiplied by the final norm's gain and the unembedding",
    "null": "the decision to inject nothing; in a causal study, the arm without an impulse",
    "preview": "a few tokens (probe tokens) decoded from the prefix with a candidate, or without one",
    "rollout": "one sampled answer to a training problem",
    "step": "a stretch of an answer that ends in the delimiter",
    "trace": "one decoded answer with the gate's evidence and decisions",
    "vanilla": "of an answer: decoded without retrieval, previews or impulses",
}


@cache
def terms_in(text: str) -> tuple[str, ...]:
    """Terms of the glossary that a text uses, also in the plural; of two terms in one place the longer one counts."""
    found, rest = [], text.lower()
    for term in sorted(TERMS, key=len, reverse=True):
        pattern = rf"\b{re.escape(term)}s?\b"
        if re.search(pattern, rest):
            found.append(term)
            rest = re.sub(pattern, " ", rest)
    return tuple(sorted(found))


def meanings(text: str) -> str | None:
    """The meanings of the terms in a text, for a tooltip; ``None`` where it uses none."""
    return "\n\n".join(f"**{term}**: {TERMS[term]}" for term in terms_in(text)) or None
