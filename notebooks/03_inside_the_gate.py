# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 Inside the gate, step by step
#
# Before every step of an answer, STIR's gate ([arXiv 2602.04925](https://arxiv.org/abs/2602.04925), Stage III) asks four questions: which library entries were mined in a state like this one (*retrieve*)? What is each
# worth here (*value*)? What would the model write with it (*preview*)? Is the best of them better than no impulse (*commit*, or *null*)? A run stores the evidence of every such decision. This notebook first shows decisions where the truth is
# known: an organism on which the gate works, and one on which it harms. It then turns to a real model, recomputes one decision on it by hand, and takes all of them again with other parameters, without a model.

# %%
import copy
import tempfile
from collections import Counter
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import plotly.io as pio
import torch

import stir_core as stir
from workbench.gates import data as gate_tables
from workbench.gates.charts import steered_share, step_map
from workbench.shared import gate_evidence, gate_replay
from workbench.shared.charts import margin_heatmap, margin_terms
from workbench.shared.gate_replay import term_rows

alt.renderers.enable("png", scale_factor=1.5)
pio.templates.default = "plotly_white"


def gate_map(run):
    """Every recorded step with a candidate on the gate's two axes, coloured by what became of the answer."""
    answers = {trace.id: trace for trace in run.traces()}
    vanilla = {trace.id: trace for trace in run.traces("vanilla")}
    own = gate_replay.replay_all(answers, run.config.gate, run.config.gate, seed=run.config.seed)
    return step_map(gate_tables.map_rows(own, {id_: gate_tables.outcome(trace, vanilla[id_]) for id_, trace in answers.items()}))


def needed(run) -> pd.DataFrame:
    """Held-out answers by whether vanilla decoding is right, and whether the gate committed an action."""
    rows = []
    for before, after in zip(run.traces("vanilla"), run.traces(), strict=True):
        committed = any(step.decision.chosen for step in after.steps)
        rows.append((before.verdict.correct, committed, after.verdict.correct))
    table = pd.DataFrame(rows, columns=["right without steering", "an action was committed", "right with steering"])
    return table.value_counts().rename("answers").reset_index().sort_values(list(table.columns)).set_index("answers")


# %% [markdown]
# ## A case where it works
#
# The run `two_habits` is of an organism: a model of 0.45 million parameters whose answers follow one of two planted habits, of which each is wrong on one kind of problem. It is a calibration object. What is seen on it says whether the gate works where it can, and nothing about real models.
# One answer first. A row is a step; control point $m$ is the state after $m$ finished steps; the first step ($m = 0$) is never steered.

# %%
organism = stir.open_run("two_habits")
first = organism.traces()[0]
print("vanilla:", organism.traces("vanilla")[0].text.replace("\n\n", " / "))
print("steered:", first.text.replace("\n\n", " / "))
gate_evidence.step_table(first)[["m", "retrieved", "candidates", "chosen", "best score", "null score", "margin", "alpha"]].round(3)

# %% [markdown]
# At $m = 1$ the answer is in the wrong habit. The chosen action's key is close to this state and null keys are far, so the margin is about one, not a few thousandths. From $m = 2$ on the answer is in the right habit, null keys are near, and the gate leaves it alone. Over all answers,
# an action is committed exactly where vanilla decoding is wrong:

# %%
table = needed(organism).reset_index()
assert (table["right without steering"] != table["an action was committed"]).all() and table["right with steering"].all()
needed(organism)

# %%
gate_map(organism)

# %% [markdown]
# ## A case where the published gate harms
#
# In `hidden_kind` the habits are the same, but no word shows which kind a problem is of, so a state does not tell whether its habit is wrong *here*. The published settings, harvested now from 48 problems:

# %%
with tempfile.TemporaryDirectory() as folder:
    changes = {"model": {"name": "organism:hidden_kind"}, "task": {"name": "chain", "n_train": 48, "n_eval": 64}, "basis": {}}
    hidden = stir.harvest_run(stir.RunConfig.model_validate(organism.config.model_dump() | changes), Path(folder) / "hidden_kind")
    harm = needed(hidden).reset_index()
    figure = gate_map(hidden)
right = harm.groupby(["right without steering", "right with steering"])["answers"].sum()
print(f"won {right.get((False, True), 0)}, lost {right.get((True, False), 0)} of {harm['answers'].sum()}")
needless = harm[harm["an action was committed"] & harm["right without steering"]]["answers"].sum()
print(f"committed on {harm[harm['an action was committed']]['answers'].sum()} answers, of which {needless} were right without it")
harm.set_index("answers")

