"""What a user asks to be measured: each setting is declared once, here, with its help.

The command line makes its flags of these sections (``commands/flags.py``), the Python API its keywords, the pages their commands, and
what a study keeps on disk (``findings.EvaluationSpec``, ``CausalSpec``) is the request as it was settled.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stir_core.config import Section

Count = Annotated[int, Field(ge=1)]


class MeasurementRequest(Section):
    """Base of the requests."""

    noun: ClassVar[str] = "setting"

    rows: Count = 16
    """Answers or continuations decoded side by side; results do not depend on it."""


class EvaluationRequest(MeasurementRequest):
    """Which methods are compared, on which problems: ``stir eval``, :func:`stir_core.evaluate_methods`."""

    methods: tuple[str, ...] = ("stir",)
    """Ways to answer, e.g. stir "stir:k_scale=0.5" deer; `stir methods` lists them."""
    task: str | None = None
    """Task to evaluate on; none is the run's own."""
    split: str = "eval"
    """Split that the problems come from: eval, validation, or one of the data set's own."""
    n: Count | None = None
    """Problems; none takes all of the split."""
    levels: tuple[str, ...] | None = None
    """Difficulty levels to draw from; none takes the run's own."""
    seeds: Count = 1
    """Repetitions of methods that sample."""
    baseline: str = "vanilla"
    """Method that the others are compared with."""
    max_new_tokens: Count | None = None
    """Budget of committed tokens; none is the run's own."""
    template: str | None = None
    """Prompt template; none is the run's own."""
    label: str | None = None
    """Name of the evaluation on disk; none is TASK-SPLIT."""
    fresh: Annotated[bool, Field(exclude=True)] = False
    """Forget what is there under this label."""
    allow_leak: Annotated[bool, Field(exclude=True)] = False
    """Go on although evaluation problems were mined; marks the report."""


class CausalRequest(MeasurementRequest):
    """What is measured of a run's actions: ``stir causal``, :func:`stir_core.measure_causal`."""

    split: str = "validation"
    """Split whose problems give the states; validation leaves eval unseen."""
    n: Count = 24
    """Held-out problems that are decoded for their states."""
    states: Count | None = None
    """Most states; none takes all."""
    rolls: Count = 8
    """Continuations of an arm that is never dropped."""
    halving: bool = True
    """Drop the worse half of the candidates at each state after every round; without it there is no bias from dropping."""
    budget_tokens: Count | None = None
    """Stop once this many tokens were decoded in continuations."""
    strength: Annotated[float, Field(ge=0)] | None = None
    """The gate's k_scale; none is the run's own."""
    max_new_tokens: Count | None = None
    """Budget of an answer; none is the run's own."""
    fresh: Annotated[bool, Field(exclude=True)] = False
    """Forget what is there."""


class CriticalRequest(MeasurementRequest):
    """How a wrong answer is searched for the token that lost it: ``stir critical``."""

    of: Literal["vanilla", "steered"] = "steered"
    """Which of the two answers."""
    every: Count = 8
    """Tokens between two points."""
    rolls: Count = 8
    """Continuations from each point."""


ANSWERING = {
    "strength": "gate.k_scale",
    "persistence": "gate.persistence",
    "variant": "gate.variant",
    "candidates": "gate.candidates",
    "probe_tokens": "gate.probe_tokens",
    "max_new_tokens": "decode.max_new_tokens",
}
"""Settings of ``stir trace`` and ``stir whatif``, and the keys of the config that they stand for."""


def flags_of(request: MeasurementRequest) -> list[str]:
    """The flags that say what a request asks for beyond the defaults."""
    words: list[str] = []
    for name, field in type(request).model_fields.items():
        value, flag = getattr(request, name), f"--{name.replace('_', '-')}"
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{name}")
        else:
            words += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words
