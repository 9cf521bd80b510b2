"""What an evaluation found: answers -> figures with intervals, and figures -> Markdown. Pure: no model, no files."""

from collections.abc import Callable
from statistics import mean

import numpy as np
from scipy.stats import permutation_test
from tabulate import tabulate

from stir_core.evaluate.degeneration import compressed, repeated
from stir_core.evaluate.statistics import Interval, bootstrap_mean, holm, mcnemar, wilson
from stir_core.findings import Answer, Comparison, Estimate, EvaluationReport, EvaluationSpec, MethodReport

Describe = Callable[[str], tuple[str, str]]
"""Method name -> what it is, and its source."""


def evaluation_report(spec: EvaluationSpec, problems: list[str], answers: dict[str, list[Answer]], describe: Describe) -> EvaluationReport:
    """Figures over the problems that every method has answered.

    Args:
        problems: problem ids, in order.
        answers: settled answers by method.
    """
    by_method = {name: _by_problem(found) for name, found in answers.items()}
    whole = [problem for problem in problems if by_method and all(problem in found for found in by_method.values())]
    reports = {name: _method(name, [found[problem] for problem in whole], describe) for name, found in by_method.items()} if whole else {}
    base = by_method.get(spec.baseline)
    if base is not None and whole:
        compared = {
            name: _compare(spec, whole, [base[p] for p in whole], [found[p] for p in whole], name)
            for name, found in by_method.items()
            if name != spec.baseline
        }
        adjusted = holm({name: each.p for name, each in compared.items()})
        for name, each in compared.items():
            versus = each.replaced(p_holm=adjusted[name])
            reports[name] = reports[name].replaced(versus=versus)
    complete = len(whole) == spec.n and all(name in reports for name in spec.methods)
    return EvaluationReport(spec=spec, complete=complete, problems=len(whole), methods=tuple(reports.values()))


def _by_problem(answers: list[Answer]) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        found.setdefault(answer.problem_id, []).append(answer)
    return found


def _right(answer: Answer) -> bool:
    return answer.verdict is not None and answer.verdict.correct


def _method(name: str, groups: list[list[Answer]], describe: Describe) -> MethodReport:
    flat = [answer for group in groups for answer in group]
    right = sum(map(_right, flat))
    once = len(flat) == len(groups)
    shares = np.array([mean(map(_right, group)) for group in groups])
    accuracy = wilson(right, len(flat)) if once else bootstrap_mean(shares, name=name)
    commits = [float(answer.facts["commits"]) for answer in flat if "commits" in answer.facts]
    seconds = [answer.seconds for answer in flat if answer.seconds is not None]
    about, source = describe(name)
    return MethodReport(
        name=name,
        about=about,
        source=source,
        answers=len(flat),
        right=right,
        accuracy=_estimate(accuracy),
        interval="Wilson 95 %" if once else "95 % percentile bootstrap over problems",
        unfinished=sum(answer.verdict is not None and not answer.verdict.finished for answer in flat),
        committed=mean(answer.tokens_used for answer in flat),
        probe=mean(answer.probe_tokens for answer in flat),
        reused=mean(answer.reused_tokens for answer in flat),
        prompt=mean(answer.prompt_tokens for answer in flat),
        forward=mean(answer.forward_tokens for answer in flat),
        flops=mean(answer.flops for answer in flat),
        seconds=mean(seconds) if len(seconds) == len(flat) else None,
        repeated_2=mean(repeated(answer.token_ids, 2) for answer in flat),
        repeated_3=mean(repeated(answer.token_ids, 3) for answer in flat),
        zlib_ratio=mean(compressed(answer.text) for answer in flat),
        commits=mean(commits) if commits else None,
    )


def _compare(spec: EvaluationSpec, problems: list[str], base: list[list[Answer]], own: list[list[Answer]], name: str) -> Comparison:
    gaps = _gaps(base, own, _right)
    once = all(len(group) == 1 for group in (*base, *own))
    if once:
        p, test = mcnemar(int((gaps > 0).sum()), int((gaps < 0).sum())), "exact McNemar"
    else:
        p, test = _sign_flips(gaps, spec.seed), "sign-flip permutation over problems"
    return Comparison(
        against=spec.baseline,
        won=tuple(problem for problem, gap in zip(problems, gaps, strict=True) if gap > 0),
        lost=tuple(problem for problem, gap in zip(problems, gaps, strict=True) if gap < 0),
        tied=int((gaps == 0).sum()),
        difference=_bootstrap(gaps, spec.seed, f"{name} accuracy"),
        p=p,
        test=test,
        p_holm=p,
        tokens=_bootstrap(_gaps(base, own, lambda a: a.decoded), spec.seed, f"{name} tokens"),
        committed=_bootstrap(_gaps(base, own, lambda a: a.tokens_used), spec.seed, f"{name} committed"),
    )


def _gaps(base: list[list[Answer]], own: list[list[Answer]], of: Callable[[Answer], float]) -> np.ndarray:
    """Mean over a problem's answers, method minus baseline, problem by problem."""
    return np.array([mean(map(of, theirs)) - mean(map(of, ours)) for ours, theirs in zip(base, own, strict=True)], float)


