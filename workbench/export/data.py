"""The Export page's data: choice of actions, cautions, file names, certificates, and the code that uses an export."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from stir_core.deploy.bundle.manifest import FileFact
from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.certify.certificate import Certificate
from stir_core.deploy.targets.gguf import MEAN, mean_scale
from stir_core.errors import StoreError
from stir_core.evaluate import confounds
from stir_core.findings import Advantage
from stir_core.records import Entry
from stir_core.stages.stage import check_fresh
from stir_core.store.causal import CausalFolder
from stir_core.store.curation import Curation
from workbench.shared.facts import RunFacts

ALL, STARRED, TAG, IDS = "all", "starred", "tag:", "ids:"
"""How a choice of actions is written in the address and, except for ``all``, in ``stir export --only``."""
MOST_TICKED = 200
"""Maximum number of ids in an address, which would get too long with more; a tag holds any number."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}")
_FLAGGED = {confounds.MOSTLY_LENGTH: "mostly length", confounds.LABELS_DO_NOT_MATTER: "as long an action with shuffled labels"}


class Caution(NamedTuple):
    """One thing to know before a library is exported."""

    grave: bool
    """The export may be useless or misleading; otherwise this is only good to know."""
    text: str


def choices(curation: Curation, ticked: str | None, known: Sequence[str]) -> dict[str, str]:
    """Labels of the choices of actions. ``ticked``, a choice of single ids, is offered if all of them are ``known``."""
    state = curation.state
    labels = {ALL: "All actions", STARRED: f"Starred only ({len(state.starred())})"}
    labels |= {f"{TAG}{tag}": f"Tag {tag} ({len(state.tagged(tag))})" for tag in state.tags()}
    if ticked and (ids := ids_of(ticked)) and set(ids) <= set(known):
        labels[ticked] = f"Ticked rows ({len(ids)})"
    return labels


def ids_of(choice: str) -> tuple[str, ...]:
    """The ids that a choice lists; empty for all, starred or a tag."""
    return tuple(choice.removeprefix(IDS).split(",")) if choice.startswith(IDS) and choice != IDS else ()


def choice_of(ids: Sequence[str]) -> str:
    """The choice of these ids; no id means all actions."""
    return IDS + ",".join(ids) if ids else ALL


def cautions(bundle: Bundle, facts: RunFacts, curation: Curation) -> list[Caution]:
    """Everything to know about this library before it is exported, grave cautions first; the losses of single targets are not included."""
    every = [*_stale(facts), *(Caution(True, _sentence(note)) for note in bundle.manifest.notes), *_measured(bundle)]
    every += [*_causal(bundle, facts), *_controls(bundle, facts), *_judged(bundle, curation)]
    return sorted(every, key=lambda caution: not caution.grave)


def _stale(facts: RunFacts) -> Iterator[Caution]:
    for stage in ("actions", "basis"):
        if facts.run.finished(stage):
            try:
                check_fresh(facts.run, stage)
            except StoreError as error:
                yield Caution(True, _sentence(str(error)))


def _measured(bundle: Bundle) -> Iterator[Caution]:
    summary = bundle.evaluation
    if not summary.evaluated:
        yield Caution(True, f"No measured effect: {summary.reason}.")
    elif not any(each.same_library for each in summary.evaluations):
        named = ", ".join(each.label for each in summary.evaluations)
        yield Caution(True, f"The effect of this very library was not measured: {named} evaluated another library of the run.")


def _causal(bundle: Bundle, facts: RunFacts) -> Iterator[Caution]:
    ids = [entry.id for entry in bundle.entries if entry.kind == "corrective"]
    measured = _advantages(bundle, facts)
    if not measured:
        yield Caution(False, "No causal study measured the effect of single actions.")
        return
    texts = {
        "harms": "measured to harm",
        "no effect seen": "measured without an effect distinguishable from 0",
        "cannot tell": "tried on too few problems to tell an effect",
    }
    for verdict, text in texts.items():
        if hit := [id_ for id_ in ids if id_ in measured and measured[id_].verdict == verdict]:
            yield Caution(True, f"{_count(hit)} {text}: {_named(hit)}.")
    if untried := [id_ for id_ in ids if id_ not in measured]:
        yield Caution(False, f"{_count(untried)} not tried in the causal study.")


