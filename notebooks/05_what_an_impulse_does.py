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
# # 05 What an impulse does to the network
#
# STIR adds a vector to the residual stream *once*: behind one block, at one token. Everything that follows is the network's own doing. This notebook follows the disturbance with **plain TransformerLens hooks** (`run_with_hooks`,
# `run_with_cache`) on the raw bridge: down the layers of its own token, into the next-token distribution, and through attention into the tokens behind. Each measurement is checked against the library's own, `stir.measure_impulse`, so
# that you can trust the one and change the other.

# %%
import copy

import altair as alt
import numpy as np
import torch

import stir_core as stir
from workbench.actions import data as impulse
from workbench.actions.charts import attention_maps, disturbance_curves, divergence_curves, dose_curve, shift_dumbbells, travel_heatmap
from workbench.shared.charts import lens_bars

alt.renderers.enable("png", scale_factor=1.5)
run = stir.open_run("demo")
model = stir.load_model(run.config.model.name)

# %% [markdown]
# ## The library's measure
#
# The action that fired most often on held-out answers, at the place where its key was nearest: the recorded answer up to the control point, then the tokens that were recorded behind it, read clean and read with the impulse.

# %%
committed = [step.decision.chosen for trace in run.traces() for step in trace.steps if step.decision.chosen]
name = max(dict.fromkeys(committed), key=committed.count)
found = stir.measure_impulse(run, model, name, doses=[0.25, 0.5, 1.0, 2.0, 4.0])
spot, layer = found.spot, found.layer
print(f"{name}, committed {committed.count(name)} times; here {impulse.spot_label(spot)}, layer {layer}")
print(
    f"|alpha v| = {found.alpha * found.action_norm:.1f}, |h| = {found.unsteered_norm:.1f}: {found.alpha * found.action_norm / found.unsteered_norm:.0%} of the state"
)
print(repr(model.text(spot.given)[-60:]), "->", repr(model.text(spot.following)))

# %% [markdown]
# ## The same by hand
#
# First the logit lens: the action times the final norm's gain times the unembedding. It is the action's *direct* path to the logits and ignores the twelve blocks in between.

# %%
entry = next(entry for entry in run.entries() if entry.id == name)
action = torch.tensor(run.action_rows()[entry.action_row])
bridge = model.bridge
with torch.inference_mode():
    gain = bridge.ln_final(torch.ones(1, 1, model.d_model))[0, 0]  # an RMS norm answers ones with its gain
    logits = (action * gain) @ bridge.W_U
(lens,) = stir.logit_lens(model, action[None], names=[name])
assert [token.token_id for token in lens.promoted] == logits.topk(len(lens.promoted)).indices.tolist()
assert np.allclose([token.logit for token in lens.promoted], logits.topk(len(lens.promoted)).values, atol=1e-3)
lens_bars(lens, 8)

# %% [markdown]
# Then the passes. The cache of everything before the control point is computed once; the window (control point and the recorded tokens behind it) is read behind it: clean, and with a three-line hook.

# %%
read = [*spot.prompt_ids, *spot.given]
window = torch.tensor([[read[-1], *spot.following[:32]]])
streams = [f"blocks.{i}.hook_out" for i in range(model.n_layers)]
patterns = [f"blocks.{i}.attn.hook_pattern" for i in range(model.n_layers)]
with torch.inference_mode():
    _, before = bridge(torch.tensor([read[:-1]]), use_cache=True, return_type="logits_and_cache")


def kick(stream: torch.Tensor, hook) -> torch.Tensor:
    """The impulse: at the window's first token, which is the control point, and at no other."""
    stream[:, 0] += found.alpha * action
    return stream


