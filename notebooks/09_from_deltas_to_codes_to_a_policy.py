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
# # 09 From deltas to codes to a policy
#
# Mining compares a few pairs of rollouts. A *codebook* looks at all steps of all rollouts and describes each by one of K codes, and a *learned gate* decides from drawn decisions when to act. This notebook goes from one to the other: what of a step
# has to be coded, how many codes are worth having, what a code is, whether codes can steer, and what a gate that was learned is worth before and after it is run.
#
# Everything is judged on an organism, a small model whose two habits were planted, so that there is a truth to compare with. It is a calibration object: nothing here is evidence that codes or learned gates help a real model.

# %%
import os
import shutil
import tempfile
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

import stir_core as stir

alt.renderers.enable("png", scale_factor=1.5)
pd.set_option("display.max_colwidth", None)
thrown_away = tempfile.TemporaryDirectory()
root = Path(thrown_away.name)
os.environ["STIR_RUNS"] = thrown_away.name
run = stir.open_run(shutil.copytree(stir.open_run("two_habits").path, root / "two_habits"))  # an embedded run is never written to
model = stir.load_model("organism:two_habits")

# %% [markdown]
# ## What to code: the change over a step, or the state after it?
#
# "What a step does" sounds like a difference: the state at its end minus the state at its beginning. Four codes are fitted to these *deltas*, and four to the *states*, each on three quarters of the problems; the table is about the others.
# *AMI* is adjusted mutual information, beside it what chance gives when whole problems exchange their codes. *ARI* is the adjusted Rand index of the codes with the label, *read as* the same when each code is read as the commonest label of its train steps.

# %%
reports = {"delta": stir.codebook(run, size=4, encoder="delta", redo=True)}
reports["state"] = stir.codebook(run, size=4, encoder="state", redo=True)
told = pd.DataFrame(
    {"coded": coded, "codes and": each.about, "held-out steps": each.steps, "AMI": each.information, "by chance": each.null}
    | {"ARI": each.ari, "read as": each.read_as, "shuffled": each.shuffled}
    for coded, report in reports.items()
    for each in report.layers[0].information
)
print(f"{reports['state'].steps} steps of {reports['state'].problems} problems, {reports['state'].held_out} of them held out")
told.set_index(["coded", "codes and"]).round(2)

# %% [markdown]
# Look at the rows *habit* and *habit and kind* (kind: whether the problem adds or subtracts). Codes of states are the planted thing; codes of deltas are not. Few problems are held out here, so the figures are coarse, and below eight problems there is no interval; [Calibration](../docs/calibration.md#codes-of-steps) has them on more.

# %%
by_label = told.set_index(["coded", "codes and"])
state, delta = by_label.loc["state"], by_label.loc["delta"]
for label in ("habit", "habit and kind"):
    print(f"{label}: ARI read as {state.loc[label, 'read as']:.2f} from states, {delta.loc[label, 'read as']:.2f} from deltas")
told_of_habit = next(each for each in reports["state"].layers[0].information if each.about == "habit")
print(f"AMI of habit over {told_of_habit.problems} held-out problems: {told_of_habit.estimates['information']:.2f}")
assert state.loc["habit", "read as"] >= 0.6 > delta.loc["habit", "read as"] and state.loc["habit and kind", "ARI"] >= 0.6
assert abs(state.loc["habit", "shuffled"]) <= 0.1

# %% [markdown]
# Why? A habit that stays from one step to the next is in both states, so it cancels in their difference. Two figures by hand, from the stored states: how often the code of a step is that of the step before, and how much of the variance lies *between* the codes of states, in the
# states and in the deltas (each centred at its control point).

# %%
rows, tensors = run.steps()
layer = reports["state"].layers[0].layer
states, codes = tensors[f"layer_{layer}"].astype(float), run.step_codes()[f"codes_{layer}"]
steps = pd.DataFrame([{"row": row.row, "problem": row.problem_id, "k": row.k, "m": row.m} for row in rows if row.m])
steps["code"] = codes[steps["row"]]
steps["before"] = steps.groupby(["problem", "k"])["code"].shift()
follows = steps.dropna(subset=["before"])


