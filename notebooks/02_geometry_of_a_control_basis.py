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
# Mining gives more entries than should be compared with a state at every step, and many of them are near copies. Stage II of STIR selects a *control basis*: good entries that differ. It maximises
#
# $$\sum_{i \in S} \log(1 + q_i) + \lambda \log\det(K_S + \epsilon I), \qquad |S| \le B$$
#
# greedily, where $q_i$ is an entry's quality (the reward gap of its pair) and $K$ holds the cosines between keys: a quality-weighted determinantal point process. This notebook shows the keys of the
# embedded run, the coverage of its basis, and the effect of $\lambda$ and $B$. It loads no language model.

# %%
import altair as alt
import numpy as np
import pandas as pd

import stir_core as stir
from workbench.basis import data as basis_geometry
from workbench.basis.charts import action_map, cosine_heatmap, coverage_chart
from workbench.shared.facts import RunFacts

alt.renderers.enable("png", scale_factor=1.5)  # images are shown everywhere, without loading a library from the network
run = stir.open_run("smollm2")
library = stir.to_frame(run)
settings = run.config.basis
print(f"{len(library)} entries, {library['in_basis'].sum()} in the basis: B = {settings.budget}, lambda = {settings.diversity}")

# %% [markdown]
# ## A map
#
# UMAP of the keys under the cosine metric, one point per entry, filled if it is in the basis. The keys form one cloud with a drift from early control points to late ones, without separate clusters.
# Retrieval compares a state only with entries of its own control point, so the neighbours that matter have the same colour. Two dimensions distort distances: everything below is measured in the
# original space.

# %%
x, y = run.map_coordinates()["umap"].T
points = library.rename(columns={"in_basis": "in the basis"}).assign(x=x, y=y, value=library["m"])
action_map(points, "umap", "m", "ordered")

# %% [markdown]
# ## Cosines
#
# The keys of the basis as a heatmap in cluster order. Raw residual states are anisotropic: every cosine is high, and entries differ only in the last tenths. The colours therefore run from the
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
# All keys are similar; those at one control point or of one problem are only a little more similar than the others. **Actions are hardly similar to one another at all**, not even two of one problem at
# neighbouring steps. There is no single "reasoning direction" in this library. This is an argument for retrieving an action instead of adding a constant vector. It is also a reason to check whether a
# difference of so few rollouts is more than noise (notebooks 01 and 04).
#
# ## Coverage

# %%
coverage_chart(basis_geometry.counts_by_step(facts)).properties(width=420, height=200)

# %%
basis_geometry.coverage_table(facts).set_index("set")[
    ["entries", "mean quality", "key rank", "action rank", "key cosine", "nearest selected", "worst"]
].round(3)

# %% [markdown]
# *Key rank* is the effective rank (exponential of the entropy of the singular values): how many directions a set spans. *Nearest selected* is the mean cosine of an entry with the nearest
# selected one, *worst* that of the least covered entry.
#
# ## The effect of lambda
#
# `stir.select_basis` runs the run's Stage II with other settings. To isolate $\lambda$, no entries are forced in (`min_per_control_point=0`); the budget is 32.

# %%
row_of = {entry: i for i, entry in enumerate(library["entry"])}
units = np.stack([key / np.linalg.norm(key) for key in library["key"]])


def statistics(picks) -> dict:
    """Statistics of a selection; except for quality and log det, the objective does not contain them."""
    chosen = [row_of[pick.entry_id] for pick in picks]
    selected = library.iloc[chosen]
    inside = units[chosen] @ units[chosen].T
    return {
        "mean quality": selected["quality"].mean(),
        "mean cosine inside": inside[~np.eye(len(chosen), dtype=bool)].mean(),
        "coverage, mean": (units @ units[chosen].T).max(axis=1).mean(),
        "coverage, worst": (units @ units[chosen].T).max(axis=1).min(),
        "log det": np.linalg.slogdet(inside + settings.epsilon * np.eye(len(chosen)))[1],
        "control points": selected["m"].nunique(),
        "split pairs": int((selected["pair"].value_counts() == 1).sum()),
    }


lambdas = (0.0, 0.001, 0.01, 0.05, 0.5, 5.0)
bases = {value: stir.select_basis(run, budget=32, diversity=value, min_per_control_point=0) for value in lambdas}
pd.DataFrame({value: statistics(basis.picks) for value, basis in bases.items()}).rename_axis(columns="lambda").round(3)

# %%
own = {pick.entry_id for pick in bases[0.5].picks}
agree = pd.DataFrame(
    {"lambda": [str(v) for v in lambdas], "shared": [len(own & {pick.entry_id for pick in basis.picks}) for basis in bases.values()]}
)
alt.Chart(agree).mark_bar().encode(
    x=alt.X("lambda", sort=None, axis=alt.Axis(labelAngle=0)), y=alt.Y("shared", title="picks shared with lambda = 0.5 (of 32)")
).properties(width=360, height=180)

# %% [markdown]
# All right rollouts earn about the same reward here, so $\log(1 + q)$ is nearly constant, and **unless $\lambda$ is tiny the determinant decides**: 0.01 and the paper's 0.5 select almost
# the same entries. Quality matters only for much smaller $\lambda$, and then early control points and whole pairs are selected. Look at *split pairs*: the determinant tends to keep a corrective entry without its null entry, or the
# reverse, because their keys are close. The gate then compares an action with the null entry of another pair. If your rewards are as flat as these, first reconsider the definition of quality (`quality="measured"` uses causal
# advantages instead) and tune $\lambda$ later.
#
# ## The effect of B

# %%
curve = pd.DataFrame(
    [
        {"B": b, "selector": s, **statistics(stir.select_basis(run, budget=b, selector=s, min_per_control_point=0).picks)}
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
# Two observations. Coverage starts high for *any* selector, because the keys are anisotropic. And at small budgets the determinant covers the typical entry *worse* than a random choice of the same size: it
# takes outlying entries first, which raises the worst case (see "coverage, worst" above) and not the mean. A budget at or above the number of candidates keeps every entry, and a note says so:

# %%
print(stir.select_basis(run, budget=256).notes)
print(stir.select_basis(run, budget=20).notes)
print(run.manifest("basis").notes or "the run's own basis has no such note")

# %% [markdown]
# The second note is about a pitfall of small budgets: `min_per_control_point` entries of every control point are forced in before the selector runs, and they can fill the whole budget. Notebook 03 shows how the gate
# uses the basis.
