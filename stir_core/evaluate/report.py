"""Answers of an evaluation -> figures with intervals -> Markdown. Pure: no model, no files."""

from collections import defaultdict
from collections.abc import Callable
from statistics import mean

import numpy as np
from jaxtyping import Float
from scipy.stats import permutation_test
from tabulate import tabulate

from stir_core.evaluate.degeneration import compressed, repeated
from stir_core.evaluate.statistics import clustered_difference, clustered_mean, clustered_share, holm, mcnemar, wilson
from stir_core.findings import Answer, Comparison, EvaluationReport, EvaluationSpec, MethodReport, p_text

Describe = Callable[[str], tuple[str, str]]
"""Method name -> what it does in one line, and its source."""


def evaluation_report(spec: EvaluationSpec, problems: list[str], answers: dict[str, list[Answer]], describe: Describe) -> EvaluationReport:
    """Figures over the problems that every method has answered.

    Args:
        problems: problem ids, in order.
        answers: graded answers by method.
    """
    by_problem = {name: _by_problem(own) for name, own in answers.items()}
    whole = [problem for problem in problems if by_problem and all(problem in own for own in by_problem.values())]
    groups = {name: [own[problem] for problem in whole] for name, own in by_problem.items()} if whole else {}
    reports = {name: _method(name, own, describe) for name, own in groups.items()}
    if base := groups.get(spec.baseline):
        compared = {name: _compare(spec, whole, base, own) for name, own in groups.items() if name != spec.baseline}
        adjusted = holm({name: versus.p for name, versus in compared.items()})
        for name, versus in compared.items():
            reports[name] = reports[name].replaced(versus=versus.replaced(p_holm=adjusted[name]))
    complete = len(whole) == spec.n and all(name in reports for name in spec.methods)
    return EvaluationReport(spec=spec, complete=complete, problems=len(whole), methods=tuple(reports.values()))


def _by_problem(answers: list[Answer]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.problem_id].append(answer)
    return groups


def answered_right(answer: Answer) -> bool:
    """Whether the answer was verified and is right."""
    return answer.verdict is not None and answer.verdict.correct