def between_codes(vectors: np.ndarray, table: pd.DataFrame) -> float:
    """Share of the variance that the codes explain, every control point centred by itself."""
    frame = pd.DataFrame(vectors).groupby(table["m"].to_numpy()).transform(lambda column: column - column.mean())
    means = frame.groupby(table["code"].to_numpy()).transform("mean")
    return float((means**2).to_numpy().sum() / (frame**2).to_numpy().sum())


later = follows["row"].to_numpy()
stays = float((follows["code"] == follows["before"]).mean())
shares = [between_codes(each, follows) for each in (states[later], states[later] - states[later - 1])]
print(f"the code is that of the step before in {stays:.0%} of {len(follows)} steps after a first one")
print(f"share of the variance between codes: {shares[0]:.0%} of the states, {shares[1]:.0%} of the deltas")
assert shares[1] < shares[0]

# %% [markdown]
# As a picture: each row is an answer, each cell a step with the code of its state. A colour that runs through a row is what a delta cannot show.

# %%
verdicts = {(each.problem_id, each.k): each.verdict.correct for each in run.rollouts()}
shown = steps[
    steps["problem"].isin(sorted(steps["problem"].unique())[:: steps["problem"].nunique() - 1])
].copy()  # one problem of each kind
shown["answer"] = shown["problem"].str.split(":").str[-1] + " #" + shown["k"].astype(str).str.zfill(2)
shown["outcome"] = ["right" if verdicts[key] else "wrong" for key in zip(shown["problem"], shown["k"], strict=True)]
strip = alt.Chart(shown).mark_rect(stroke="white").encode(alt.X("m:O", title="step"), alt.Y("answer:N", title=None), alt.Color("code:N"))
alt.hconcat(*(strip.transform_filter(alt.datum.outcome == outcome).properties(title=outcome, width=150) for outcome in ("right", "wrong")))

# %% [markdown]
# ## How many codes: rate and distortion
#
# Squared error on held-out problems, as a share of their variance in whitened components, over the number of codes. For comparison at the size that was fitted: principal components (one for each bit of a code), directions drawn at random with the codes' norms, and shuffled codes.

# %%
found = reports["state"].layers[0]
curve = stir.to_frame(found.rate)
others = stir.to_frame(found.fits)[1:]
line = (
    alt.Chart(curve)
    .mark_line(point=True)
    .encode(alt.X("size:Q", scale=alt.Scale(type="log", base=2), title="codes", axis=alt.Axis(values=list(curve["size"].unique()))))
)
marks = alt.Chart(others).mark_point(filled=True, size=70).encode(alt.X("size:Q"))
both = (part.encode(alt.Y("error:Q", title="held-out error"), alt.Color("method:N")) for part in (line, marks))
alt.layer(*both).properties(width=380, height=220)

# %%
print(
    f"{reports['state'].size} codes: error {found.fits[0].error:.3f}, {found.merged} left after merging what costs little ({found.merged_error:.3f})"
)
print(f"agreement of two seeds {found.seeds:.2f}, of two halves of the problems {found.halves:.2f}")
assert found.fits[0].error < others["error"].min()

# %% [markdown]
# The error goes on falling with K: more codes describe more. It does not say which number means something. The planted truth does here (two habits times two kinds); on a real model only agreement between seeds and halves, and what the codes go with, are there to be asked.
#
# ## What a code is: exemplars
#
# The steps nearest to the mean of each code, the share of its members in right answers, and a flag where position or length alone would explain it.

# %%
pd.DataFrame(
    {"code": each.code, "members": each.members, "right": f"{each.right:.0%}", "tokens": each.tokens, "flags": ", ".join(each.flags) or "-"}
    | {"nearest steps": " | ".join(each.exemplars[:3])}
    for each in found.codes
).set_index("code")

# %% [markdown]
# ## Codes as a control basis
#
# A code becomes an entry: its vector is the mean state of right answers minus that of its wrong members, problem by problem; its key is the mean state of its members. The entries are the library `codes`, and everything that takes a library takes it: retrieval, the gate, evaluations, causal studies, exports.
# How near are they to what mining found at the same control point?

# %%
library, basis = stir.open_library(run, "codes"), stir.open_library(run)
rows_of = {name: stir.to_frame(each).query("kind == 'corrective'") for name, each in (("codes", library), ("basis", basis))}


