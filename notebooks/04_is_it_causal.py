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
# # 04 Is it causal?
#
# A direction that separates right rollouts from wrong ones need not *make* an answer right. The test is an intervention: take the state at which the gate had to decide, continue from it with the action and
# without it, and change nothing else. It needs two controls: **null** (no impulse), and a **random direction of the same norm at the same token**, because any impulse of that norm has some effect.
#
# Three questions: does an action change how often the answer is right? Does the gate's evidence predict which actions help? Does an action change the model's predictions more than noise does?

# %%
import math
import os
import tempfile

import altair as alt
import numpy as np
import pandas as pd
import plotly.io as pio
import torch

import stir_core as stir
from workbench.causal import data as causal_evidence
from workbench.causal.charts import advantage_map
from workbench.shared.charts import forest

alt.renderers.enable("png", scale_factor=1.5)
pio.templates.default = "plotly_white"
thrown_away = tempfile.TemporaryDirectory()
os.environ["STIR_RUNS"] = thrown_away.name  # the study below does not touch your own runs


def effects(report) -> None:
    """Print a study's effects, each with its pairs and its problems."""
    print(causal_evidence.study_line(report))
    for effect in report.effects:
        print(
            f"{effect.arm} against {effect.against}: {effect.advantage:+}, won {effect.won}, lost {effect.lost}, {effect.problems} problems"
        )


# %% [markdown]
# ## A case where it works
#
# First the instrument itself, where the truth is known. `two_habits` is an organism, a small model with two planted habits; the action of the right sign corrects every later step. It is a calibration object: it shows that a study like this finds an effect that is there, and nothing about real models. The embedded run
# contains a study, made by `stir causal` (or `stir.measure_causal`). States are control points of held-out answers at which the gate had candidates. Every arm of a state continues the same prefix with the *same random streams* (common random numbers), so continuations come in pairs.

# %%
organism = stir.open_run("two_habits")
effects(stir.read_causal(organism).report)

# %%
forest(causal_evidence.arm_table(stir.read_causal(organism).report), "advantage (share of right answers, first minus second)")

# %% [markdown]
# The chosen action against null is the effect of the gate's choice, and noise of the same norm shows what any impulse of that size would do.
#
# ## A case where the published gate harms
#
# In `hidden_kind` no word shows which habit is wrong on a problem. The same settings, harvested now and measured in the same way:

# %%
settings = organism.config.model_dump() | {"model": {"name": "organism:hidden_kind"}}
hidden = stir.harvest_run(stir.RunConfig.model_validate(settings), thrown_away.name + "/hidden_kind", until="basis")
effects(stir.measure_causal(hidden, stir.load_model("organism:hidden_kind"), n=24, states=24, rolls=4, halving=False, rows=128))

# %% [markdown]
# The actions do something here too, but the gate does not know when to use them: what they win on answers in the wrong habit they lose on answers in the right one. An effect of an action at *some* states is not yet a gain.
#
# ## A real model: a stored study
#
# The run `smollm2` contains a small study too, and no gain is seen in it.

# %%
run = stir.open_run("smollm2")
report, rolls = stir.read_causal(run)
print(causal_evidence.study_line(report))
frame = stir.to_frame(rolls)
frame.groupby("arm")["correct"].agg(["size", "mean"]).rename(columns={"size": "continuations", "mean": "share right"}).sort_values(
    "continuations", ascending=False
).head(4).round(3)

# %% [markdown]
# Do not compare the shares in this table: arms were tried at different states, and only pairs may be compared. Also note the floor: a 135M model is rarely right from these states, so an action can hardly do harm here, but it could help.
#
# An advantage is the mean over pairs of *right with* minus *right without*. The next cell computes it by hand. Continuations of one state are alike, and so are states of one problem, so an interval can only rest on how much *problems* differ:
# the standard error is computed by leaving out one problem at a time (jackknife), and below eight problems there is no interval at all. The report's own interval is Tango's score interval for paired proportions with the same standard error; it has a width even where all pairs tie.

# %%
pairs = frame.pivot(index=["problem_id", "m", "rep"], columns="arm", values="correct").astype(float)
chosen = {(p.problem_id, p.m): p.entry_id for p in report.points if p.chosen}
pairs["chosen action"] = [pairs.loc[at, chosen[at[:2]]] if at[:2] in chosen else math.nan for at in pairs.index]


