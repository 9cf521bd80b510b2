"""Prompt templates: a problem -> the text of the user message. The chat template itself is the model's business.

``hash`` is word for word the five-line prompt of the published experiments; golden files depend on every character of it.
"""

from collections.abc import Callable

from stir_core.errors import DataError
from stir_core.records import AnswerKind, Problem

_HASH = (
    "Solve the following problem step by step.\n"
    "You should show intermediate steps.\n"
    "Return the final numeric answer on the last line in the format:\n"
    "#### <answer>\n\n"
    "Problem:\n{body}\n"
)
_BOXED = "Solve the following problem. Reason step by step, and put your final answer within \\boxed{{}}.\n\nProblem:\n{body}\n"
_CHOICE = (
    "Answer the following multiple-choice question step by step.\n"
    "You should show intermediate steps.\n"
    "Return the letter of the right option on the last line in the format:\n"
    "#### <letter>\n\n"
    "Question:\n{body}\n"
)
_YESNO = (
    "Answer the following question step by step.\n"
    "You should show intermediate steps.\n"
    "Return yes or no on the last line in the format:\n"
    "#### <yes or no>\n\n"
    "Question:\n{body}\n"
)


def body(problem: Problem) -> str:
    """The question, with its lettered options where it has any, one a line."""
    options = [f"{chr(ord('A') + i)}. {text}" for i, text in enumerate(problem.choices)]
    return "\n".join([problem.question, *(["", "Options:", *options] if options else [])])


def _fill(template: str) -> Callable[[Problem], str]:
    return lambda problem: template.format(body=body(problem))


TEMPLATES: dict[str, Callable[[Problem], str]] = {
    "hash": _fill(_HASH),
    "boxed": _fill(_BOXED),
    "choice": _fill(_CHOICE),
    "yesno": _fill(_YESNO),
    "plain": body,
}
"""Template name -> problem -> user message; ``plain`` is the question alone."""

_DEFAULTS: dict[AnswerKind, str] = {"number": "hash", "math": "boxed", "choice": "choice", "yesno": "yesno"}


def template_for(kind: AnswerKind) -> str:
    """Name of the default template of an answer kind."""
    return _DEFAULTS[kind]


def asks_for_box(template: str) -> bool | None:
    """Whether this template asks for an answer in ``\\boxed{...}``; ``None``: that depends on the kind, or nothing is asked."""
    return None if template in ("auto", "plain") else template == "boxed"


def render(problem: Problem, template: str = "auto") -> str:
    """The user message for a problem; ``"auto"`` takes the default template of its answer kind.

    Raises:
        DataError: no such template.
    """
    name = template_for(problem.kind) if template == "auto" else template
    if name not in TEMPLATES:
        raise DataError(f"prompt template {template!r} is not known: take auto or one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name](problem)