# %%
figure

# %% [markdown]
# Its margins look like any others: nothing in one decision says whether it was needed. What does is the comparison over problems: whether the margin separates right from wrong on problems that are left out
# (`stir probe`, and the gate with `rule = "calibrated"`, which abstains where it does not).
#
# ## A real model
#
# The rest of the notebook is about `smollm2`, a run of SmolLM2-135M-Instruct, on which no gain is seen.

# %%
run = stir.open_run("smollm2")
gate, seed = run.config.gate, run.config.seed
answers = {trace.id: trace for trace in run.traces()}
print(gate)

# %% [markdown]
# ## One answer

# %%
answer = answers["arithmetic/eval/sum_small:11+15"]
print(answer.text)
gate_evidence.step_table(answer)[
    ["m", "library", "retrieved", "candidates", "chosen", "best score", "null score", "margin", "alpha"]
].round(4)

# %% [markdown]
# Look at the margins first: at $m = 1, 2, 3$ the gate decides by a few *thousandths* of a score of about 2. This notebook shows what those thousandths consist of.
#
# ## Retrieve, by hand
#
# The state is the residual stream at the last token before the step, after the entry's own block. Every entry of this control point is ranked by the cosine of its key with the state. This takes one pass of the plain
# `TransformerBridge`; we keep the cache of everything *before* that token for later.

# %%
model = stir.load_model(run.config.model.name)
step = answer.steps[1]
evidence, m = step.evidence, step.evidence.m
prefix = [*answer.prompt_ids, *answer.token_ids][: evidence.position + 1]
layer = evidence.retrieved[0].layer
hook = f"blocks.{layer}.hook_out"

with torch.inference_mode():
    _, before = model.bridge(torch.tensor([prefix[:-1]]), use_cache=True, return_type="logits_and_cache")
    _, seen = model.bridge.run_with_cache(torch.tensor([prefix[-1:]]), past_key_values=copy.deepcopy(before), names_filter=[hook])
state = seen[hook][0, -1].numpy()

library = stir.to_frame(run)
here = library[library["in_basis"] & (library["m"] == m)].copy()
here["cosine"] = [float(key @ state / np.linalg.norm(key) / np.linalg.norm(state)) for key in here["key"]]
here["value"] = here["cosine"] * here["quality"]
nearest = here.sort_values("cosine", ascending=False).head(gate.k_retrieve)

recorded = {entry.entry_id: entry for entry in evidence.retrieved}
assert set(nearest["entry"]) == set(recorded)
assert all(abs(row.cosine - recorded[row.entry].sim) < 1e-4 for row in nearest.itertuples())
nearest[["entry", "kind", "problem_id", "cosine", "quality", "value"]].round(4)

# %% [markdown]
# Two observations. All cosines lie within a few percent of each other, as the keys of one control point are similar (notebook 02). And the qualities are within one percent of 1, because all right rollouts earn about the same reward. So the
# value $A = s \cdot q$ is almost the cosine.
#
# The null entries among the retrieved ones come from *right* rollouts of the mined problems. An action has to beat their best value, $A_\mathrm{null}$: **this state may look even more like that of a right answer**.
#
# ## Preview, by hand
#
# The best corrective entries are previewed: from this prefix a few tokens are decoded with the raw action added at the control point's token, and as many without it. $P$ is their mean log-probability *under the model that wrote them*, steered or not.
# Here the recorded tokens are read again with the same cache and a plain hook.


# %%
def preview(ids: tuple[int, ...], vector: np.ndarray | None = None) -> tuple[float, list[int]]:
    """Mean log-probability (nats per token) of ids after the prefix, and the ids that greedy decoding would choose."""

    def add(stream: torch.Tensor, hook) -> torch.Tensor:  # the impulse, only at the first token of this pass
        if vector is not None:
            stream[0, 0] += torch.tensor(vector)
        return stream

    with torch.inference_mode():
        window = torch.tensor([[prefix[-1], *ids[:-1]]])
        logits = model.bridge.run_with_hooks(window, past_key_values=copy.deepcopy(before), fwd_hooks=[(hook, add)])[0]
    logprobs = logits.log_softmax(-1)
    return float(logprobs[range(len(ids)), list(ids)].mean()), logprobs.argmax(-1).tolist()