def unit(vectors: pd.Series) -> np.ndarray:
    """Rows of norm 1."""
    stacked = np.stack(list(vectors))
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


near = [
    (unit(rows_of["codes"]["action"])[i] @ unit(rows_of["basis"].query("m == @m")["action"]).T).max()
    for i, m in enumerate(rows_of["codes"]["m"])
]
table = rows_of["codes"][["entry", "m", "quality", "action_norm"]].assign(nearest_mined=near)
print(
    f"quality: {'mean measured advantage of the mined actions among its members' if reports['state'].quality == 'measured' else 'a proxy'}"
)
table.set_index("entry").round(3)

# %% [markdown]
# Greedy answers to held-out problems, paired by problem: vanilla, the mined basis, the codes, and the codes with noise of the same norm.

# %%
noise = "stir:library=codes,noise=matched,variant=random_vector"
evaluated = stir.evaluate_methods(run, model, ["stir", "stir:library=codes", noise], n=60, rows=64, label="codes")


def outcomes(report) -> pd.DataFrame:
    """Accuracy of each method, and its difference from vanilla."""
    table = []
    for each in report.methods:
        against = each.versus
        paired = ("", "") if against is None else (f"{100 * against.difference.value:+.1f}", f"{len(against.won)} / {len(against.lost)}")
        low, high = (None, None) if against is None else (against.difference.low, against.difference.high)
        interval = "" if low is None else f"[{100 * low:+.1f}, {100 * high:+.1f}]"
        accuracy = 100 * each.accuracy.value
        table.append((each.name, each.answers, f"{accuracy:.1f} %", *paired, interval, round(each.forward, 1)))
    heads = ["method", "problems", "right", "points over vanilla", "won / lost", "95 %", "forward tokens"]
    return pd.DataFrame(table, columns=heads).set_index("method")


outcomes(evaluated)

# %%
right = {each.name: each.accuracy.value for each in evaluated.methods}
print(f"codes minus mined basis: {100 * (right['stir:library=codes'] - right['stir']):+.1f} points on these problems")
print(f"noise minus vanilla: {100 * (evaluated.methods[-1].accuracy.value - right['vanilla']):+.1f} points")
assert right["stir:library=codes"] > right["vanilla"]

# %% [markdown]
# So the directions that codes hold do steer, and noise of their norm is the comparison for "any impulse". Whether they steer *as well* as mined entries depends on where there are entries: the table above shows at which control points (`m`) the codes have any.
#
# ## A gate that is learned
#
# The published gate compares a score with that of null. A learned gate is fitted to what actions did: at one control point of an answer the decision is *drawn*, with known probabilities, and both its outcome and that of null are decoded. From these decisions four gates are learned
# (`probe`, `direct`, `ips`, `awr`), and each is judged out of fold by a doubly robust estimate (DR) before it is ever run. Then it *is* run, on problems that nothing was fitted to.

# %%
learned = stir.policy(run, model, n=100, further=40, rows=64)


def gates(report) -> pd.DataFrame:
    """Every gate: its estimate beside its run, and what it shows."""
    return pd.DataFrame(
        {
            "gate": gate.name,
            "acts": f"{gate.acts:.0%}",
            "effective n": round(gate.effective),
            "DR": "-" if gate.dr is None else f"{gate.dr:.3f}",
        }
        | {
            "on policy": "-" if gate.on_policy is None else f"{gate.on_policy:.3f}",
            "over null": f"{gate.over_null:+.3f}",
            "verdict": gate.verdict,
        }
        for gate in report.gates
    ).set_index("gate")


print(f"{learned.decisions} drawn decisions of {learned.problems} problems; run on {learned.further} further ones")
print(learned.verdict)
gates(learned)

# %%
judged = [gate for gate in learned.gates if gate.dr is not None and gate.on_policy is not None]
bars = pd.DataFrame({"gate": gate.name, "reward": gate.dr.value, "low": gate.dr.low, "high": gate.dr.high} for gate in judged)
ran = pd.DataFrame({"gate": gate.name, "reward": gate.on_policy.value, "seen": "on policy"} for gate in judged)
base = alt.Chart(bars.assign(seen="estimate")).encode(alt.Y("gate:N", sort=list(bars["gate"]), title=None))
scale = alt.Scale(zero=False)
intervals = base.mark_rule().encode(alt.X("low:Q", scale=scale, title="mean reward"), alt.X2("high:Q"))
points = alt.Chart(pd.concat([bars.assign(seen="estimate"), ran])).mark_point(filled=True, size=60)
intervals + points.encode(
    alt.X("reward:Q", scale=scale), alt.Y("gate:N", sort=list(bars["gate"])), alt.Color("seen:N", title=None), alt.Shape("seen:N")
)

