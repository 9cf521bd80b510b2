"""Commands that make or reproduce the content of a page. No other module of the workbench writes command lines."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stir_core.commands.report import SECTIONS
from stir_core.config import digest_of
from stir_core.findings import CodebookReport
from stir_core.requests import ANSWERING, DENY, KEEP, CausalStudyName, Change, EvaluationRequest, flags_of
from stir_core.store.runs import Run

LONG = 160
"""Characters of the longest prompt that a command on a page holds."""
PROMPT_FILE = "@prompt.txt"
"""What stands for a longer one that is not saved: the user puts it into this file."""
FIRST_RUN = "stir run configs/demo.toml --out runs/demo"
"""The first command for an empty store."""


def name_of(run: Run) -> str:
    """How a command names this run: an embedded one by its name, any other by its folder."""
    return run.name if run.embedded else str(run.path)


def _stir(command: str, *words: str, **flags: str | int | None) -> str:
    """``stir COMMAND WORDS`` and ``--flag value`` for each flag that is set; ``True`` is a flag without a value."""
    line = ["stir", command, *words]
    for name, value in flags.items():
        if value:
            line += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return shlex.join(line)


def run_command(run: Run, until: str | None = None) -> str:
    """Makes (or resumes) the run, up to a stage."""
    made_by = run.facts.get("command")
    if isinstance(made_by, str) and until is None:
        return made_by
    return _stir("run", str(run.facts.get("config_file") or "CONFIG.toml"), out=str(run.path), until=until)


def reselect_command(run: Run, changed: Mapping[str, object]) -> str:
    """Copies the run and makes the copy's basis again under other ``basis`` settings; the original is left as it is."""
    words = iter(shlex.split(run_command(run)))
    kept: list[str] = []
    for word in words:
        if word in ("--out", "--redo", "--until"):
            next(words)  # its value
        else:
            kept.append(word)
    copy = f"runs/{run.name}-{digest_of(dict(changed))[:6]}"
    sets = [word for key, value in changed.items() for word in ("--set", f"basis.{key}={value}")]
    again = [*kept, "--out", copy, *sets, "--redo", "basis", "--until", "basis"]
    return f"{shlex.join(['cp', '-r', str(run.path), copy])} && {shlex.join(again)}"


def calibrate_command(root: Path, *, quick: bool) -> str:
    """Judges the instruments on the embedded organisms; the result lies below the folder of runs."""
    return _stir("calibrate", quick=quick, out=None if root == Path("runs").resolve() else str(root / "calibration"))


def latent_train_command(root: Path) -> str:
    """Trains the reasoners of the Latents page, each from the one before."""
    cot, sim_cot, atp = (str(root / "latent" / name) for name in ("cot", "sim_cot", "atp"))
    trainings = [("cot", None, cot), ("sim_cot", cot, sim_cot), ("atp", sim_cot, atp)]
    return " && ".join(_stir("latent", "train", name, start=start, out=out) for name, start, out in trainings)


def latent_eval_command(folder: Path) -> str:
    """Evaluates a trained reasoner and keeps the report beside it."""
    return f"{_stir('latent', 'eval', str(folder), probes=True, json=True)} > {shlex.quote(str(folder / 'evaluation.json'))}"


def codebook_command(run: Run, made: CodebookReport | None = None) -> str:
    """Makes a codebook of the run's steps, or makes the present one again; an embedded run, never written to, is copied first."""
    kept = {} if made is None else {"kind": made.kind, "size": made.size, "encoder": made.encoder, "redo": True}
    folder = str(Path("runs") / f"{run.name}-codes") if run.embedded else str(run.path)
    copy = f"{shlex.join(['cp', '-r', str(run.path), folder])} && " if run.embedded else ""
    return copy + _stir("codebook", folder, **kept)


def eval_command(run: Run) -> str:
    """Compares the run's actions with vanilla, with one fixed vector and with noise."""
    return _eval(run, methods=("vanilla", "stir", "static", "noise"))


def gate_command(run: Run, changed: Mapping[str, object], n: int) -> str:
    """Decodes the run's held-out problems with other gate settings, beside its own and vanilla."""
    values = ",".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in changed.items())
    return _eval(run, methods=("vanilla", "stir", f"stir:{values}"), n=n, label="gates")


