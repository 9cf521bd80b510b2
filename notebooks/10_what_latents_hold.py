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
# # 10 What latents hold
#
# A reasoner may replace its written steps by *latents*: vectors that are fed in place of words. Do the latents carry the reasoning, or would any placeholder do? And if they carry it, what does each of them hold?
# This notebook asks three small trained reasoners that come with the package: plain chain of thought, SIM-CoT ([2509.20317](https://arxiv.org/abs/2509.20317)) and ATP-Latent ([2601.21598](https://arxiv.org/abs/2601.21598)), on chains of operations modulo 11, where the content of every step is known.
# Nothing that is seen on such small models is evidence about large ones.

# %%
import altair as alt
import pandas as pd

import stir_core as stir

alt.renderers.enable("png", scale_factor=1.5)
NAMES = ("cot", "sim_cot", "atp")

# %% [markdown]
# ## Do latents matter at all?
#
# Each reasoner answers held-out problems of two to four operations. The controls: as many latents, all *zero*; those of another problem (*shuffled*); and none. If one of these is as good as the reasoner's own, its latents are placeholders.

# %%
reports = {name: stir.evaluate_latents(name, n=100) for name in NAMES}
table = pd.DataFrame(
    {"reasoner": name, "latents": row.how, "problems": row.problems, "right": f"{row.accuracy:.1%}", "latents each": row.latents}
    | {"tokens written": round(row.tokens - row.latents, 1), "passes": round(row.passes, 1)}
    | {f"{count} operations": f"{share:.0%}" for count, share in row.by_count.items() if count <= 4}
    for name, report in reports.items()
    for row in report.rows
    if row.how in ("own", "zero", "shuffled", "none")
)
table.fillna("").set_index(["reasoner", "latents"])

# %%
chance = 1 / 11
rows = {name: {row.how: row for row in report.rows} for name, report in reports.items()}
for name in ("sim_cot", "atp"):
    own, zero = rows[name]["own"], rows[name]["zero"]
    print(f"{name}: {own.accuracy.value:.0%} right with its own latents, {zero.accuracy.value:.0%} with zeros; chance is {chance:.0%}")
    learned = [count for count, share in own.by_count.items() if share > 0.9]
    print(f"  learned: {', '.join(map(str, learned))} operations; five, never trained: {rows[name]['longer'].accuracy:.1%}")
    assert own.accuracy.low > zero.accuracy.high  # the latents do matter

# %% [markdown]
# ## One chain
#
# A held-out problem of three operations. SIM-CoT and ATP-Latent have a decoder that was trained to write each step from its two latents; the answer never uses it.

# %%
QUESTION = "10*10-8+9?"
readings = {name: stir.read_latents(stir.load_reasoner(name), QUESTION) for name in NAMES}
print(f"{QUESTION} is of the split {readings['cot'].split}; true steps: {'  '.join(step.truth or '' for step in readings['cot'].steps)}")
pd.DataFrame(
    {"reasoner": name, "written after the latents": reading.text.replace("\n", " "), "right": reading.right}
    | {"steps as decoded": "  ".join(step.text or "-" for step in reading.steps) if reading.latents else "(written)"}
    for name, reading in readings.items()
).set_index("reasoner")

# %% [markdown]
# A decoder that writes the true steps is often taken to show that the latents *hold* them. Two read-outs of the same latents disagree: the decoder, and a linear probe for the value after each step (fitted on other problems).

# %%
pd.DataFrame(
    {"reasoner": name, "results that the decoder reads right": f"{reports[name].decoded_results:.1%}"}
    | {f"probe, step {step}": f"{share:.1%}" for step, share in reports[name].probed_values.items()}
    for name in ("sim_cot", "atp")
).set_index("reasoner")

# %% [markdown]
# ## Interchange: what does the answer follow?
#
# Correlation does not say what is used. So one latent of a step is replaced by that of *another* problem, the reasoner thinks on, and its answer is compared with four predictions: it *stays*; it follows the other problem's value *after* the step; its value *before* the step, to which the problem's own operation is applied; or its
# *operation*, applied to the problem's own value. Only problems count that were answered rightly and on which all four differ.

# %%
exchanged = {name: stir.interchange(name, n=150) for name in ("sim_cot", "atp")}
READ = {"kept": "stays", "after": "value after", "before": "value before", "operation": "operation"}
cells = pd.DataFrame(
    {"reasoner": name, "place": f"step {row.step} of {row.count}, latent {row.latent}", "answer": said, "problems": row.problems}
    | {"count": row.count, "step": row.step, "latent": row.latent, "share": share.value, "low": share.low, "high": share.high}
    for name, report in exchanged.items()
    for row in report.rows
    if row.latent is not None and row.count < 4
    for key, said in READ.items()
    if (share := getattr(row, key)) is not None
)
base = alt.Chart(cells).encode(
    alt.X("answer:N", sort=list(READ.values()), title=None, axis=alt.Axis(labelAngle=-30)), alt.Y("place:N", title=None)
)
squares = base.mark_rect().encode(alt.Color("share:Q", scale=alt.Scale(domain=[0, 1], scheme="blues"), title="share"))
numbers = base.mark_text(fontSize=10).encode(
    alt.Text("share:Q", format=".0%"), color=alt.condition("datum.share > 0.5", alt.value("white"), alt.value("black"))
)
(squares + numbers).properties(width=190, height=230).facet(column=alt.Column("reasoner:N", title=None))

# %%
clear = cells[cells["low"] > 0.5]
for (name, count, step, latent), each in clear.groupby(["reasoner", "count", "step", "latent"]):
    (row,) = each.to_dict("records")
    print(
        f"{name}, {count} operations, step {step}, latent {latent}: the answer {'stays' if row['answer'] == 'stays' else 'follows the ' + row['answer']} "
        f"({row['share']:.0%} [{row['low']:.0%}, {row['high']:.0%}] of {row['problems']})"
    )

# %% [markdown]
# Read it row by row. The first latent of the second and every later step is followed for the value *before* that step: the running value, so to speak, is there. The second latent is followed for nothing in particular, and the answer stays in a part of the problems only: what it holds, something of the operation, is used together with what is
# read from the question. The step's own result is in neither: it is computed where it is next needed. That is why a probe for the value after a step finds little where the decoder writes it without a mistake: the decoder works the result out, like any reader would. The first number of a problem stands in the question, so before the first step there
# is no value to hold.
#
# ## What to take from this
#
# - A control with zeros or another problem's latents says whether latents matter; accuracy alone does not.
# - A decoder that reads a result does not show that a latent holds it. An interchange says what the answer follows.
# - The code is an accident of training: a SIM-CoT whose latents were ten times as large held the operation in the first latent of a step and the value before it in the second, and learned no fourth step ([Latent reasoning](../docs/latent.md) has what was measured). One seed each. The page *Latents* of the workbench does all this for a problem of
# your own; `stir latent interchange DIR` for a training of your own.