def _sign_flips(gaps: np.ndarray, seed: int) -> float:
    if not gaps.any():
        return 1.0
    rng = np.random.default_rng(seed)
    found = permutation_test(
        (gaps, np.zeros_like(gaps)), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=9999, rng=rng
    )
    return float(found.pvalue)


def _bootstrap(values: np.ndarray, seed: int, name: str) -> Estimate:
    return _estimate(bootstrap_mean(values, seed=seed, name=name))


def _estimate(interval: Interval) -> Estimate:
    return Estimate(value=interval.estimate, low=interval.low, high=interval.high)


def markdown(report: EvaluationReport) -> str:
    """The report as Markdown: what was compared, two tables, flips, and what to mind."""
    spec = report.spec
    levels = f" ({', '.join(spec.levels)})" if spec.levels else ""
    identity = spec.model
    lines = [
        f"# {spec.label}: {spec.task} {spec.split}{levels}",
        "",
        f"Run `{spec.run}` (config {spec.config_digest}, basis {spec.basis}), {identity.name} in {identity.dtype}, "
        f"weights {identity.weights_sha256[:12]}. {report.problems} problems, {spec.seeds} seed{'s' if spec.seeds > 1 else ''}, "
        f"at most {spec.max_new_tokens} committed tokens, template {spec.template}, run seed {spec.seed}.",
    ]
    if spec.command:
        lines += ["", *(f"    {command}" for command in spec.command.splitlines())]
    if not report.complete:
        lines += ["", f"**Not finished:** {report.problems} of {spec.n} problems have been answered by every method."]
    if spec.leaks:
        names = ", ".join(leak.problem_id for leak in spec.leaks[:5])
        lines += ["", f"**LEAK:** {len(spec.leaks)} of these problems were mined ({names}{', ...' if len(spec.leaks) > 5 else ''})."]
    lines += ["", _accuracy_table(report), "", _cost_table(report), "", *_notes(report)]
    return "\n".join(lines) + "\n"


def _accuracy_table(report: EvaluationReport) -> str:
    heads = ("method", "right", "accuracy [95 %]", "won / lost", "difference [95 %]", "p", "p (Holm)", "unfinished")
    rows = []
    for method in report.methods:
        versus = method.versus
        gap = (
            [f"{len(versus.won)} / {len(versus.lost)}", _percent(versus.difference, sign=True), _p(versus.p), _p(versus.p_holm)]
            if versus
            else ["", "", "", ""]
        )
        rows.append([f"`{method.name}`", f"{method.right}/{method.answers}", _percent(method.accuracy), *gap, method.unfinished])
    return tabulate(rows, heads, "github", disable_numparse=True)


def _cost_table(report: EvaluationReport) -> str:
    heads = (
        "method",
        "committed",
        "probe",
        "decoded",
        "decoded vs baseline [95 %]",
        "forward",
        "GFLOPs",
        "seconds",
        "2-gram rep.",
        "3-gram rep.",
        "zlib",
    )
    rows = []
    for method in report.methods:
        versus = (
            f"{method.versus.tokens.value:+.1f} [{method.versus.tokens.low:+.1f}, {method.versus.tokens.high:+.1f}]"
            if method.versus
            else ""
        )
        seconds = f"{method.seconds:.2f}" if method.seconds is not None else "-"
        cells = [
            f"`{method.name}`",
            f"{method.committed:.1f}",
            f"{method.probe:.1f}",
            f"{method.total:.1f}",
            versus,
            f"{method.forward:.1f}",
        ]
        cells += [f"{method.flops / 1e9:.1f}", seconds, f"{method.repeated_2:.3f}", f"{method.repeated_3:.3f}", f"{method.zlib_ratio:.3f}"]
        rows.append(cells)
    return tabulate(rows, heads, "github", disable_numparse=True)


def _notes(report: EvaluationReport) -> list[str]:
    spec = report.spec
    tests = sorted({method.versus.test for method in report.methods if method.versus})
    lines = [
        "Means an answer. decoded = committed + probe tokens, those that were both counted once; forward = every token position run, "
        f"prompts and unsteered passes included; seconds = wall-clock of the batch ({spec.rows} rows) shared out, so it depends on the "
        f"machine. Differences are against `{spec.baseline}`, paired by problem; intervals: Wilson for accuracies (bootstrap over problems "
        f"for several seeds), percentile bootstrap over problems for differences; p: {', '.join(tests) or 'none'}, Holm over the methods.",
    ]
    if spec.same_words:
        lines.append(f"{spec.same_words} problems repeat a mined one but for its numbers; they count as other problems.")
    if spec.environment:
        lines.append("Made with " + ", ".join(f"{key} {value}" for key, value in spec.environment.items()) + ".")
    return lines


def _percent(estimate: Estimate, *, sign: bool = False) -> str:
    form = "+.1f" if sign else ".1f"
    return f"{100 * estimate.value:{form}} % [{100 * estimate.low:{form}}, {100 * estimate.high:{form}}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