def redecide_python(run: Run, changed: Mapping[str, object]) -> str:
    """Python that decides the run's recorded answers again without a model, with the changed settings of the gate."""
    settings = "".join(f", {key}={value!r}" for key, value in changed.items())
    return f"""\
import stir_core as stir
from stir_core.config import with_changes
from stir_core.intervene.replay import redecide

run = stir.open_run({name_of(run)!r})
own = run.config.gate
gate = with_changes(own{settings})
for trace in run.traces("steered"):
    for step, again in zip(trace.steps, redecide(trace, own, gate, seed=run.config.seed, policies=run.policies())):
        now = again.decision.reason if again.decision else f"needs the model: {{again.missing}}"
        print(trace.id, step.m, step.decision.chosen, "->", again.decision and again.decision.chosen, now)"""


def entries_python(run: Run, *, nulls: bool, points: Sequence[int], basis: bool, controls: Sequence[str]) -> str:
    """Python that prints the entries of a filtered table of actions, those that the gate committed most often first."""
    tests = [] if nulls else ['entry.kind == "corrective"']
    tests += [f"entry.m in {sorted(points)}"] if points else []
    tests += ["entry.id in basis"] if basis else []
    tests += [f"entry.id in controls and verdict(controls[entry.id]) in {list(controls)}"] if controls else []
    lines = ["from collections import Counter", "import stir_core as stir"]
    lines += ["from stir_core.evaluate.confounds import verdict"] if controls else []
    lines += ["", f"run = stir.open_run({name_of(run)!r})"]
    lines += ["basis = {pick.entry_id for pick in run.picks()}"] if basis else []
    lines += ["controls = run.controls()"] if controls else []
    steered = 'run.traces("steered")' if run.finished("steered") else "[]"
    lines += [f"commits = Counter(step.decision.chosen for trace in {steered} for step in trace.steps)"]
    kept = "run.entries()" if not tests else f"[entry for entry in run.entries() if {' and '.join(tests)}]"
    lines += [
        f"for entry in sorted({kept}, key=lambda entry: -commits[entry.id]):",
        "    print(entry.id, commits[entry.id], entry.m, entry.quality)",
    ]
    return "\n".join(lines)


def answers_python(runs: Sequence[Run], source: str, problem_id: str) -> str:
    """Python that prints these runs' answers to one problem; ``source``: ``steered``, ``vanilla`` or ``LABEL: METHOD``."""
    label, _, method = source.partition(": ")
    one = f"run.traces({source!r})" if not method else f"EvaluationFolder(run, {label!r}).answers({method!r})"
    imports = "" if not method else "from stir_core.store.evaluations import EvaluationFolder\n"
    return f"""\
import stir_core as stir
{imports}
for name in {[name_of(run) for run in runs]!r}:
    run = stir.open_run(name)
    answer = next(each for each in {one} if each.{"problem_id" if method else "id"} == {problem_id!r})
    print(name, answer.verdict and answer.verdict.correct, answer.text, sep="\\n")"""


def causal_command(run: Run, study: CausalStudyName = "gate") -> str:
    """Measures the run's actions one by one, or whether a problem's own action can help."""
    return _stir("causal", name_of(run), study=None if study == "gate" else study)


def policy_command(run: Run) -> str:
    """Learns gates from drawn decisions; their answers hold what the gates see."""
    return _stir("policy", name_of(run))


def probe_command(run: Run) -> str:
    """Reads the recorded states out, to see whether they tell right from wrong."""
    return _stir("probe", name_of(run))


def show_command(
    run: Run, entry_id: str, *, jacobian: bool = False, dictionary: str | None = None, others: Sequence[Run] | None = None
) -> str:
    """Prints what one action means."""
    names = ["--others", *map(name_of, others)] if others else []
    return _stir("show", name_of(run), entry_id, *names, dictionary=dictionary, jacobian=jacobian)


def impulse_command(run: Run, entry_id: str, at: str, alpha: float) -> str:
    """Measures what one action does at one control point."""
    return _stir("impulse", name_of(run), entry_id, at=at, alpha=f"{alpha:.10g}")


def critical_command(
    run: Run, problem_id: str, of: str, *, every: int | None = None, rolls: int | None = None, at: str | None = None
) -> str:
    """Measures where a wrong held-out answer was lost, or with ``at="steps"`` what each step decided."""
    return _stir("critical", name_of(run), problem_id, of=of, at=at, every=every, rolls=rolls)


