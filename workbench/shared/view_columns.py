"""How numbers look in tables: formats, bars and the help text of every column, in one place."""

from typing import Any

from streamlit import column_config as cc

from workbench.shared.confounds import HELP


def _number(label: str, form: str, text: str, **more: Any) -> Any:
    return cc.NumberColumn(label, format=form, help=text, **more)


ADVANTAGE_HELP = (
    "Measured causal value: share of right answers with the action minus without it, from the same states and random streams. "
    "Empty: no causal study tried it."
)

ACTION_COLUMNS: dict[str, Any] = {
    "entry": cc.TextColumn("entry", help="Pair number and c (corrective) or n (null).", pinned=True, width=72),
    "kind": cc.TextColumn("kind", help="A corrective entry carries an action; a null entry only competes against it."),
    "m": _number("m", "%d", "Control point: finished steps at the state that was mined.", width=44),
    "layer": _number("layer", "%d", "0-based block whose output (blocks.L.hook_out) key and action live in.", width=54),
    "quality": _number("quality", "%.3f", "Mean reward of the positives minus mean reward of the negatives.", width=70),
    "reward+": _number("R+", "%.3f", "Mean reward of the positives: correct minus the length penalty.", width=66),
    "reward-": _number("R−", "%.3f", "Mean reward of the negatives.", width=66),
    "n+": _number("n+", "%d", "Right answers averaged.", width=44),
    "n-": _number("n−", "%d", "Wrong answers averaged.", width=44),
    "|v|": _number("‖v‖", "%.2f", "L2 norm of the raw action vector (residual-stream units).", width=62),
    "|key|": _number("‖key‖", "%.2f", "L2 norm of the raw key (residual-stream units).", width=66),
    "|v|/|key|": cc.ProgressColumn(
        "‖v‖/‖key‖", format="%.2f", min_value=0, max_value=1, help="Norm of the action against the state.", width=110
    ),
    "pick": _number("pick", "%d", "Rank in the control basis; empty: dropped.", width=52),
    "gain": _number("gain", "%.3f", "Marginal gain of the selection objective when it was picked.", width=62),
    "retrieved": _number("retr.", "%d", "Held-out steps that retrieved it.", width=56),
    "committed": _number("comm.", "%d", "Held-out steps where the gate committed it.", width=60),
    "advantage": _number("advantage", "%+.3f", ADVANTAGE_HELP, width=78),
    "advantage 95 %": cc.TextColumn("95 %", help="Its interval: bootstrap over states, then continuations.", width=120),
    "verdict": cc.TextColumn("effect", help='By whether the interval holds 0; "no effect seen" is not "none".', width=104),
    "controls": cc.TextColumn("controls", help="Whether length or chance explain it: passes, flagged, or too little to tell.", width=84),
    "flags": cc.TextColumn("flags", help="What the controls point at.", width=220),
    "length cos": _number("length cos", "%+.2f", HELP["length cos"], width=76),
    "matched cos": _number("matched cos", "%+.2f", HELP["matched cos"], width=86),
    "length gap": _number("gap", "%+.0f", HELP["length gap"], width=52),
    "gap matched": _number("gap matched", "%+.0f", HELP["gap matched"], width=88),
    "perm. p": _number("perm. p", "%.3f", HELP["perm. p"], width=62),
    "shuffled cos": _number("shuffled cos", "%+.2f", HELP["shuffled cos"], width=84),
    "stable+": cc.NumberColumn("stable+", format="percent", help=HELP["stable+"], width=62),
    "stable-": cc.NumberColumn("stable−", format="percent", help=HELP["stable-"], width=62),
    "leave-one-out": _number("leave one out", "%+.2f", HELP["leave-one-out"], width=94),
    "others cos": _number("others cos", "%+.2f", HELP["others cos"], width=76),
    "promotes": cc.TextColumn("promotes", help="Tokens with the largest direct logit effect, white space drawn.", width=190),
    "problem": cc.TextColumn("problem", help="Mined problem."),
    "question": cc.TextColumn("question", width=320),
}

JUDGED_COLUMNS: dict[str, Any] = {
    "star": cc.TextColumn("★", help="Starred on the Curate page.", width=32),
    "tags": cc.ListColumn("tags", help="Tags, for filters and for export.", width=130),
    "name": cc.TextColumn("name", help="Display name.", width=100),
    "library": cc.TextColumn("library", help="Whether it is in the curated library, and why.", width=104),
    "note": cc.TextColumn("note", help="Its first words; the whole note stands with the entry.", width=160),
}
"""What was judged of an entry."""