def look(*hooks) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits [tokens, vocab], block outputs [layers, tokens, d_model] and patterns [layers, heads, tokens, columns] of the window."""
    with torch.inference_mode(), bridge.hooks(fwd_hooks=list(hooks)):
        logits, cache = bridge.run_with_cache(window, past_key_values=copy.deepcopy(before), names_filter=streams + patterns)
    return logits[0], torch.stack([cache[key][0] for key in streams]), torch.stack([cache[key][0] for key in patterns])


clean = look()
steered = look((f"blocks.{layer}.hook_out", kick))

# %% [markdown]
# ## Down the layers
#
# The disturbance is steered minus clean. Below the layer and before the token it must be nothing at all, not merely small:

# %%
moved = steered[1] - clean[1]
assert torch.count_nonzero(moved[:layer]) == 0
assert torch.allclose(moved[layer, 0], found.alpha * action, atol=1e-3)
assert torch.count_nonzero(moved[layer, 1:]) == 0  # later tokens feel nothing in this block: they see it from the next one on

relative = (moved.norm(dim=-1) / clean[1].norm(dim=-1))[layer:]
cosine = torch.nn.functional.cosine_similarity(moved[layer:, 0], action[None])
assert np.allclose(relative, found.relative, rtol=1e-2, atol=1e-4)
assert np.allclose(cosine, [each.cosine for each in found.layers], atol=1e-3)
disturbance_curves(impulse.layer_table(found))

# %%
print(
    f"at the last layer the disturbance is {relative[-1, 0]:.0%} of the residual, and its cosine with what was injected {cosine[-1]:+.2f}"
)
travel_heatmap(impulse.travel_table(found)).properties(width=520)

# %% [markdown]
# The column at 0 is the token that was kicked; the rest arrived there by attention alone. The layers turn the vector while they carry it, which is why the logit lens of the *action* says little about what is said *next*: compare the bars above with
# the probabilities that really change.

# %%
shift_dumbbells(impulse.shift_table(found, 10)).properties(width=420)

# %%
before_top, after_top = (each[0][0].softmax(-1) for each in (clean, steered))
assert all(
    abs(float(before_top[s.token_id]) - s.before) < 1e-4 and abs(float(after_top[s.token_id]) - s.after) < 1e-4 for s in found.shifts
)
direct = found.alpha * logits - (found.alpha * logits).mean()
real = steered[0][0] - clean[0][0]
print(f"change of all {len(real):,} logits, direct path against the real one: correlation {np.corrcoef(direct, real)[0, 1]:+.2f}")

# %% [markdown]
# ## Behind the token: what attention carries
#
# KL(steered || clean) at the control point and behind every recorded token after it. The second curve holds every attention pattern at its clean value, by a hook on `attn.hook_pattern` of every block: no head may look elsewhere,
# only *values* may differ. What is left of the effect travelled without any head changing its mind.

# %%


def kl(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """KL(ours || theirs) in nats, row by row."""
    p, q = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def hold(i: int):
    """A hook that puts the clean pattern of block i in the place of its own."""
    return lambda pattern, hook: clean[2][i][None]


frozen = look((f"blocks.{layer}.hook_out", kick), *((key, hold(i)) for i, key in enumerate(patterns)))
free = kl(steered[0], clean[0])
assert np.allclose(free, found.kl, rtol=1e-2, atol=1e-5)
assert np.allclose(kl(frozen[0], clean[0]), found.kl_frozen, rtol=1e-2, atol=1e-5)
divergence_curves(impulse.divergence_table(found)).properties(width=520, height=240)

# %% [markdown]
# ## Attention back to the control point
#
# Mean attention of the tokens behind to the control point, head by layer. Below the line (blocks up to the injected one) nothing may change.

# %%
back = [each[2][:, :, 1:, len(read) - 1].mean(-1) for each in (clean, steered)]
assert np.allclose(back[0], found.attention_unsteered, atol=1e-4)
assert np.allclose(back[1], found.attention_steered, atol=1e-4)
assert torch.equal(back[0][: layer + 1], back[1][: layer + 1])
attention_maps(impulse.attention_table(found), layer)

# %%
change = back[1] - back[0]
i, head = divmod(int(change.abs().argmax()), change.shape[1])
print(
    f"largest change: block {i}, head {head}: {back[0][i, head]:.3f} -> {back[1][i, head]:.3f}; mean over the heads above the impulse {change[layer + 1 :].mean():+.5f}"
)

# %% [markdown]
# ## How much is much?
#
# The same vector at other strengths, on the same tokens, and what the model then writes by itself (greedy). A cross marks a text that repeats itself or that the clean model would find very unlikely; dashed: the strength that the gate committed.

# %%
dose_curve(impulse.dose_table(found), found.alpha, stir.degenerates_at(found.doses), found.action_norm / found.unsteered_norm).properties(
    width=480
)

# %%
for dose in found.doses:
    print(f"alpha {dose.alpha:5.2f}  KL {dose.kl:6.3f}  {dose.text[:90]!r}")
print("strength for 0.1 nats at the control point:", stir.strength_for(found.doses, 0.1))

# %% [markdown]
# This is one action at one place; `stir impulse demo p0032c --at PROBLEM:M` and the Actions page show any other. What it does *not* show is whether the change is for the better (notebook 04), nor what becomes of it in later steps (notebook 08).
