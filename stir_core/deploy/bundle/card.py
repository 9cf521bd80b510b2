"""The summary of a run's evaluations in a bundle, and the model card, which repeats the facts of the bundle's files."""

from typing import Any

from tabulate import tabulate

from stir_core.deploy.bundle.manifest import BundleManifest, EvaluationSummary, MeasuredEvaluation, MeasuredMethod
from stir_core.findings import Estimate, EvaluationReport, MethodReport
from stir_core.store.curated import choice_in_words, library_digest
from stir_core.store.evaluations import evaluations
from stir_core.store.runs import Run

TAGS = ["stir", "steering-vectors", "latent-actions", "activation-steering"]


def measured_effect(run: Run, digest: str, library: str) -> EvaluationSummary:
    """Every finished evaluation of the run's present basis.

    Args:
        digest: of the exported library (``library_digest``).
        library: its name.
    """
    reports = [folder.report() for folder in evaluations(run) if folder.finished]
    basis = run.digest("basis") if run.finished("basis") else None
    of_basis = basis is not None and (library == "basis" or library_digest(run.library()) == digest)
    codes = run.digest("codes") if library == "codes" and library_digest(run.codes_library()) == digest else None
    complete = tuple(_measured(report, digest, of_basis, codes) for report in reports if report.complete and report.spec.basis == basis)
    if complete:
        return EvaluationSummary(evaluated=True, evaluations=complete)
    other = f" ({len(reports)} of another basis)" if reports else ""
    return EvaluationSummary(evaluated=False, reason=f"no finished evaluation of this run's basis{other}: make one with `stir eval`")


def _measured(report: EvaluationReport, digest: str, of_basis: bool, codes: str | None) -> MeasuredEvaluation:
    spec = report.spec
    return MeasuredEvaluation(
        label=spec.label,
        task=spec.task,
        split=spec.split,
        problems=report.problems,
        baseline=spec.baseline,
        leaks=len(spec.leaks),
        same_library=(of_basis and any(name.partition(":")[0] == "stir" and "library=" not in name for name in spec.methods))
        or (spec.curated == digest and any("library=curated" in name for name in spec.methods))
        or (codes is not None and spec.codes == codes and any("library=codes" in name for name in spec.methods)),
        methods=tuple(_method(method) for method in report.methods),
    )


def _method(method: MethodReport) -> MeasuredMethod:
    versus = method.versus
    return MeasuredMethod(
        name=method.name,
        accuracy=method.accuracy,
        interval=method.interval,
        difference=versus.difference if versus else None,
        p_holm=versus.p_holm if versus else None,
        tokens=versus.tokens if versus else None,
    )


def card_text(manifest: BundleManifest, summary: EvaluationSummary) -> str:
    """The card as Markdown with the hub's metadata before it."""
    from huggingface_hub import ModelCard, ModelCardData

    base: dict[str, Any] = {"base_model": manifest.base_model, "base_model_relation": "adapter"} if manifest.base_model else {}
    facts = ModelCardData(library_name="stir-workbench", tags=TAGS, pipeline_tag="text-generation", language="en", **base)
    sections = [_head(manifest), _use(manifest), _effect(summary), _limits(manifest, summary), _origin(manifest)]
    return str(ModelCard(f"---\n{facts.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


def _head(manifest: BundleManifest) -> str:
    base = manifest.base_model or manifest.model.name
    layers = ", ".join(str(layer) for layer in manifest.layers)
    return (
        f"# STIR library for {base}\n\n"
        f"{manifest.n_actions} latent actions ({manifest.n_entries} entries with their null entries) for the output of block {layers} "
        f"(0-based, of {manifest.model.n_layers}; width {manifest.model.d_model}). At each step of an answer a gate retrieves the actions "
        "whose key is nearest to the residual stream, previews them, and injects one as an impulse, or none."
    )


def _use(manifest: BundleManifest) -> str:
    task, gate = manifest.stage3.task, manifest.stage3.gate
    return (
        "## Intended use\n\n"
        f"Research on steering, with the model that it was made with. Mined on the task `{task.name}` with its own prompt template "
        f"(`{task.template}`); strength `k_scale = {gate.k_scale:g}`.\n\n"
        "```bash\nstir import DIR                # checks every file\n"
        "stir trace DIR 'a question'    # vanilla and steered, with decisions\n"
        "stir serve DIR                 # OpenAI-compatible\n```"
    )


def _effect(summary: EvaluationSummary) -> str:
    if not summary.evaluated:
        return f"## Measured effect\n\nNot evaluated: {summary.reason}"
    return "## Measured effect\n\n" + "\n\n".join(map(_table, summary.evaluations))


def _table(evaluation: MeasuredEvaluation) -> str:
    library = "with this library" if evaluation.same_library else "with another library of the same run"
    leaks = f"; {evaluation.leaks} of its problems were mined too" if evaluation.leaks else ""
    rows = []
    for method in evaluation.methods:
        p = "" if method.p_holm is None else f"{method.p_holm:.3f}"
        share, gain, tokens = f"{method.accuracy:.3f}", _figure(method.difference, "+.3f"), _figure(method.tokens, "+.1f")
        rows.append([f"`{method.name}`", share, gain, p, tokens])
    heads = ("method", "accuracy", f"minus `{evaluation.baseline}`", "p (Holm)", "decoded tokens, difference")
    table = tabulate(rows, heads, "github", disable_numparse=True)
    intervals = sorted({method.interval for method in evaluation.methods})
    return (
        f"`{evaluation.label}`: {evaluation.problems} problems of {evaluation.task}/{evaluation.split}, {library}{leaks}.\n\n{table}\n\n"
        f"Intervals are 95 %: {'; '.join(intervals)}; differences: Tango's score interval, tokens: Student's t, with problems as clusters."
    )


def _figure(number: Estimate | None, form: str) -> str:
    return "" if number is None else f"{number:{form}}"


def _limits(manifest: BundleManifest, summary: EvaluationSummary) -> str:
    lines = [
        "Works with one model: weights, tokenizer, dtype and hook are checked by hash, others are refused.",
        "Actions are differences between the means of right and wrong rollouts of one task; their effect on other tasks was not measured.",
        "Positives are the shortest right rollouts and negatives the longest wrong ones, so brevity is a confound.",
        "Exports to llama.cpp and vLLM keep vectors only: no keys, no gate, no preview.",
        *manifest.notes,
    ]
    if not any(evaluation.same_library for evaluation in summary.evaluations):
        lines.insert(0, "The effect of this library was not measured.")
    return "## Limits\n\n" + "\n".join(f"- {line[0].upper()}{line[1:]}" for line in lines)


def _origin(manifest: BundleManifest) -> str:
    origin, norms = manifest.provenance, manifest.norms
    edits = f", after {origin.curation_version} edits" if origin.curation_version else ""
    only = f", only {choice_in_words(origin.only)}" if origin.only else ""
    return (
        "## Origin\n\n"
        f"Run `{origin.run}` (config {origin.config_digest}), library `{origin.library}`{only}{edits}. "
        f"Weights SHA-256 `{manifest.model.weights_sha256}`, tokenizer `{manifest.model.tokenizer_sha256}`, {manifest.model.dtype}, "
        f"processing {manifest.model.processing}. Norms: keys {norms.keys.mean:.3g} (sd {norms.keys.sd:.2g}), "
        f"actions {norms.actions.mean:.3g} (sd {norms.actions.sd:.2g}). Method: arXiv 2602.04925."
    )
