"""The Export page's data: what leaves and what to beware of, certificates, and how a target is served."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from stir_core.deploy.bundle.manifest import FileFact
from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.certify.certificate import Certificate
from stir_core.deploy.targets.gguf import MEAN, mean_scale
from stir_core.errors import StoreError
from stir_core.stages.stage import check_fresh
from stir_core.store.curation import Curation
from workbench.shared import confounds
from workbench.shared.facts import RunFacts

ALL, STARRED, TAG, IDS = "all", "starred", "tag:", "ids:"
"""How a choice of actions is written in an address; but for ``all``, also how ``stir export --only`` takes it."""
MOST_TICKED = 200
"""An address holds no more ids than that with comfort; tags hold any number."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}")
_FLAGGED = {confounds.MOSTLY_LENGTH: "mostly length", confounds.LABELS_DO_NOT_MATTER: "as long an action with shuffled labels"}


class Caution(NamedTuple):
    """One thing to know before a library leaves."""

    grave: bool
    """It may make the export useless or misleading, rather than being good to know."""
    text: str


def choices(curation: Curation, ticked: str | None, known: Sequence[str]) -> dict[str, str]:
    """Choices of actions with their words. ``ticked`` is one of single ids, offered where all of them are known."""
    standing = curation.state
    found = {ALL: "All actions", STARRED: f"Starred only ({len(standing.starred())})"}
    found |= {f"{TAG}{tag}": f"Tag {tag} ({len(standing.tagged(tag))})" for tag in standing.tags()}
    if ticked and (ids := ids_of(ticked)) and set(ids) <= set(known):
        found[ticked] = f"Ticked rows ({len(ids)})"
    return found


def ids_of(choice: str) -> tuple[str, ...]:
    """The single ids that a choice names; none where it names a star or a tag."""
    return tuple(choice.removeprefix(IDS).split(",")) if choice.startswith(IDS) and choice != IDS else ()


def choice_of(ids: Sequence[str]) -> str:
    """The choice of these rows; no row is all of them."""
    return IDS + ",".join(ids) if ids else ALL


def cautions(bundle: Bundle, facts: RunFacts, curation: Curation) -> list[Caution]:
    """Everything to know about this library before it leaves, the grave first. What single targets lose is not in it."""
    found = [*_stale(facts), *(Caution(True, _sentence(note)) for note in bundle.manifest.notes), *_measured(bundle)]
    found += [*_causal(bundle, facts), *_controls(bundle, facts), *_judged(bundle, curation)]
    return sorted(found, key=lambda caution: not caution.grave)


def _stale(facts: RunFacts) -> list[Caution]:
    found = []
    for stage in ("actions", "basis"):
        if facts.run.finished(stage):
            try:
                check_fresh(facts.run, stage)
            except StoreError as error:
                found.append(Caution(True, _sentence(str(error))))
    return found


def _measured(bundle: Bundle) -> list[Caution]:
    summary = bundle.evaluation
    if not summary.evaluated:
        return [Caution(True, f"No measured effect: {summary.reason}.")]
    own = [each.label for each in summary.evaluations if each.same_library]
    if own:
        return []
    named = ", ".join(each.label for each in summary.evaluations)
    return [Caution(True, f"The effect of this very library was not measured: {named} evaluated another library of the run.")]


def _causal(bundle: Bundle, facts: RunFacts) -> list[Caution]:
    ids = [entry.id for entry in bundle.entries if entry.kind == "corrective"]
    measured = facts.advantages
    if not measured:
        return [Caution(False, "No causal study measured what single actions do.")]
    by = {word: [id_ for id_ in ids if id_ in measured and measured[id_].verdict == word] for word in ("harms", "no effect seen")}
    found = []
    if harms := by["harms"]:
        found.append(Caution(True, f"{_count(harms)} measured to harm: {_named(harms)}."))
    if nothing := by["no effect seen"]:
        found.append(Caution(True, f"{_count(nothing)} measured without an effect that can be told from 0: {_named(nothing)}."))
    if untried := [id_ for id_ in ids if id_ not in measured]:
        found.append(Caution(False, f"{_count(untried)} not tried in the causal study."))
    return found


def _controls(bundle: Bundle, facts: RunFacts) -> list[Caution]:
    mined = {origin.entry_id: origin.members or (origin.entry_id,) for origin in bundle.origins}
    ids = [entry.id for entry in bundle.entries if entry.kind == "corrective"]
    if not facts.controls:
        return [Caution(False, "This run was made before controls were measured: length and chance are not excluded for any action.")]
    found = []
    for flag, words in _FLAGGED.items():
        hit = [id_ for id_ in ids if any(flag in confounds.flags(facts.controls[m]) for m in mined[id_] if m in facts.controls)]
        if hit:
            found.append(Caution(True, f"{_count(hit)} flagged by the controls, {words}: {_named(hit)}."))
    unknown = [id_ for id_ in ids if all(confounds.verdict(facts.controls.get(m)) == "cannot tell" for m in mined[id_])]
    if unknown:
        found.append(Caution(False, f"{_count(unknown)} with too few rollouts for the controls to tell anything."))
    return found