NEIGHBOUR_COLUMNS: dict[str, Any] = {
    "entry": cc.TextColumn("entry", width=68),
    "cosine": cc.NumberColumn("cosine", format="%.3f", width=60, help="Cosine of raw vectors in the original space."),
    "m": _number("m", "%d", "Control point.", width=36),
    "kind": cc.TextColumn("kind", width=76),
    "same problem": cc.CheckboxColumn("same source", help="Mined from the same problem.", width=84),
    "in basis": cc.CheckboxColumn("basis", help="In the control basis.", width=50),
}

FIRING_COLUMNS: dict[str, Any] = {
    "committed": cc.CheckboxColumn("committed"),
    "cosine": _number("cosine", "%.3f", "Cosine between the state and this entry's key."),
    "value": _number("A = s·q", "%.3f", "Retrieval value: cosine times the entry's quality."),
    "score": _number("score", "%.3f", "beta * A + rho * preview gain; empty when not previewed."),
    "margin": _number("margin", "%+.3f", "Score minus null score: positive beats null."),
    "alpha": _number("alpha", "%.2f", "Injected multiple of the action; empty when not committed."),
    "answer right": cc.CheckboxColumn("answer right", help="Verdict of the whole steered answer."),
}

RUN_COLUMNS: dict[str, Any] = {
    "run": cc.TextColumn("run", pinned=True),
    "stages": cc.TextColumn("stages", help="Finished stages, and the last of them."),
    "problems": _number("problems", "%d", "Mined problems."),
    "rollouts": _number("rollouts", "%d", "Sampled answers."),
    "entries": _number("entries", "%d", "Library entries: corrective and null."),
    "basis": _number("basis", "%d", "Entries in the control basis."),
    "layers": cc.TextColumn("layers", help="Blocks whose outputs were mined."),
    "held-out n": _number("n", "%d", "Held-out problems graded in both arms."),
    "vanilla": cc.ProgressColumn("vanilla", format="percent", min_value=0, max_value=1, help="Held-out accuracy without steering."),
    "steered": cc.ProgressColumn("steered", format="percent", min_value=0, max_value=1, help="Held-out accuracy with steering."),
    "gained": _number("gained", "%d", "Wrong without steering, right with it."),
    "lost": _number("lost", "%d", "Right without steering, wrong with it."),
    "notes": _number("notes", "%d", "Warnings that the stages left."),
}

STAGE_COLUMNS: dict[str, Any] = {
    "finished": cc.CheckboxColumn("finished"),
    "holds": cc.TextColumn("holds", width="large"),
    "digest": cc.TextColumn("digest", help="Equal digests mean equal files."),
}

IDENTITY_COLUMNS: dict[str, Any] = {
    "run": cc.TextColumn("this run was made with", width=150),
    "loaded model": cc.TextColumn("model in memory", width=150),
    "checked": cc.CheckboxColumn("checked", help="A difference here refuses the model."),
    "agrees": cc.CheckboxColumn("agrees"),
}

COVERAGE_COLUMNS: dict[str, Any] = {
    "split pairs": _number("split pairs", "%d", "Pairs with only one of their two entries in this set: its null cannot answer its action."),
    "mean quality": _number("mean quality", "%.3f", "Mean reward gap."),
    "key rank": _number("key rank", "%.1f", "Effective rank of the unit keys: exp of the spectral entropy."),
    "key cosine": _number("key cosine", "%.3f", "Mean cosine over all pairs of keys."),
    "action rank": _number("action rank", "%.1f", "Effective rank of the unit actions."),
    "action cosine": _number("action cosine", "%.3f", "Mean cosine over all pairs of actions."),
    "nearest selected": _number("nearest", "%.3f", "Mean cosine of each key with its nearest selected key."),
    "worst": _number("worst", "%.3f", "Smallest such cosine: the entry that the basis covers least."),
    "unreachable": _number("unreachable", "%d", "Entries at the last control point, which retrieval never asks for."),
}