actions = library.set_index("entry")["action"]
rows = [("null", evidence.null_preview_ids, evidence.null_logprob, *preview(evidence.null_preview_ids))]
for entry in evidence.retrieved:
    if entry.preview_logprob is not None:
        rows.append((entry.entry_id, entry.preview_ids, entry.preview_logprob, *preview(entry.preview_ids, actions[entry.entry_id])))
for _, ids, logprob, ours, greedy in rows:
    assert abs(ours - logprob) < 1e-3
    assert list(ids) == greedy
pd.DataFrame(
    [(name, model.text(ids), logprob, ours) for name, ids, logprob, ours, _ in rows], columns=["with", "writes", "recorded P", "by hand"]
)

# %% [markdown]
# The preview compares the log-probabilities of *different* texts under *different* models. It favours an action after which the steered model is confident; whether the text is right does not enter.
#
# ## Score, and commit or not
#
# $$\mathrm{score}_i = \beta A_i + \rho\,(P_i - P_\mathrm{null}), \qquad \mathrm{score}_\mathrm{null} = \beta A_\mathrm{null}$$
#
# The best action is committed only if its score is strictly above null's (and not below $\tau_\mathrm{null}$), at strength $\alpha = k\,\cdot$ score.

# %%
P_null = evidence.null_logprob
score = {
    e.entry_id: gate.beta * e.value + gate.rho * (e.preview_logprob - P_null) for e in evidence.retrieved if e.preview_logprob is not None
}
score_null = gate.beta * max(e.value for e in evidence.retrieved if e.kind == "null")
best = max(score, key=score.__getitem__)
committed = score[best] > score_null
alpha = gate.k_scale * score[best] if committed else 0.0
print(f"{best}: {score[best]:.4f} against null {score_null:.4f}: {'commit' if committed else 'null'}, alpha {alpha:.4f}")
assert (best if committed else None, alpha) == (step.decision.chosen, step.decision.alpha)

# %%
margin_terms(term_rows(step.decision, gate)).properties(width=480)

# %% [markdown]
# The orange term comes from retrieval, the blue one from the preview. Here retrieval favours null (a right rollout is nearer), the preview favours the action, and they nearly cancel. The next figure shows all
# steps of this answer; committed actions are framed.

# %%
as_recorded = gate_replay.replay_answer(answer, gate, gate, seed=seed)
margin_heatmap(gate_replay.margin_rows(as_recorded), len(answer.steps)).properties(width=420)

# %% [markdown]
# ## What null means
#
# "Null" has three meanings that are easily confused:
#
# 1. a **null entry**: a key without an action, the mean state of right rollouts;
# 2. the **null candidate**: no impulse, with its preview $P_\mathrm{null}$ and its score $\beta A_\mathrm{null}$;
# 3. a **null decision**: nothing was injected, for any reason.

# %%
steps = [step for trace in answers.values() for step in trace.steps]
asked = [step for step in steps if step.evidence.retrieved]


def why(step) -> str:
    """The kind of a decision."""
    if step.evidence.not_retrieved is not None:
        return f"null: {step.evidence.not_retrieved}"
    if step.decision.chosen is not None:
        return "an action was committed"
    return "null: no action beat the null score" if step.decision.scored else "null: no action among the retrieved"


print("\n".join(f"{count:3d}  {reason}" for reason, count in Counter(why(step) for step in steps).most_common()))

# %% [markdown]
# How often do null entries prevent a commit? Without them $A_\mathrm{null}$ would be 0, and a score of about 2 is always above that:

# %%
previewed = [step for step in asked if step.decision.scored]
without_null = sum(max(s.score for s in step.decision.scored) > max(0.0, gate.tau_null) for step in previewed)
no_null_near = sum(all(e.kind == "corrective" for e in step.evidence.retrieved) for step in asked)
print(
    f"{len(previewed)} steps with a candidate: {sum(s.decision.chosen is not None for s in previewed)} steered; without null entries {without_null} would be"
)
print(f"steps where no null entry was retrieved at all: {no_null_near}")
assert without_null == len(previewed)

# %% [markdown]
# So in this library only the null *entries* make the gate choose null: $\tau_\mathrm{null} = 0$ is far below every score, and no preview difference outweighs 2. The next figure shows all recorded steps on the gate's two axes (one mark: the best candidate of a step).