def _advantages(bundle: Bundle, facts: RunFacts) -> Mapping[str, Advantage]:
    """Of the actions of this library: codes have a study of their own, which holds for the codebook that it was made with."""
    if bundle.manifest.provenance.library != "codes":
        return facts.advantages
    folder = CausalFolder(facts.run, "codes")
    if not folder.reported or (study := folder.report()).spec.basis != facts.run.digest("codes"):
        return {}
    return {each.entry_id: each for each in study.actions}


def _controls(bundle: Bundle, facts: RunFacts) -> Iterator[Caution]:
    mined = {origin.entry_id: origin.members or (origin.entry_id,) for origin in bundle.origins}
    ids = [entry.id for entry in bundle.entries if entry.kind == "corrective"]
    if not facts.controls:
        yield Caution(False, "This run was made before controls were measured: length and chance are not excluded for any action.")
        return
    for flag, text in _FLAGGED.items():
        hit = [id_ for id_ in ids if any(flag in confounds.flags(facts.controls[m]) for m in mined[id_] if m in facts.controls)]
        if hit:
            yield Caution(True, f"{_count(hit)} flagged by the controls, {text}: {_named(hit)}.")
    if unknown := [id_ for id_ in ids if all(confounds.verdict(facts.controls.get(m)) == "cannot tell" for m in mined[id_])]:
        yield Caution(False, f"{_count(unknown)} that the controls neither flag nor clear.")


def _judged(bundle: Bundle, curation: Curation) -> Iterator[Caution]:
    library = bundle.manifest.provenance.library
    if curation.strangers:
        yield Caution(True, f"{len(curation.strangers)} edits were made on other entries than the run has now and do not apply.")
    if library == "curated" and not len(curation):
        yield Caution(False, "Nothing is curated in this run yet: its curated library is the control basis as selection left it.")
    if library != "curated" and len(curation):
        yield Caution(True, f"{len(curation)} edits of the Curate page are not in it: the {library} library is as it was made.")
    if len(curation) and not curation.state.starred():
        yield Caution(False, "Nothing is starred.")
    if unreachable := [entry.id for entry in bundle.entries if not entry.reachable]:
        yield Caution(False, f"{_count(unreachable, 'entry', 'entries')} at the last control point, where nothing is ever retrieved.")


def _count(ids: Sequence[str], one: str = "action", many: str = "actions") -> str:
    return f"{len(ids)} {one if len(ids) == 1 else many}"


def _named(ids: Sequence[str], most: int = 6) -> str:
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def exported_actions(actions: pd.DataFrame, own: Sequence[Entry], bundle: Bundle) -> pd.DataFrame:
    """Actions of a library, with a column ``exported``: whether they are exported.

    Args:
        actions: entries with their judgements (see ``curation_table``).
        own: the actions to show.
    """
    facts = pd.DataFrame(
        [(e.id, e.m, e.layer, e.quality, e.problem_id) for e in own], columns=["entry", "m", "layer", "quality", "problem"]
    )
    # entries made of codes are in no table of mined ones
    table = (
        actions.drop(columns=["kind", "library"]).set_index("entry").reindex(facts["entry"]).fillna(facts.set_index("entry")).reset_index()
    )
    table = table.drop(columns=[name for name in ("star", "tags", "name", "note") if not any(map(bool, table[name].dropna()))])
    table.insert(1, "exported", table["entry"].isin([entry.id for entry in bundle.entries]))
    return table


def file_table(files: Mapping[str, FileFact]) -> pd.DataFrame:
    """One row per file: name, size in bytes, SHA-256."""
    return pd.DataFrame([(name, fact.size, fact.sha256) for name, fact in sorted(files.items())], columns=["file", "bytes", "sha256"])


def default_name(run: str, library: str, only: str | None) -> str:
    """A folder name for the choice, of plain characters and at most 60."""
    part = f"-{only.removeprefix(TAG)}" if only else ""
    if ids_of(only or ""):
        part = "-picked"
    name = re.sub(r"-*[^A-Za-z0-9_-]+-*", "-", f"{run}-{library}{part}").strip("-")
    return name[:60]


def refused_name(name: str) -> str | None:
    """Why a folder name is refused, in one line; ``None`` if it is accepted. A page takes no paths."""
    if _NAME.fullmatch(name):
        return None
    return (
        f"{name[:80]!r} is not a folder name: take 1 to 60 letters, digits, dots, dashes and underscores, not beginning with a dot or dash"
    )


