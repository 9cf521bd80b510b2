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
# # 02 The geometry of a control basis
#
# Mining gives more entries than one wants to compare a state with at every step, and many of them are near copies. Stage II of STIR keeps a *control basis*: good entries that differ. It maximises
#
# $$\sum_{i \in S} \log(1 + q_i) + \lambda \log\det(K_S + \epsilon I), \qquad |S| \le B$$
#
# greedily, where $q_i$ is an entry's quality (the reward gap of its pair) and $K$ holds the cosines between keys: a quality-weighted determinantal point process. Here we look at the keys of the
# embedded run, at what its basis covers, and at what $\lambda$ and $B$ really do. Nothing below loads a language model.

# %%
import altair as alt
import numpy as np
import pandas as pd

import stir_core as stir
from workbench.basis import data as basis_geometry
from workbench.basis.charts import action_map, cosine_heatmap, coverage_chart
from workbench.shared.facts import RunFacts

alt.renderers.enable("png", scale_factor=1.5)  # images: they show everywhere, and no page asks the network for a library
run = stir.open_run("demo")
library = stir.to_frame(run)
basis = run.config.basis
print(f"{len(library)} entries, {library['in_basis'].sum()} in the basis: B = {basis.budget}, lambda = {basis.diversity}")

# %% [markdown]
# ## A map, with its warning
#
# UMAP of the keys under the cosine metric, one point an entry, filled when it is in the basis. The keys form one cloud with a drift from early control points to late ones; there are no islands to name.
# Retrieval compares a state only with entries of its own control point, so the neighbours that matter have the same colour. Two dimensions lie about distances: whatever is measured below is measured in the
# original space.

# %%
x, y = run.map_coordinates()["umap"].T
points = library.rename(columns={"in_basis": "in the basis"}).assign(x=x, y=y, value=library["m"])
action_map(points, "umap", "m", "ordered")

# %% [markdown]
# ## Cosines
#
# The keys of the basis as a heatmap in cluster order. Raw residual states are anisotropic: every cosine is high, and what distinguishes entries lives in the last tenths. The colours therefore run from the
# smallest cosine to 1.

# %%
facts = RunFacts(run)
shown, _ = basis_geometry.heatmap_ids(facts, "keys", only_selected=True)
cosine_heatmap(basis_geometry.heatmap_table(facts, "keys", shown), full_range=False, size=360)