def _method(name: str, groups: list[list[Answer]], describe: Describe) -> MethodReport:
    flat = [answer for group in groups for answer in group]
    right = sum(map(answered_right, flat))
    once = len(flat) == len(groups)
    accuracy = (
        wilson(right, len(flat)) if once else clustered_share([[float(answered_right(answer)) for answer in group] for group in groups])
    )
    commits = [float(answer.facts["commits"]) for answer in flat if "commits" in answer.facts]
    seconds = [answer.seconds for answer in flat if answer.seconds is not None]
    about, source = describe(name)
    return MethodReport(
        name=name,
        about=about,
        source=source,
        answers=len(flat),
        right=right,
        accuracy=accuracy,
        interval="Wilson 95 %" if once else "Wilson 95 % with problems as clusters",
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


def _compare(spec: EvaluationSpec, problems: list[str], base: list[list[Answer]], own: list[list[Answer]]) -> Comparison:
    pairs = _pairs(base, own, answered_right)
    gaps = np.array([mean(pair) for pair in pairs])
    if all(len(group) == 1 for group in (*base, *own)):
        p, test = mcnemar(int((gaps > 0).sum()), int((gaps < 0).sum())), "exact McNemar"
    else:
        p, test = _sign_flips(gaps, spec.seed), "sign-flip permutation over problems"
    return Comparison(
        against=spec.baseline,
        won=tuple(problem for problem, gap in zip(problems, gaps, strict=True) if gap > 0),
        lost=tuple(problem for problem, gap in zip(problems, gaps, strict=True) if gap < 0),
        tied=int((gaps == 0).sum()),
        difference=clustered_difference(pairs)[0],
        p=p,
        test=test,
        p_holm=p,
        tokens=clustered_mean(_pairs(base, own, lambda answer: answer.decoded)),
        committed=clustered_mean(_pairs(base, own, lambda answer: answer.tokens_used)),
        **(_untouched(base, own) if own[0][0].method.partition(":")[0] == "stir" else {}),
    )


def _untouched(base: list[list[Answer]], own: list[list[Answer]]) -> dict[str, int]:
    if any(len(group) != 1 for group in (*base, *own)) or any(answer.facts.get("commits") != 0 for (answer,) in base):
        return {}
    pairs = [(theirs, ours) for (theirs,), (ours,) in zip(base, own, strict=True) if not ours.facts["commits"]]
    gaps = [answered_right(ours) - answered_right(theirs) for theirs, ours in pairs]
    return {
        "untouched": len(pairs),
        "rounded": sum(ours.text != theirs.text for theirs, ours in pairs),
        "rounded_won": sum(gap > 0 for gap in gaps),
        "rounded_lost": sum(gap < 0 for gap in gaps),
    }


def _pairs(base: list[list[Answer]], own: list[list[Answer]], of: Callable[[Answer], float]) -> list[list[float]]:
    """Method minus baseline by problem, one for each repetition; the one answer of a deterministic side is in all pairs of its problem."""
    return [
        [float(of(theirs[seed % len(theirs)])) - of(ours[seed % len(ours)]) for seed in range(max(len(ours), len(theirs)))]
        for ours, theirs in zip(base, own, strict=True)
    ]


def _sign_flips(gaps: Float[np.ndarray, "problems"], seed: int) -> float:
    if not gaps.any():
        return 1.0
    test = permutation_test(
        (gaps, np.zeros_like(gaps)),
        lambda a, b: (a - b).mean(),
        permutation_type="samples",
        n_resamples=9999,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def evaluation_markdown(report: EvaluationReport) -> str:
    """The report as Markdown: settings, warnings, a table of accuracies, a table of costs, and notes on how to read them."""
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
        gap = [""] * 4
        if versus := method.versus:
            gap = [f"{len(versus.won)} / {len(versus.lost)}", f"{versus.difference:+.1%}", p_text(versus.p), p_text(versus.p_holm)]
        rows.append([f"`{method.name}`", f"{method.right}/{method.answers}", f"{method.accuracy:.1%}", *gap, method.unfinished])
    return tabulate(rows, heads, "github", disable_numparse=True)


def _cost_table(report: EvaluationReport) -> str:
    versus_heads = ["committed vs baseline [95 %]", "decoded vs baseline [95 %]"]
    heads = ["method", "committed", "probe", "decoded", *versus_heads, "forward", "GFLOPs", "seconds"]
    heads += ["2-gram rep.", "3-gram rep.", "zlib"]
    rows = []
    for method in report.methods:
        versus = [f"{method.versus.committed:+.1f}", f"{method.versus.tokens:+.1f}"] if method.versus else ["", ""]
        seconds = f"{method.seconds:.2f}" if method.seconds is not None else "-"
        cells = [f"`{method.name}`", f"{method.committed:.1f}", f"{method.probe:.1f}", f"{method.total:.1f}", *versus]
        cells += [f"{method.forward:.1f}", _gflops(method.flops), seconds]
        rows.append([*cells, f"{method.repeated_2:.3f}", f"{method.repeated_3:.3f}", f"{method.zlib_ratio:.3f}"])
    return tabulate(rows, heads, "github", disable_numparse=True)


def _gflops(flops: float) -> str:
    """Two digits below 1, where one decimal would call every method of a tiny model free."""
    giga = flops / 1e9
    return f"{giga:.1f}" if giga >= 1 else f"{giga:.2g}"


def rounding_note(report: EvaluationReport) -> str:
    """How many answers differ from the baseline's by rounding alone; empty where none does."""
    rounded = [(each.name, each.versus) for each in report.methods if each.versus and each.versus.rounded]
    if not rounded:
        return ""
    counts = "; ".join(
        f"`{name}` {versus.rounded} of {versus.untouched} ({versus.rounded_won} won, {versus.rounded_lost} lost)"
        for name, versus in rounded
    )
    changed = any(versus.rounded_won or versus.rounded_lost for _, versus in rounded)
    blame = ": these won and lost problems are none of the method's doing" if changed else ""
    return (
        f"answers without any impulse whose text is still not that of `{report.spec.baseline}`: {counts}. In {report.spec.model.dtype} "
        f"rounding depends on what shares a pass{blame}."
    )


def _notes(report: EvaluationReport) -> list[str]:
    spec = report.spec
    tests = ", ".join(sorted({method.versus.test for method in report.methods if method.versus})) or "none"
    lines = [
        "Figures are means over answers. decoded = committed + probe tokens, counted once where a token was both; forward = all token "
        f"positions run, prompts and unsteered passes included; seconds = wall-clock time of the batch ({spec.rows} rows) divided among "
        f"its answers, so it depends on the machine. Differences are against `{spec.baseline}`, paired by problem; intervals: Wilson for "
        f"accuracies, Tango's score interval for their differences, Student's t for tokens, with problems as clusters; p: {tests}, "
        "Holm over the methods.",
    ]
    if rounding := rounding_note(report):
        lines.append(f"**Rounding:** {rounding}")
    if spec.left_out:
        some = "; ".join(line.removeprefix("left out: ") for line in spec.left_out[:3])
        lines.append(f"Problems that no method answers, since their prompts do not fit the context: {len(spec.left_out)} ({some}).")
    if spec.same_words:
        lines.append(f"{spec.same_words} problems repeat a mined one but for its numbers; they count as other problems.")
    if spec.environment:
        lines.append("Made with " + ", ".join(f"{key} {value}" for key, value in spec.environment.items()) + ".")
    return lines