def certificate_table(certificates: Iterable[tuple[Certificate, float]]) -> pd.DataFrame:
    """One row per certificate; each comes with the time at which its file was written (seconds since 1970). Empty: was not compared."""
    return pd.DataFrame(
        {
            "target": certificate.target,
            "passed": certificate.passed,
            "written": datetime.fromtimestamp(written, UTC).strftime("%Y-%m-%d %H:%M"),
            "prompts": len(certificate.prompts),
            "same": sum(prompt.same for prompt in certificate.prompts),
            "decisions": sum(len(prompt.decisions) for prompt in certificate.prompts),
            "injected": certificate.injected,
            **{name: getattr(certificate.worst, name) for name in DIFFERENCES},
            "correlation": min((vector.correlation for vector in certificate.vectors), default=None),
            "against": certificate.reference,
        }
        for certificate, written in certificates
    )


DIFFERENCES = ("logits", "logprob", "score", "cosine")
"""Numbers of which a certificate keeps the largest difference."""

QUESTION = "A farmer has 12 cows and sells 5. How many are left?"


class Snippet(NamedTuple):
    """Code to copy."""

    title: str
    text: str
    language: str = "bash"


def snippets(target: str, bundle: Bundle, folder: Path) -> list[Snippet]:
    """Commands and code that use the export at ``folder``; empty for a target that was registered by a plugin."""
    known = {"bundle": _bundle, "published": _published, "easysteer": _easysteer, "gguf": _gguf}
    return known[target](bundle, folder) if target in known else []


def _bundle(bundle: Bundle, folder: Path) -> list[Snippet]:
    name, where = folder.name, shlex.quote(str(folder))
    client = f"""from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")  # or the server's STIR_API_KEY
reply = client.chat.completions.create(
    model={json.dumps(name)},
    messages=[{{"role": "user", "content": {json.dumps(QUESTION)}}}],
    extra_body={{"stir": {{"strength": 1.0, "decisions": True}}}},
)
print(reply.choices[0].message.content)"""
    runtime = f"""from stir_core import SteeredModel

steered = SteeredModel.load({json.dumps(str(folder))})
(answer,) = steered.generate({json.dumps(QUESTION)}, max_new_tokens={min(256, bundle.manifest.stage3.decode.max_new_tokens)})
print(answer.text, [decision.chosen for decision in answer.decisions])"""
    return [
        Snippet("Check it, then serve it at an OpenAI-compatible address", f"stir import {where}\nstir serve {where}"),
        Snippet("Ask the server; messages are sent as they are, without the task's template", client, "python"),
        Snippet("Or steer in your own process; the question is put into the task's template", runtime, "python"),
        Snippet("Upload it (HF_TOKEN; private unless you add --public)", f"stir push {where} NAME/REPO"),
    ]


def _published(bundle: Bundle, folder: Path) -> list[Snippet]:
    where = shlex.quote(str(folder))
    back = f"stir import {where}\nstir import {where} --like RUN --out BUNDLE"
    return [
        Snippet("The controller reads relative paths: run it inside the folder", f"cd {where} && head -n 1 memory/entries.jsonl"),
        Snippet("Import it again: check it, or make a bundle of it (you vouch that its model is that of RUN)", back),
    ]


def _easysteer(bundle: Bundle, folder: Path) -> list[Snippet]:
    base = bundle.manifest.base_model or "MODEL"
    client = f"""import json
from pathlib import Path

from openai import OpenAI

spec = json.loads(Path({json.dumps(str(folder / "mean.json"))}).read_text())
client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
reply = client.chat.completions.create(
    model={json.dumps(base)},
    messages=[{{"role": "user", "content": {json.dumps(QUESTION)}}}],
    extra_body={{"steering": spec}},
)
print(reply.choices[0].message.content)"""
    return [
        Snippet("Serve the model", f"vllm serve {shlex.quote(base)} --enable-steer-vector --steer-algorithms direct"),
        Snippet("Send a spec with a request: mean.json acts at every token, action-*.json at the prompt's last token", client, "python"),
    ]


def _gguf(bundle: Bundle, folder: Path) -> list[Snippet]:
    file = shlex.quote(str(folder / MEAN))
    nominal = mean_scale(bundle)
    line = f"llama-cli -m MODEL.gguf --control-vector-scaled {file} {nominal / 4:.2g} -p {shlex.quote(QUESTION)}"
    return [Snippet(f"Mean of the actions at every token; start low: the gate injects {nominal:.2g}, at one token per step", line)]
