"""Prompt templates: a problem -> the text of the user message. The chat template around it is the model's own.

``hash`` is word for word the five-line prompt of the published experiments; golden files depend on every character of it.
"""

from stir_core.errors import DataError
from stir_core.records import AnswerKind, Problem
from stir_core.tasks.catalogue import TASKS

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


TEMPLATES = {"hash": _HASH, "boxed": _BOXED, "choice": _CHOICE, "yesno": _YESNO, "plain": "{body}"}
"""Template name -> user message; ``plain`` is the question alone."""
TEMPLATE_OF: dict[AnswerKind, str] = {"number": "hash", "math": "boxed", "choice": "choice", "yesno": "yesno"}
"""The template of an answer kind, which ``"auto"`` takes unless the task has one of its own."""


def asks_for_box(template: str) -> bool | None:
    """Whether a template asks for an answer in ``\\boxed{...}``; ``None``: that depends on the answer kind, or it asks for nothing."""
    return None if template in ("auto", "plain") else template == "boxed"


def check_template(name: str) -> None:
    """Refuse a template that does not exist.

    Raises:
        DataError: no such template.
    """
    if name not in ("auto", *TEMPLATES):
        raise DataError(f"prompt template {name!r} is not known: take auto or one of {', '.join(TEMPLATES)}")


def render(problem: Problem, template: str = "auto") -> str:
    """The user message for a problem: its question, with lettered options one per line, in a template.

    Raises:
        DataError: no such template.
    """
    check_template(template)
    options = [f"{chr(ord('A') + i)}. {text}" for i, text in enumerate(problem.choices)]
    body = "\n".join([problem.question, *(["", "Options:", *options] if options else [])])
    if template == "auto":
        own = TASKS[problem.task].template if problem.task in TASKS else None
        template = own or TEMPLATE_OF[problem.kind]
    return TEMPLATES[template].format(body=body)