def _judged(bundle: Bundle, curation: Curation) -> list[Caution]:
    found = []
    origin, standing = bundle.manifest.provenance, curation.state
    if curation.strangers:
        found.append(Caution(True, f"{len(curation.strangers)} edits were made on other entries than the run has now and do not apply."))
    if origin.library == "curated" and not len(curation):
        found.append(Caution(False, "Nothing is curated in this run yet: its curated library is the control basis as selection left it."))
    if origin.library != "curated" and len(curation):
        found.append(
            Caution(True, f"{len(curation)} edits of the Curate page are not in it: the {origin.library} library is as it was made.")
        )
    if len(curation) and not standing.starred():
        found.append(Caution(False, "Nothing is starred."))
    if deaf := [entry.id for entry in bundle.entries if not entry.reachable]:
        found.append(Caution(False, f"{_count(deaf, 'entry', 'entries')} at the last control point, which retrieval never asks for."))
    return found


def _count(ids: Sequence[str], one: str = "action", many: str = "actions") -> str:
    return f"{len(ids)} {one if len(ids) == 1 else many}"


def _named(ids: Sequence[str], most: int = 6) -> str:
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def actions_leaving(actions: pd.DataFrame, library: Bundle, leaving: Bundle) -> pd.DataFrame:
    """The actions of a library with a column ``leaves``: whether they are among those that go out.

    Args:
        actions: entries with what was judged of them (see ``curation_table``).
    """
    rank = {entry.id: i for i, entry in enumerate(library.entries) if entry.kind == "corrective"}
    out = {entry.id for entry in leaving.entries}
    table = actions.drop(columns=["kind", "library"]).set_index("entry").loc[list(rank)].reset_index()
    table = table.drop(columns=[name for name in ("star", "tags", "name", "note") if not table[name].astype(bool).any()])
    table.insert(1, "leaves", table["entry"].isin(list(out)))
    return table


def file_table(files: Mapping[str, FileFact]) -> pd.DataFrame:
    """Every file with its size in bytes and its hash."""
    return pd.DataFrame([(name, fact.size, fact.sha256) for name, fact in sorted(files.items())], columns=["file", "bytes", "sha256"])


def default_name(run: str, library: str, only: str | None) -> str:
    """A folder's name for the choice, of plain characters."""
    part = {None: "", STARRED: "-starred"}.get(only, "")
    if only is not None and only.startswith(TAG):
        part = f"-{only.removeprefix(TAG)}"
    elif only is not None and only.startswith(IDS):
        part = "-picked"
    name = re.sub(r"-*[^A-Za-z0-9_-]+-*", "-", f"{run}-{library}{part}").strip("-")
    return name[:60]


def refused_name(name: str) -> str | None:
    """Why a folder cannot have this name; ``None`` where it can. A page takes no paths."""
    if _NAME.fullmatch(name):
        return None
    return f"{name[:80]!r} is no name for a folder: 1 to 60 letters, digits, dots, dashes and underscores, not beginning with a dot or dash"


def certificate_table(certificates: Iterable[tuple[Certificate, float]]) -> pd.DataFrame:
    """One row a certificate; each comes with when its file was written (seconds since 1970). What was not compared is empty."""
    return pd.DataFrame([_row(each, when) for each, when in certificates], columns=list(COLUMNS))


COLUMNS = (
    *("target", "passed", "written", "prompts", "same", "decisions", "injected"),
    *("logits", "logprob", "score", "cosine", "correlation", "against"),
)


def _row(found: Certificate, when: float) -> tuple[object, ...]:
    worst = found.worst
    return (
        found.target,
        found.passed,
        datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M"),
        len(found.prompts),
        sum(prompt.same for prompt in found.prompts),
        sum(len(prompt.decisions) for prompt in found.prompts),
        found.injected,
        worst.logits,
        worst.logprob,
        worst.score,
        worst.cosine,
        min((vector.correlation for vector in found.vectors), default=None),
        found.reference,
    )


QUESTION = "A farmer has 12 cows and sells 5. How many are left?"


class Snippet(NamedTuple):
    """Something to copy."""

    title: str
    text: str
    language: str = "bash"


def snippets(target: str, bundle: Bundle, folder: Path) -> list[Snippet]:
    """What a target's user types, for the export at ``folder``; nothing is known of a target that was added."""
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
        Snippet("Ask the server; messages go as they are, without the task's template", client, "python"),
        Snippet("Or steer in your own process; a question goes into the task's template", runtime, "python"),
        Snippet("Upload it (HF_TOKEN; private unless you add --public)", f"stir push {where} NAME/REPO"),
    ]


def _published(bundle: Bundle, folder: Path) -> list[Snippet]:
    where = shlex.quote(str(folder))
    back = f"stir import {where}\nstir import {where} --like RUN --out BUNDLE"
    return [
        Snippet("The controller reads paths relative to the folder: run it from inside", f"cd {where} && head -n 1 memory/entries.jsonl"),
        Snippet("And back: check it, or make a bundle of it on your word that the model is that of RUN", back),
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
        Snippet("Send a spec with a request: mean.json acts at every token, an action-*.json at the prompt's last", client, "python"),
    ]


def _gguf(bundle: Bundle, folder: Path) -> list[Snippet]:
    file = shlex.quote(str(folder / MEAN))
    nominal = mean_scale(bundle)
    line = f"llama-cli -m MODEL.gguf --control-vector-scaled {file} {nominal / 4:.2g} -p {shlex.quote(QUESTION)}"
    return [
        Snippet(f"The mean of the actions, at every token; begin low: the gate's own strength is {nominal:.2g}, for one token a step", line)
    ]