PROBLEM_COLUMNS: dict[str, Any] = {
    "problem": cc.TextColumn("problem", pinned=True),
    "vanilla right": cc.CheckboxColumn("vanilla right", width=84),
    "steered right": cc.CheckboxColumn("steered right", width=84),
    "steps": _number("steps", "%d", "Decoded steps of the steered answer.", width=52),
    "commits": _number("commits", "%d", "Steps where an action was committed.", width=68),
    "tokens": _number("tokens", "%d", "Committed tokens of the steered answer.", width=62),
    "vanilla tokens": _number("vanilla tok.", "%d", "Committed tokens without steering.", width=84),
    "probe tokens": _number("probe tok.", "%d", "Tokens decoded in previews.", width=80),
}

STEP_COLUMNS: dict[str, Any] = {
    "m": _number("m", "%d", "Control point: finished steps.", width=40),
    "library": _number("library", "%d", "Entries at this control point.", width=58),
    "retrieved": _number("retr.", "%d", "Nearest entries retrieved.", width=50),
    "candidates": _number("cand.", "%d", "Corrective candidates scored: the L best by value.", width=50),
    "chosen": cc.TextColumn("decision", width=76),
    "best score": _number("best", "%.3f", "Best candidate's score.", width=60),
    "null score": _number("null", "%.3f", "Score of null: no impulse.", width=60),
    "margin": _number("margin", "%+.3f", "Best score minus null score.", width=66),
    "alpha": _number("alpha", "%.2f", "Injected multiple of the action; 0 when null won.", width=56),
    "tokens": _number("tokens", "%d", "Committed tokens of this step.", width=58),
    "probe": _number("probe", "%d", "Preview tokens before this step.", width=54),
    "reason": cc.TextColumn("reason", width="large"),
}

CANDIDATE_COLUMNS: dict[str, Any] = {
    "entry": cc.TextColumn("entry", width=72, pinned=True),
    "kind": cc.TextColumn("kind", width=80),
    "layer": _number("layer", "%d", "Block whose output is compared and changed.", width=50),
    "cosine": _number("cosine", "%.3f", "Cosine of state and key: the retrieval similarity s.", width=64),
    "quality": _number("quality", "%.3f", "Reward gap q of the entry.", width=64),
    "value": _number("A = s·q", "%.3f", "Retrieval value.", width=66),
    "logprob": _number("preview", "%.3f", "Mean log-probability of the preview tokens (nats a token); empty when not previewed.", width=70),
    "gain": _number("gain", "%+.3f", "Preview log-probability minus that of the unsteered preview (nats a token).", width=66),
    "score": _number("score", "%.3f", "beta * A + rho * gain.", width=62),
    "margin": _number("margin", "%+.3f", "Score minus null score; committed only if positive.", width=66),
    "fate": cc.TextColumn("fate", width="medium"),
    "score now": _number("score now", "%.3f", "With the settings that are tried.", width=72),
    "margin now": _number("margin now", "%+.3f", "With the settings that are tried.", width=80),
    "fate now": cc.TextColumn("fate now", width="medium", help="With the settings that are tried."),
}

FLIPPED_COLUMNS: dict[str, Any] = {
    "problem": cc.TextColumn("problem", width=150, pinned=True),
    "m": _number("m", "%d", "The first control point at which it comes out otherwise, or needs the model.", width=40),
    "change": cc.TextColumn("change", width=110, help="alpha only: the same action at another strength."),
    "recorded": cc.TextColumn("recorded", width=106),
    "now": cc.TextColumn("now", width=106, help="With the settings that are tried; ?: not in the recording."),
    "behind": _number("behind", "%d", "Gate decisions behind it: known for the recorded text only.", width=56),
    "standing": cc.TextColumn("standing", width=170, help="How far the new decision may be believed."),
    "margin": _number("margin", "%+.3f", "Best score minus null score, with the settings that are tried.", width=66),
    "why now": cc.TextColumn("why now", width="large"),
}

COST_COLUMNS: dict[str, Any] = {
    "right": cc.CheckboxColumn("right", help="Empty when there is no gold answer."),
    "committed tokens": _number("committed", "%d", "Tokens of the answer: what the budget bounds."),
    "probe tokens": _number("probe", "%d", "Tokens decoded in previews."),
    "of them reused": _number("reused", "%d", "Preview tokens that were committed as they stood: decoded once, counted in both."),
    "total tokens": _number("total", "%d", "Committed plus probe tokens."),
    "forward positions": _number("forward positions", "%d", "Token positions run through the model, prompt and unsteered passes included."),
}

