"""One question's latents as the page shows them: the strip, tables of read-outs, replacements and runs; and trained reasoners compared."""

from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pandas as pd

from stir_core.errors import FAULTS, DataError, StirError, line_of
from stir_core.evaluate.statistics import wilson
from stir_core.findings import LatentReport
from stir_core.readings import Held, LatentChange, LatentReading
from stir_core.seeding import generator_for
from stir_core.store.latents import latent_facts, latent_report
from stir_core.tasks.modular import MODULAR, ModularSetting, asked_chain, draw_chains, modular_setting
from workbench.shared.intervals import with_interval
from workbench.shared.text import visible_token

FIRST = "7+3*5-2?"
"""The problem that is shown first; every setting has it."""


class ChosenReasoner(NamedTuple):
    """A trained reasoner that the page looks into."""

    name: str
    folder: Path
    facts: dict[str, Any]

    @property
    def setting(self) -> ModularSetting:
        """Its problems.

        Raises:
            DataError: it was trained on a file.
        """
        if "data" in self.facts:
            raise DataError(f"{self.name} was trained on {self.facts['setting']}, and only chains are shown here: choose another reasoner")
        return modular_setting(self.facts["setting"])


class StripLatent(TypedDict):
    """A latent in the strip."""

    slot: int
    label: str
    entropy: str
    stop: str


class StripStep(TypedDict):
    """A step in the strip: the truth, what is read, and its latents."""

    title: str
    truth: str
    read: str
    verdict: str
    wrong: bool
    coherence: str
    latents: list[StripLatent]


def drawn_problem(setting: ModularSetting, number: int) -> str:
    """The ``number``-th problem that the page draws, of those that no training has seen."""
    rng = generator_for(number, "latents page", setting.name)
    count = int(rng.choice(list(setting.counts)))
    return draw_chains(setting, "eval", count, 1, rng)[0].question


def question_of(text: str, setting: ModularSetting) -> str:
    """A problem as it is asked.

    Raises:
        DataError: the text is no problem of the setting.
    """
    return asked_chain(text, setting).question


def strip(reading: LatentReading) -> list[StripStep]:
    """The chain, step by step."""
    steps: list[StripStep] = []
    for number, step in enumerate(reading.steps, start=1):
        latents: list[StripLatent] = [
            {
                "slot": slot,
                "label": f"z{slot + 1}",
                "entropy": f"H {latent.layers[-1].entropy:.2f}",
                "stop": "" if latent.stop is None else f"stop {latent.stop:.1%}",
            }
            for slot, latent in enumerate(reading.latents)
            if latent.step == number
        ]
        marks = [("strict", step.strict), ("published", step.published)]
        steps.append(
            {
                "title": f"step {number}",
                "truth": step.truth or "no such step",
                "read": "not read" if step.text is None else step.text or "(empty)",
                "verdict": "" if step.right is None else "✓ right" if step.right else "✗ wrong",
                "wrong": step.right is False,
                "coherence": "" if step.strict is None else ", ".join(f"{name} {'✓' if held else '✗'}" for name, held in marks),
                "latents": latents,
            }
        )
    return steps


def answer_badges(reading: LatentReading) -> list[tuple[str, str]]:
    """Short statements on the answer, each with the colour of a badge."""
    said = f"answer {reading.answer or 'none'}"
    facts = [(f"✓ {said}" if reading.right else f"✗ {said}, truth {reading.truth}", "green" if reading.right else "red")]
    if reading.probability is not None:
        facts.append((f"probability {reading.probability:.3f}", "gray"))
    facts.append((f"{len(reading.latents)} latents" if reading.latents else "no latents: its steps are written", "gray"))
    if reading.stop_at_end is not None:
        facts.append((f"stopped by itself (probability {reading.stop_at_end:.3f})", "gray"))
    read = [step for step in reading.steps if step.strict is not None]
    if read:
        strict, published = sum(bool(step.strict) for step in read), sum(bool(step.published) for step in read)
        facts.append((f"coherent steps: strict {strict} of {len(read)}, published {published} of {len(read)}", "gray"))
    facts.append(
        ("a training may have seen this problem, or an equivalent order" if reading.split == "train" else "not seen in training", "gray")
    )
    return facts


