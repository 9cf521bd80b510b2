"""Problems with the equations of their solutions, from a file: what a latent reasoner is trained on beside the chains of ``modular``.

GSM8K has such equations as annotations (``48/2 = <<48/2=24>>24``); GSM8K-Aug, as iCoT published it, has nothing else.
"""

import hashlib
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from stir_core.errors import DataError

_EQUATION = re.compile(r"<<([^<>]*)>>")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class SolvedProblem(NamedTuple):
    """A problem with its solution."""

    question: str
    steps: tuple[str, ...]
    """Equations such as ``<<48/2=24>>``."""
    answer: str
    """A number."""

    @property
    def given(self) -> tuple[Fraction, ...]:
        """The numbers of the question."""
        return tuple(map(Fraction, _NUMBER.findall(self.question.replace(",", ""))))

    @property
    def modulus(self) -> None:
        """None: these are plain numbers."""


class SolvedProblems(NamedTuple):
    """A file of solved problems, as a reasoner's setting."""

    name: str
    """Of the file."""
    sha256: str
    longest: int
    """Steps of the longest problem; further ones are joined to its last step."""
    problems: tuple[SolvedProblem, ...] = ()
    """Empty where only the file's description is kept."""
    left_out: int = 0
    """Problems of the file that have no equation."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of steps that problems may have."""
        return tuple(range(1, self.longest + 1))


def read_solutions(file: Path, longest: int) -> SolvedProblems:
    """Read problems of a file, one a line.

    A line is a JSON object with ``question``, ``steps`` (a list of equations) and ``answer``; or one as GSM8K has it, whose ``answer``
    holds annotated equations and ends in ``#### 72``; or iCoT's ``question||<<48/2=24>> <<48+24=72>> #### 72``.

    Args:
        longest: steps of a problem at most; further ones are joined to the last by line breaks, as ATP-Latent does.

    Raises:
        DataError: the file or a line cannot be read, or no problem has an equation.
    """
    try:
        raw = file.read_bytes()
        lines = raw.decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}): give a file of problems, one a line") from None
    rows = [_problem(f"{file} line {number}", line, longest) for number, line in enumerate(lines, start=1) if line.strip()]
    kept = tuple(row for row in rows if row.steps)
    if not kept:
        raise DataError(f"{file} has no problem with an equation such as <<48/2=24>>: give one whose solutions have them")
    return SolvedProblems(file.name, hashlib.sha256(raw).hexdigest(), longest, kept, len(rows) - len(kept))


def _problem(where: str, line: str, longest: int) -> SolvedProblem:
    try:
        row: dict[str, Any] = (
            json.loads(line) if line.lstrip().startswith("{") else dict(zip(("question", "answer"), line.split("||"), strict=True))
        )
        work, _, answer = str(row["answer"]).rpartition("####")
        written = row.get("steps", work)
        written = written if isinstance(written, str) else " ".join(f"<<{str(each).strip().strip('<>')}>>" for each in written)
        question = str(row["question"]).strip()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where} is no problem ({error}): write question, steps and answer as JSON") from None
    steps = [f"<<{body}>>" for each in _EQUATION.findall(written) if (body := "".join(each.split()))]
    answer = answer.strip().replace(",", "")
    try:
        Fraction(answer)
    except (ValueError, ZeroDivisionError):
        raise DataError(f"{where} has the answer {answer[:40]!r}, which is no number: leave it out") from None
    if not question:
        raise DataError(f"{where} has no question: leave it out")
    return SolvedProblem(question, (*steps[: longest - 1], *filter(None, ["\n".join(steps[longest - 1 :])])), answer)