def report_command(run: Run, *, only: Sequence[str], actions: Sequence[str] = (), saved: Sequence[str] = ()) -> str:
    """Writes figures and numbers of the run as one HTML file, with these sections, and the actions and pieces of saved work in them."""
    chosen = {"--only": () if set(only) == set(SECTIONS) else only}
    chosen |= {"--action": actions if "actions" in only else (), "--saved": saved if "saved" in only else ()}
    words = [word for flag, values in chosen.items() if values for word in (flag, *values)]
    return _stir("report", name_of(run), *words)


def curate_command(run: Run, *words: str) -> str:
    """Edits or prints the judgements on the run's library."""
    return _stir("curate", name_of(run), *words)


def export_command(run: Run, target: str, folder: Path, library: str, only: str | None) -> str:
    """Writes the run's library for a target."""
    return _stir("export", name_of(run), to=target, out=str(folder), library=None if library == "curated" else library, only=only)


def certify_command(folder: Path, target: str, like: Run | None) -> str:
    """Sends the same prompts through the workbench and a target, and puts the certificate into the bundle.

    Args:
        like: the run, where the bundle holds exactly its basis; the target is then compared with the run's own library.
    """
    return _stir("certify", str(folder), target=target, run=name_of(like) if like else None)


def compare_command(run: Run, version: str, other: Run, other_version: str, at_least: float, *, by: str, assign: bool) -> str:
    """Lists the entries that two libraries share."""
    library, other_library = (None if name == "basis" else name for name in (version, other_version))
    flags = {"library": library, "other_library": other_library, "by": None if by == "actions" else by, "assign": assign}
    return _stir("compare", name_of(run), name_of(other), **flags, min_cosine=f"{at_least:g}")


def curated_eval_command(run: Run) -> str:
    """Compares the curated library with the control basis; under a label of its own, since an edited library needs a new one."""
    return _eval(run, methods=("vanilla", "stir", "stir:library=curated"), label="curated")


def _eval(run: Run, **settings: Any) -> str:
    return _stir("eval", name_of(run), *flags_of(EvaluationRequest(**settings)))


def trace_command(
    run: Run, prompt: str, *, raw: bool = False, changed: Mapping[str, object] | None = None, instead: str | None = None
) -> str:
    """Reproduces a comparison: the prompt (or a held-out problem's id), and every setting that differs from the run's own.

    Args:
        instead: what stands for a prompt of more than :data:`LONG` characters or three lines: ``@FILE``, or the id of saved work.
    """
    return _stir("trace", name_of(run), _prompt(prompt, instead), raw=raw, **_answering(changed))


def _prompt(prompt: str, instead: str | None) -> str:
    short = len(prompt) <= LONG and prompt.count("\n") < 3
    return prompt if short or instead is None else instead


def _answering(changed: Mapping[str, object] | None) -> dict[str, str]:
    """Changed settings (keys of the config) as flags."""
    names = {key: name for name, key in ANSWERING.items()}
    return {names[key]: str(value) for key, value in (changed or {}).items()}


def whatif_command(
    run: Run,
    prompt: str,
    changes: Sequence[Change],
    *,
    raw: bool = False,
    changed: Mapping[str, object] | None = None,
    of: str = "steered",
    rolls: int | None = None,
    instead: str | None = None,
) -> str:
    """Takes a recorded answer up again, one change after the other; with ``rolls`` the last one so many times, sampled.

    Args:
        instead: see :func:`trace_command`.
    """
    links: list[str] = []
    for change in changes:
        links += ["--at", str(change.m)] if change.position is None else ["--at-token", str(change.position + 1)]
        links += [] if change.token is None else ["--put", f"id:{change.token}"]
        links += {KEEP: [], DENY: ["--deny"]}.get(change.to, ["--force", change.to])
        links += ["--alpha", repr(change.alpha)] if change.forces and change.alpha is not None else []
        links += ["--then", change.then] if change.then != "gate" else []
        links += [] if change.seed is None else ["--seed", str(change.seed)]
    of = "" if of == "steered" else of
    return _stir("whatif", name_of(run), _prompt(prompt, instead), *links, rolls=rolls, of=of, raw=raw, **_answering(changed))