def advantage(arm: str, against: str) -> tuple[float, float, int]:
    """Mean of paired differences, its standard error (jackknife over problems), and the number of problems."""
    gaps = (pairs[arm] - pairs[against]).dropna()
    problems = gaps.index.get_level_values("problem_id")
    left_out = np.array([gaps[problems != problem].mean() for problem in problems.unique()])
    n = len(left_out)
    return float(gaps.mean()), float(np.sqrt((n - 1) * left_out.var())), n


names = {"random direction": "random"}  # the report's name: the name in the continuations
for effect in report.effects:
    value, error, problems = advantage(names.get(effect.arm, effect.arm), effect.against)
    print(f"{effect.arm} against {effect.against}: {value:+.3f}, standard error {error:.3f}, {effect.pairs} pairs from {problems} problems")
    print(f"    the report: {effect.advantage:+.3f}")
    assert abs(value - effect.advantage.value) < 1e-9 and problems == effect.problems
    assert (effect.advantage.low is None) == (problems < 8)

# %%
forest(causal_evidence.arm_table(report), "advantage (share of right answers, first minus second)")

# %% [markdown]
# ## Power
#
# An interval that contains 0 means that no effect was *detected*, not that there is none. How large would an effect have to be to be detected? McNemar's exact test uses the pairs that differ. If all of them go one way, it needs this many:

# %%
needed = next(n for n in range(1, 50) if 2 * 0.5**n <= 0.05)
own = next(effect for effect in report.effects if (effect.arm, effect.against) == ("chosen action", "null"))
print(f"{needed} pairs, all one way: an advantage of at least {needed / own.pairs:+.3f} with the {own.pairs} pairs at hand")
print(f"observed: {own.won} won, {own.lost} lost")
assert 2 * 0.5**needed <= 0.05 < 2 * 0.5 ** (needed - 1)

noise = next(effect for effect in report.effects if effect.arm == "random direction")
rate = (noise.won + noise.lost) / noise.pairs
for delta in (0.05, 0.1):
    spread = max(rate, delta)
    n = (1.96 * math.sqrt(spread) + 0.84 * math.sqrt(spread - delta**2)) ** 2 / delta**2
    print(f"to detect {delta:+.2f} with 80 % power, if {spread:.0%} of pairs differ: about {n:.0f} independent pairs")

# %% [markdown]
# At best, that is: pairs of one problem are alike, so the study needs more of them, and the chosen actions were tried on fewer than eight problems. So it says nothing about small gains and, because of the floor, little about harm. Per action there is even less data (a mark without a bar: fewer than eight problems, so there is no interval):

# %%
table = causal_evidence.advantage_table(report)
print(table["problems"].value_counts().rename_axis("tried on so many problems").rename("actions").to_string())
forest(table, "advantage (share of right answers with the action minus without)")

# %%
print("\n".join(f"- {line}" for line in causal_evidence.bias_lines(report)))

# %% [markdown]
# ## Does the gate's evidence predict which actions help?
#
# Each mark is a candidate at a state, on the gate's own axes (notebook 03), coloured by its measured effect: red better than null, blue worse. If the evidence were predictive, red would lie above the dashed line.

# %%
advantage_map(causal_evidence.point_table(report).dropna(subset=["gain"]))

# %%
reading = causal_evidence.gate_reading(report)
print(reading.answer, reading.figures)
causal_evidence.predictor_table(report).round(3)

# %% [markdown]
# ## Does an action do more than noise?
#
# A continuation gives one bit, right or wrong. The next-token distribution can be measured completely, so a few states are enough for a weaker question: does the committed impulse move it more than a random direction
# *of the same norm*? We measure on the raw bridge: the cache of the prefix, then one pass of the control point's token, one row per arm. The third arm is the action mined again with the labels *right* and *wrong*
# shuffled, at the same norm.

# %%
model = stir.load_model(run.config.model.name)
entries = {entry.id: entry for entry in run.entries()}
actions, shuffled = run.action_rows(), run.control_rows("shuffled")
N_RANDOM = 16
rng = np.random.default_rng(0)