# %%
vanilla = {trace.id: trace for trace in run.traces("vanilla")}
gate_map(run)

# %% [markdown]
# ## Deciding again, without the model
#
# The gate is a pure function of the evidence, so a recorded answer can be decided again with other parameters. With its own parameters the result must be the same:

# %%
for trace in answers.values():
    assert [again.decision for again in stir.redecide(trace, gate, gate, seed=seed)] == [step.decision for step in trace.steps]


def flip(step, again) -> str:
    """How a decision changes."""
    if again.decision is None:
        return "not in the recording"
    old, new = step.decision.chosen, again.decision.chosen
    if old == new:
        return "same"
    if new is None:
        return "to null"
    return "to an action" if old is None else "to another action"


def flips(**changes) -> dict:
    """Counts of changed decisions under other gate parameters."""
    other = stir.with_changes(gate, **changes)
    counts = Counter(
        flip(step, again)
        for trace in answers.values()
        for step, again in zip(trace.steps, stir.redecide(trace, gate, other, seed=seed), strict=True)
        if step.evidence.retrieved
    )
    return {"changed": ", ".join(f"{key} = {value}" for key, value in changes.items()), **counts}


tried = [
    {"rho": 0.0},
    {"rho": 1.0},
    {"beta": 1.0},
    {"beta": 4.0},
    {"candidates": 1},
    {"k_retrieve": 4},
    {"k_retrieve": 12},
    {"probe_tokens": 8},
]
pd.DataFrame([flips(**changes) for changes in tried]).set_index("changed").fillna(0).astype(int)

# %% [markdown]
# Without previews ($\rho = 0$) decisions flip in *both* directions: some commits depended on their preview, and some previews prevented a commit. Other parameters may need evidence that was not recorded (more entries, longer previews); such decisions count as *not in the
# recording*. The next figure varies one parameter, with Wilson 95 % intervals (they treat steps as independent, which those of one answer are not). The line marks the run's own value.

# %%
rhos = np.linspace(0, 0.5, 26)
steered_share(gate_replay.curve(answers, gate, gate, "rho", rhos, seed=seed), "rho (weight of the preview)", gate.rho, gate.rho).properties(
    width=420
)

# %% [markdown]
# ## How far is this valid?
#
# Up to and including the first decision that changes. After it, the answer would have continued with other text. To see this, the same prompt is decoded live with $\rho = 0$ and compared with the decisions
# from the recording.

# %%
quiet = stir.with_changes(gate, rho=0.0)
again = stir.redecide(answer, gate, quiet, seed=seed)
turn = next(i for i, (a, s) in enumerate(zip(again, answer.steps, strict=True)) if a.decision.chosen != s.decision.chosen)

session = stir.open_session(run, model)
problem = next(problem for problem in run.problems("steered") if problem.id == answer.id)
live = stir.steer(session, problem, quiet, stir.with_changes(run.config.decode, max_new_tokens=64)).steered
print(
    f"first changed decision: control point {answer.steps[turn].m}, {answer.steps[turn].decision.reason}  ->  {again[turn].decision.reason}"
)
assert live.steps[turn].decision.chosen == again[turn].decision.chosen
assert all(a.token_ids == b.token_ids for a, b in zip(live.steps[:turn], answer.steps[:turn], strict=True))

for name, trace in (("vanilla", vanilla[answer.id]), ("steered, as recorded", answer), ("steered, rho = 0", live)):
    print(f"{name}: {'right' if trace.verdict.correct else 'wrong'}, {trace.tokens_used} tokens")

rows = [(s.m, s.text.strip()[:60], s.decision.chosen or "null") for s in answer.steps[: len(live.steps)]]
table = pd.DataFrame(rows, columns=["m", "recorded text", "recorded"])
table["decided again"] = [a.decision.chosen or "null" for a in again[: len(live.steps)]]
table["live text"] = [s.text.strip()[:60] for s in live.steps]
table["live"] = [s.decision.chosen or "null" for s in live.steps]
table

# %% [markdown]
# Up to the first changed decision both agree, token for token and decision for decision; after it the recording is about a text that would not have been written. In this case vanilla decoding answers and stops, and a margin of two
# thousandths prevented that. One answer proves nothing about the gate. `stir.what_if` changes a single decision and decodes from there, with the model; notebook 04 tests whether
# these decisions help.