# %% [markdown]
# The bar is the interval of the estimate, made from decisions that another gate drew; the other mark is the run. An estimate that its run contradicts is worth nothing, so each is checked. On an organism there is more: the habit of the writer is known at every control point.

# %%
for gate in judged:
    print(f"{gate.name}: the interval {'contains' if gate.contained else 'DOES NOT CONTAIN'} the run")
truth = pd.DataFrame(
    {"gate": gate.name, "acts in the wrong habit": f"{gate.truth.fired_wrong} of {gate.truth.wrong}"}
    | {
        "acts in the right one": f"{gate.truth.fired_right} of {gate.truth.right}",
        "null where nothing is needed": f"{gate.truth.null_share:.1%}",
    }
    | {"ROC area": "-" if gate.truth.auc is None else f"{gate.truth.auc:.2f}"}
    for gate in judged
    if gate.truth is not None and gate.name != "null"
)
truth.set_index("gate")

# %%
better = [gate.name for gate in judged if gate.verdict.endswith("better than the published gate")]
print(f"better than the published gate: {', '.join(better) or 'none'}")
shuffled = [gate for gate in learned.gates if "shuffled" in gate.name]
print(f"gates learned from shuffled outcomes that act: {sum(gate.acts > 0 for gate in shuffled)} of {len(shuffled)}")
assert all(gate.contained for gate in judged)

# %% [markdown]
# ## Where nothing is to be done
#
# In the organism `null` errors come at random and no state holds a reason: a sampled answer slips now and then, a greedy one hardly ever. A good gate does nothing there. The same settings, harvested and learned anew; then held-out answers with the mined basis, with codes, and with codes under a learned gate.

# %%
settings = run.config.model_dump() | {"model": {"name": "organism:null"}}
nothing = stir.harvest_run(stir.RunConfig.model_validate(settings), root / "null", until="basis")
model_of_nothing = stir.load_model("organism:null")
abstained = stir.policy(nothing, model_of_nothing, n=60, further=20, rows=64)
print(
    f"{abstained.decisions} drawn decisions of {abstained.problems} problems, {abstained.right:.1%} right under null; run on {abstained.further}"
)
print(abstained.verdict)
gates(abstained)

# %%
stir.codebook(nothing, size=4, model=model_of_nothing)
entries = sum(entry.kind == "corrective" for entry in stir.open_library(nothing, "codes").entries)
print(f"{entries} corrective entries made of codes")
methods = ["stir", "stir:policy=direct", *(["stir:library=codes", "stir:library=codes,policy=direct"] if entries else [])]
harm = stir.evaluate_methods(nothing, model_of_nothing, methods, n=60, rows=64, label="harm")
outcomes(harm)

# %%
lost = {each.name: len(each.versus.lost) for each in harm.methods if each.versus is not None}
print(f"lost under the published gate: {lost['stir']} with the mined basis, {lost.get('stir:library=codes', 0)} with codes")
acting = [gate.name for gate in abstained.gates if gate.acts > 0 and gate.name != "value"]
print(f"learned gates that act: {', '.join(acting) or 'none'}")
with_gate = [each for each in harm.methods if "policy=direct" in each.name and each.versus is not None]
print(
    f"lost under the learned gate: {sum(len(each.versus.lost) for each in with_gate)} of {sum(each.answers for each in with_gate)} answers"
)
assert not acting and not any(each.versus.lost for each in with_gate)

# %% [markdown]
# A gate abstains when no threshold is seen to gain over null, which is the right answer here and would be the answer on any run with too few decisions, too. So "abstains" does not say that nothing could help; it says that nothing was *seen* to. On a real model, ask the same tables first:
# `stir codebook RUN`, `stir policy RUN`. [Calibration](../docs/calibration.md#learned-gates) has what they said on organisms with more problems, and on SmolLM2 and Qwen2.5-Coder-0.5B.