def divergences(trace, step) -> dict[str, list[float]]:
    """KL(steered || unsteered) in nats at a control point, by arm, all impulses of one norm."""
    entry, prefix = entries[step.decision.chosen], [*trace.prompt_ids, *trace.token_ids][: step.evidence.position + 1]
    action = step.decision.alpha * actions[entry.action_row]
    others = [shuffled[entry.action_row], *rng.standard_normal((N_RANDOM, len(action)))]
    impulses = [0 * action, action, *(other * np.linalg.norm(action) / max(np.linalg.norm(other), 1e-9) for other in others)]
    rows = torch.tensor(np.stack(impulses), dtype=torch.float32)[:, None]
    with torch.inference_mode():
        _, cache = model.bridge(torch.tensor([prefix[:-1]]), use_cache=True, return_type="logits_and_cache")
        cache.batch_repeat_interleave(len(rows))
        add = (f"blocks.{entry.layer}.hook_out", lambda stream, hook: stream + rows)
        logits = model.bridge.run_with_hooks(torch.tensor([prefix[-1:]] * len(rows)), past_key_values=cache, fwd_hooks=[add])
    log = logits[:, -1].double().log_softmax(-1)
    kl = (log.exp() * (log - log[0])).sum(-1)
    assert kl[0] == 0
    return {
        "action": kl[1:2].tolist(),
        "shuffled labels": kl[2:3].tolist() if np.any(others[0]) else [],
        "random direction": kl[3:].tolist(),
    }


first = [
    (trace, next(step for step in trace.steps if step.decision.chosen))
    for trace in run.traces()
    if any(s.decision.chosen for s in trace.steps)
]
measured = [(f"{trace.id.split('/')[-1]} m={step.evidence.m}", divergences(trace, step)) for trace, step in first[:6]]
order = ["random direction", "shuffled labels", "action"]  # the last is drawn on top
marks = pd.DataFrame([(state, arm, kl) for state, kls in measured for arm in order for kl in kls[arm]], columns=["state", "arm", "kl"])
alt.Chart(marks).mark_point(filled=True, size=60, opacity=0.8).encode(
    x=alt.X("kl", title="KL(steered || unsteered) at the control point, nats", scale=alt.Scale(type="log")),
    y=alt.Y("state", title="held-out answer, control point", sort=None, axis=alt.Axis(labelLimit=220)),
    color=alt.Color("arm", scale=alt.Scale(domain=order, range=["#8a8f98", "#3a87c8", "#d55e00"])),
    shape=alt.Shape("arm", scale=alt.Scale(domain=order, range=["circle", "square", "diamond"])),
).properties(width=420, height=200)

# %%
draws = rng.integers(1, N_RANDOM + 2, (100_000, len(measured))).mean(axis=1)  # ranks if the arm were one more random direction
for arm in ("action", "shuffled labels"):
    ranks = [1 + sum(kl < kls[arm][0] for kl in kls["random direction"]) for _, kls in measured if kls[arm]]
    p = (draws >= np.mean(ranks)).mean() if len(ranks) == len(measured) else math.nan
    print(
        f"{arm}: rank {ranks} of {N_RANDOM + 1}, mean {np.mean(ranks):.1f}; {(N_RANDOM + 2) / 2:.1f} expected of one more random direction (p = {p:.3f})"
    )
controls = run.controls()
cosines = [controls[step.decision.chosen].shuffled_cosine for _, step in first[: len(measured)]]
print("cosine of the shuffled-label action with the true one:", [None if cosine is None else round(cosine, 2) for cosine in cosines])

# %% [markdown]
# A random direction of the action's norm is a strong control: in 576 dimensions it also moves the prediction, at some states more than the action does. Over these few states, actions tend towards the upper end of that range. This is not yet evidence for
# *right minus wrong*. The control for that is the shuffled labels, which give differences of real states too (but where their cosine is near 1, the shuffle nearly drew the true labels and is not a control). Moving the prediction is necessary for a causal effect, but far from sufficient.
#
# ## A tiny study of your own
#
# The same call as on the command line, at a size that fits in a notebook: a single state, all its arms, a few continuations each. It shows how a study works; it is too small to show an effect.

# %%
live = stir.measure_causal(run, model, n=1, states=1, rolls=4, halving=False, max_new_tokens=64, fresh=True)
print(causal_evidence.study_line(live))
tried = stir.to_frame(stir.read_causal(run).rolls)
assert len(tried) == live.rolls == tried["arm"].nunique() * 4
print(tried.pivot(index="arm", columns="rep", values="correct").astype(int).to_string())
print("\n".join(f"{e.arm} against {e.against}: {e.advantage:+.2f}" for e in live.effects))

# %% [markdown]
# Where the gate chose null there is no chosen action, and the noise has the norm of the first candidate's impulse. One problem cannot show how much problems differ, so there is no interval. An informative study needs hundreds of pairs: `stir causal RUN --states 200 --rolls 8`, on a model that is right about
# half of the time. Its advantages can then replace mined qualities in retrieval and selection (`quality = "measured"`, notebook 02).