# %%
rows = []
for vectors in ("key", "action"):
    chosen = library.dropna(subset=["action"])
    units = np.stack([vector / np.linalg.norm(vector) for vector in chosen[vectors]])
    cosines = units @ units.T
    same_m = chosen["m"].to_numpy()[:, None] == chosen["m"].to_numpy()
    same_problem = chosen["problem_id"].to_numpy()[:, None] == chosen["problem_id"].to_numpy()
    apart = ~np.eye(len(units), dtype=bool)
    for name, mask in (
        ("same m, other problem", same_m & ~same_problem),
        ("other m, same problem", ~same_m & same_problem),
        ("neither", ~same_m & ~same_problem),
    ):
        rows.append(
            {"vectors": vectors, "pairs of": name, "mean cosine": cosines[mask & apart].mean(), "n": int((mask & apart).sum() // 2)}
        )
pd.DataFrame(rows).round(3)

# %% [markdown]
# All keys agree, and those at one control point or of one problem only a little more than the others. **Actions hardly agree with one another at all**, not even two of one problem at
# neighbouring steps. There is no single "reasoning direction" in this library. That is the argument for retrieving an action instead of adding a constant vector, and just as much a reason to ask whether a
# difference of so few rollouts is more than noise (notebooks 01 and 04).
#
# ## What was kept

# %%
coverage_chart(basis_geometry.counts_by_step(facts)).properties(width=420, height=200)

# %%
basis_geometry.coverage_table(facts).set_index("set")[
    ["entries", "mean quality", "key rank", "action rank", "key cosine", "nearest selected", "worst"]
].round(3)

# %% [markdown]
# *Key rank* is the effective rank (exponential of the entropy of the singular values): how many directions a set spans. *Nearest selected* is the mean cosine of an entry with the nearest
# one that was kept, *worst* the least covered entry.
#
# ## What lambda does
#
# `stir.select_basis` is the run's own Stage II under other settings. To see $\lambda$ at work, nothing is forced in (`min_per_control_point=0`), for a budget of 32.

# %%
place = {entry: i for i, entry in enumerate(library["entry"])}
units = np.stack([key / np.linalg.norm(key) for key in library["key"]])


def described(picks) -> dict:
    """Numbers of a selection that no objective here was asked to maximise, save quality."""
    chosen = [place[pick.entry_id] for pick in picks]
    kept = library.iloc[chosen]
    inside = units[chosen] @ units[chosen].T
    return {
        "mean quality": kept["quality"].mean(),
        "mean cosine inside": inside[~np.eye(len(chosen), dtype=bool)].mean(),
        "coverage, mean": (units @ units[chosen].T).max(axis=1).mean(),
        "coverage, worst": (units @ units[chosen].T).max(axis=1).min(),
        "log det": np.linalg.slogdet(inside + basis.epsilon * np.eye(len(chosen)))[1],
        "control points": kept["m"].nunique(),
        "split pairs": int((kept["pair"].value_counts() == 1).sum()),
    }


lambdas = (0.0, 0.001, 0.01, 0.05, 0.5, 5.0)
found = {value: stir.select_basis(run, budget=32, diversity=value, min_per_control_point=0) for value in lambdas}
pd.DataFrame({value: described(made.picks) for value, made in found.items()}).rename_axis(columns="lambda").round(3)

# %%
own = {pick.entry_id for pick in found[0.5].picks}
agree = pd.DataFrame(
    {"lambda": [str(v) for v in lambdas], "shared": [len(own & {pick.entry_id for pick in made.picks}) for made in found.values()]}
)
alt.Chart(agree).mark_bar().encode(
    x=alt.X("lambda", sort=None, axis=alt.Axis(labelAngle=0)), y=alt.Y("shared", title="picks shared with lambda = 0.5 (of 32)")
).properties(width=360, height=180)

# %% [markdown]
# Right rollouts all earn about the same reward here, so $\log(1 + q)$ is nearly a constant, and **any $\lambda$ that is not tiny lets the determinant decide**: a hundredth and the paper's 0.5 already choose much
# the same. Only far below does quality have a say, and then it takes early control points and whole pairs. Look at *split pairs*: the determinant likes to keep a corrective entry without its null or the
# reverse, since their keys are close, and the gate then compares an action with somebody else's null. If your rewards are as flat as these, ask first what quality means (`quality="measured"` puts causal
# advantages in its place) and tune $\lambda$ later.
#
# ## What B does

# %%
curve = pd.DataFrame(
    [
        {"B": b, "selector": s, **described(stir.select_basis(run, budget=b, selector=s, min_per_control_point=0).picks)}
        for s in ("dpp", "top", "random")
        for b in (4, 8, 16, 32, 64, 96)
    ]
)
alt.Chart(curve).mark_line(point=True).encode(
    x=alt.X("B", title="budget B (entries)"),
    y=alt.Y("coverage, mean", title="mean cosine with the nearest pick", scale=alt.Scale(zero=False)),
    color="selector",
    strokeDash="selector",
).properties(width=420, height=240)

# %% [markdown]
# Two things to read off. Coverage starts high for *any* selector, because the keys are anisotropic; and at small budgets the determinant covers the typical entry *worse* than a random choice of the same size: it
# takes what is far from everything first, which raises the worst case (see "coverage, worst" above) and not the mean. A budget at or above the number of candidates selects nothing at all, and says so:

# %%
print(stir.select_basis(run, budget=256).notes)
print(stir.select_basis(run, budget=20).notes)
print(run.manifest("basis").notes or "the run's own basis has no such note")

# %% [markdown]
# The second note is a trap of small budgets: `min_per_control_point` entries are forced in at every control point before the selector is asked, and they can fill the whole budget. Whether any of this matters for
# answers is decided at the gate: notebook 03.