def lens_rows(reading: LatentReading, slot: int) -> pd.DataFrame:
    """The logit lens at a latent, layer by layer."""
    rows = [
        (
            "as it is fed" if layer.layer == 0 else f"after block {layer.layer}",
            "  ".join(f"{visible_token(token.text)} ({token.value:.2f})" for token in layer.top),
            layer.entropy,
            layer.attention,
        )
        for layer in reading.latents[slot].layers
    ]
    return pd.DataFrame(rows, columns=["layer", "top", "entropy", "attention"])


def nearest_rows(reading: LatentReading, slot: int) -> pd.DataFrame:
    """Tokens whose embeddings point the way of a latent."""
    rows = [(visible_token(token.text), token.value) for token in reading.latents[slot].nearest]
    return pd.DataFrame(rows, columns=["token", "cosine"])


def size_line(reading: LatentReading, slot: int) -> str:
    """A latent's norm against the embeddings', and its deviation."""
    latent, (least, median, most) = reading.latents[slot], reading.embedding_norms
    drawn = "" if latent.deviation is None else f" Standard deviation of its Gaussian (root mean square) {latent.deviation:.3f}."
    return f"Norm {latent.norm:.2f}; tokens' embeddings {least:.2f} to {most:.2f}, median {median:.2f}.{drawn}"


def attention_rows(reading: LatentReading) -> pd.DataFrame:
    """Attention from the place that decides the answer's number to every latent, by block; empty if no number is stated."""
    rows = [
        (f"z{slot + 1}", str(layer.layer), layer.attention)
        for slot, latent in enumerate(reading.latents)
        for layer in latent.layers
        if layer.attention is not None
    ]
    return pd.DataFrame(rows, columns=["latent", "block", "attention"])


HOWS = {
    "zero": "zeros",
    "mean": "the mean over 64 problems",
    "swapped": "the other problem's",
    "dropped": "nothing (one step fewer)",
}
"""What takes the place of a step's latents, in words."""


HELD: dict[Held, str] = {"after": "value after", "before": "value before", "operation": "operation"}
"""What of the other problem the answer may follow, in words."""


def change_rows(reading: LatentReading, step: int) -> pd.DataFrame:
    """What the answer becomes when the latents of a step are replaced, and what each thing that they may hold implies."""
    rows = []
    for change in reading.changes:
        if change.step == step:
            implied = [_implied(change, held) for held in HELD]
            said = (HOWS[change.how], change.then, change.answer or "none", change_outcome(reading, change), change.probability)
            rows.append((*said, *implied))
    return pd.DataFrame(rows, columns=["in their place", "then", "answer", "outcome", "p own", *HELD])


def _implied(change: LatentChange, held: Held) -> str | None:
    """The answer that follows, with its probability now."""
    return f"{change.implied[held]} ({change.implied_probability[held]:.2f})" if held in change.implied else None


def change_outcome(reading: LatentReading, change: LatentChange) -> str:
    """What a replacement did to the answer, in words."""
    said = ["stays"] * (change.answer == reading.answer)
    said += [f"follows the {name}" for held, name in HELD.items() if change.answer == str(change.implied.get(held))]
    return "another" if not said else said[0] if len(said) == 1 else f"cannot tell: {' or '.join(said)}"


def line_rows(reading: LatentReading, slot: int) -> pd.DataFrame:
    """The answer and the decoded step on the way from a latent to the other problem's; neighbours that are alike are one row."""
    found = [each for each in reading.samples if each.latent == slot + 1 and each.how == "interpolation"]
    rows = []
    for (answer, step), each in groupby(found, key=lambda sample: (sample.answer, sample.step)):
        shares = [sample.amount for sample in each]
        way = f"{shares[0]:.0%}" if len(shares) == 1 else f"{shares[0]:.0%} to {shares[-1]:.0%}"
        rows.append((way, step or "not read", answer or "none", "stays" if answer == reading.answer else "another"))
    return pd.DataFrame(rows, columns=["way", "read", "answer", "outcome"])


def noise_rows(reading: LatentReading, slot: int) -> pd.DataFrame:
    """How many answers stay when a latent gets noise, and what is read most often."""
    rows = [
        (f"{each.amount:g} sd", with_interval(each.kept, ".0%"), each.draws, each.step or "not read", each.answer or "none")
        for each in reading.samples
        if each.latent == slot + 1 and each.how != "interpolation"
    ]
    return pd.DataFrame(rows, columns=["noise", "stay", "draws", "read", "answer"])