DEGENERATION_COLUMNS: dict[str, Any] = {
    "answer": cc.TextColumn("answer", width=60),
    "repeated 2-grams": cc.ProgressColumn(
        "2-grams", format="percent", min_value=0, max_value=1, width=105, help="Share of token pairs that stood before in this answer."
    ),
    "repeated 3-grams": cc.ProgressColumn(
        "3-grams", format="percent", min_value=0, max_value=1, width=105, help="Share of token triples that stood before in this answer."
    ),
    "zlib ratio": cc.ProgressColumn(
        "zlib",
        format="%.2f",
        min_value=0,
        max_value=1,
        width=90,
        help="Compressed over plain size: low repeats; short texts compress badly.",
    ),
}

_PAIRED = "Paired by problem, against the baseline; "
METHOD_COLUMNS: dict[str, Any] = {
    "method": cc.TextColumn("method", help="Name with the parameters that differ from its defaults.", pinned=True, width=150),
    "right": cc.TextColumn("right", help="Right answers of all answers over problems that every method has answered.", width=72),
    "accuracy": _number("accuracy", "%.1f", "Right answers in percent.", width=70),
    "accuracy 95 %": cc.TextColumn("95 %", help="Wilson's interval; for several seeds a bootstrap over problems.", width=98),
    "won": _number("won", "%d", "Problems it got right and the baseline did not (several seeds: more often right).", width=44),
    "lost": _number("lost", "%d", "Problems the baseline got right and it did not.", width=44),
    "tied": _number("tied", "%d", "Problems on which both did equally well.", width=44),
    "difference": _number("difference", "%+.1f", _PAIRED + "in percentage points.", width=76),
    "difference 95 %": cc.TextColumn("95 %", help="Percentile bootstrap over problems.", width=106),
    "p": _number("p", "%.3f", _PAIRED + "exact McNemar; for several seeds a sign-flip permutation test over problems.", width=52),
    "p holm": _number("p (Holm)", "%.3f", "The same, corrected for having compared several methods.", width=68),
    "unfinished": _number("unfin.", "%d", "Answers without a stated final answer (most often cut off by the budget).", width=56),
    "committed": _number("committed", "%.1f", "Mean tokens of the answer itself: what the budget bounds.", width=78),
    "probe": _number(
        "probe", "%.1f", "Mean tokens decoded beside the answer: previews, trial answers, votes that were not kept.", width=56
    ),
    "decoded": _number("decoded", "%.1f", "Committed plus probe tokens.", width=66),
    "decoded vs": cc.TextColumn("decoded vs baseline", help=_PAIRED + "mean, bootstrap over problems.", width=146),
    "forward": _number("forward", "%.1f", "Mean token positions run through the model, prompts and unsteered passes included.", width=66),
    "gflops": _number("GFLOPs", "%.1f", "Mean floating-point operations of those passes, by formula.", width=68),
    "seconds": _number("seconds", "%.2f", "Wall-clock time of the batch shared out among its answers: depends on the machine.", width=66),
    "rep 2": _number("2-gram rep.", "%.3f", "Share of token pairs that stood before in the same answer, mean.", width=82),
    "rep 3": _number("3-gram rep.", "%.3f", "Share of token triples that stood before in the same answer, mean.", width=82),
    "zlib": _number("zlib", "%.3f", "Compressed over plain size of the text, mean: low is repetitive.", width=56),
    "commits": _number("impulses", "%.2f", "Mean impulses an answer; empty for methods that have none.", width=70),
    "about": cc.TextColumn("what it is", width=320),
    "source": cc.TextColumn("source", width=220),
}

FLIP_COLUMNS: dict[str, Any] = {
    "outcome": cc.TextColumn("outcome", help="Of the method, against the baseline.", width=66),
    "problem": cc.TextColumn("problem", width=220),
    "baseline right": cc.TextColumn("base right", help="Whether the baseline was right (several seeds: how often).", width=76),
    "method right": cc.TextColumn("method right", help="Whether the method was right (several seeds: how often).", width=88),
    "baseline answer": cc.TextColumn("base answer", help="What grading extracted from its first answer.", width=86),
    "method answer": cc.TextColumn("method answer", help="What grading extracted from its first answer.", width=98),
    "gold": cc.TextColumn("gold", width=60),
    "baseline tokens": _number("base tokens", "%.0f", "Committed and probe tokens.", width=84),
    "method tokens": _number("method tokens", "%.0f", "Committed and probe tokens.", width=98),
    "question": cc.TextColumn("question", width=340),
}

EFFECT_COLUMNS: dict[str, Any] = {
    "name": cc.TextColumn("what", pinned=True, width=210),
    "advantage": cc.TextColumn("advantage [95 %]", help=ADVANTAGE_HELP, width=170),
    "verdict": cc.TextColumn("reading", help='By whether the interval holds 0; "no effect seen" is not "none".', width=104),
    "won": _number("won", "%d", "Pairs of continuations in which only the first arm was right.", width=44),
    "lost": _number("lost", "%d", "Pairs in which only the second arm was right.", width=44),
    "p": _number("p", "%.3f", "Exact McNemar over pairs, which takes pairs of one state for independent.", width=52),
    "tokens": cc.TextColumn("tokens [95 %]", help="Tokens of the whole answer, first arm minus second.", width=150),
    "states": _number("states", "%d", "Control points of held-out answers that have both arms.", width=52),
    "pairs": _number("pairs", "%d", "Continuations that drew from the same random stream, one in each arm.", width=48),
}

PREDICTOR_COLUMNS: dict[str, Any] = {
    "predictor": cc.TextColumn("predictor", help="Something that the gate sees of a candidate before it decides.", width=110),
    "spearman": _number("rank corr.", "%+.2f", "Spearman's correlation with the measured advantage.", width=78),
    "95 %": cc.TextColumn("95 %", help="Bootstrap over states.", width=106),
    "auc": _number("ROC area", "%.2f", "Chance that a helpful candidate is ranked above a harmful one; 0.5 is guessing.", width=72),
    "helps": _number("helps", "%d", "Candidates that did better than nothing.", width=52),
    "harms": _number("harms", "%d", "Candidates that did worse than nothing; those that tied are in neither count.", width=52),
    "points": _number("points", "%d", "Candidates at a state.", width=52),
}

LASSO_COLUMNS: dict[str, Any] = {
    "column": cc.TextColumn("column", width=120),
    "n": _number("n", "%d", "Entries in the lasso that have a value.", width=44),
    "mean": _number("mean", "%.3f", "Over the lasso.", width=70),
    "median": _number("median", "%.3f", "Over the lasso.", width=70),
    "mean of all": _number("mean of all", "%.3f", "Over every entry of the run that has a value.", width=84),
}

COMPARISON_COLUMNS: dict[str, Any] = {
    "what": cc.TextColumn(
        "what", width=200, help="Coverage: cosine of each mined key with its nearest pick. Ranks: effective. All of raw vectors."
    ),
    "stored": _number("stored", "%.4g", "The run's basis.", width=86),
    "re-selected": _number("re-selected", "%.4g", "Under the settings above.", width=92),
    "change": _number("change", "%+.4g", "Re-selected minus stored.", width=86),
}

CHANGE_COLUMNS: dict[str, Any] = {
    "fate": cc.TextColumn("fate", width=64),
    "entry": cc.TextColumn("entry", width=72),
    "m": _number("m", "%d", "Control point.", width=36),
    "kind": cc.TextColumn("kind", width=80),
    "quality": _number("quality", "%.3f", "Mined reward gap.", width=66),
    "pick before": _number("pick before", "%d", "Rank in the stored basis; empty: not in it.", width=82),
    "pick now": _number("pick now", "%d", "Rank in the re-selection; empty: not in it.", width=74),
}

BRANCH_COLUMNS: dict[str, Any] = {
    "branch": _number("branch", "#%d", "Number of the answer in the tree; #0 is the recorded one.", width=62),
    "of": _number("of", "#%d", "The answer that it is a branch of.", width=46),
    "at this step": cc.TextColumn("at this step", help="What was done before this step.", pinned=True, width=200),
    "change": cc.TextColumn("change", width=200),
    "verdict": cc.TextColumn("verdict", width=84),
    "extracted": cc.TextColumn("extracted", help="What grading found in the answer.", width=84),
    "tokens": _number("tokens", "%d", "Tokens of the whole answer.", width=62),
    "differs_at": _number("differs at", "%d", "First token that differs from its parent; empty: equal token for token.", width=76),
    "m": _number("after m", "%d", "The control point before the first difference.", width=62),
    "repeats": _number("3-gram rep.", "%.3f", "Share of token triples that stood before in the same answer.", width=84),
    "degenerated": cc.CheckboxColumn("degenerated", help="At least half of its token triples stood before.", width=92),
    "commits": _number("impulses", "%d", "Steps with an impulse, forced ones included.", width=70),
    "ran": _number("forward", "%d", "Token positions run through the model for it: the given ones once, previews included.", width=68),
}