def noise_line(reading: LatentReading) -> str:
    """Which noise that is."""
    own = any(each.how == "its own noise" for each in reading.samples)
    whose = "of the latent's own Gaussian" if own else "that this latent has over 64 other problems (it is not drawn itself)"
    return f"Noise with the standard deviations {whose}; the most frequent reading and answer. The reasoner thinks on from there."


def probe_rows(report: LatentReport, after: int) -> pd.DataFrame:
    """How often a probe reads the value after so many steps, by latent and layer."""
    rows = [
        (f"z{each.latent}", "fed" if each.layer == 0 else str(each.layer), each.accuracy.value, f"{each.accuracy:.1%}", each.problems)
        for each in report.probes
        if each.after == after
    ]
    return pd.DataFrame(rows, columns=["latent", "block", "read", "95 %", "problems"])


def run_rows(reading: LatentReading) -> pd.DataFrame:
    """Runs with drawn latents, side by side."""
    rows = [
        (number, "✓" if run.right else "✗", run.answer or "none", run.latents, " ".join(run.steps))
        for number, run in enumerate(reading.runs or (), start=1)
    ]
    return pd.DataFrame(rows, columns=["run", "right", "answer", "latents", "steps"])


def vote_line(reading: LatentReading) -> str:
    """Coverage and vote of the runs."""
    runs = reading.runs or ()
    right = sum(run.right for run in runs)
    (vote, votes), *_ = Counter(run.answer for run in runs).most_common(1)
    verdict = "right" if vote == str(reading.truth) else "wrong"
    return f"{right} of {len(runs)} runs are right. The vote is {vote or 'none'} ({votes} of {len(runs)}), which is {verdict}."


class ReasonerTable(NamedTuple):
    """Trained reasoners with their evaluations, and one line for each that cannot be read."""

    table: pd.DataFrame
    broken: list[str]


def compared(reasoners: Mapping[str, Path]) -> ReasonerTable:
    """One row for each trained reasoner; figures are empty where no evaluation is kept beside it."""
    rows, broken = [], []
    counts: set[int] = set()
    for name, folder in reasoners.items():
        try:
            facts = latent_facts(folder)
            counts |= set() if "data" in facts else {*modular_setting(facts["setting"]).counts}
            report = latent_report(folder)
            figures = _figures(report) if report else {"right": "not evaluated"}
        except FAULTS as error:
            broken.append(line_of(error))
            continue
        rows.append({"name": name, **figures, **{key: facts[key] for key in ("strategy", "stage", "setting", "seed")}})
    by_count = [by_operations(count) for count in sorted(counts)]
    columns = ["name", "right", *by_count, "n", *CONTROLS, "decoded", "strict", "stops", "latents", "passes"]
    return ReasonerTable(pd.DataFrame(rows, columns=[*columns, "strategy", "stage", "setting", "seed"]), broken)


CONTROLS = ("zero", "shuffled", "sampled")
"""Conditions beside its own latents."""


def by_operations(count: int) -> str:
    """The column with the accuracy on problems of so many operations."""
    return f"{count} operations"


def _figures(report: LatentReport) -> dict[str, Any]:
    rows = {row.how: row for row in report.rows}
    own = rows.get("own")
    if own is None:
        raise StirError(f"the evaluation of {report.strategy} lacks its own answers")
    each, chains = own.problems // len(own.by_count), report.setting in MODULAR  # as many problems of each number of operations
    estimates = {by_operations(count): wilson(round(share * each), each) for count, share in own.by_count.items() if chains}
    estimates |= {"right": own.accuracy, **{how: rows[how].accuracy for how in CONTROLS if how in rows}}
    estimates |= {"decoded": report.decoded_results, "stops": report.exact_stop}
    said = {key: with_interval(value, ".1%") for key, value in estimates.items() if value is not None and np.isfinite(value.value)}
    if report.strict_coherence is not None and np.isfinite(report.strict_coherence.value):
        said["strict"] = with_interval(report.strict_coherence, ".2f")
    return {**said, "n": own.problems, "latents": own.latents, "passes": own.passes}
