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
# STIR adds a vector to the residual stream *once*: after one block, at one token. Everything else is computed by the network. This notebook follows the disturbance with **plain TransformerLens hooks** (`run_with_hooks`,
# `run_with_cache`) on the raw bridge: through the layers at its own token, into the next-token distribution, and through attention into later tokens. Each measurement is checked against `stir.measure_impulse`, so
# you can trust the library's version and modify the notebook's.

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
run = stir.open_run("smollm2")
model = stir.load_model(run.config.model.name)

# %% [markdown]
# ## The library's measurement
#
# We take the action that was committed most often on held-out answers, at the control point where its key was nearest. The recorded answer up to the control point is the prefix; the tokens recorded after it are read without and with the impulse.

# %%
committed = [step.decision.chosen for trace in run.traces() for step in trace.steps if step.decision.chosen]
name = max(dict.fromkeys(committed), key=committed.count)
response = stir.measure_impulse(run, model, name, doses=[0.25, 0.5, 1.0, 2.0, 4.0])
spot, layer = response.spot, response.layer
print(f"{name}, committed {committed.count(name)} times; here {impulse.spot_label(spot)}, layer {layer}")
print(
    f"|alpha v| = {response.alpha * response.action_norm:.1f}, |h| = {response.unsteered_norm:.1f}: {response.alpha * response.action_norm / response.unsteered_norm:.0%} of the state"
)
print(repr(model.text(spot.given)[-60:]), "->", repr(model.text(spot.following)))

# %% [markdown]
# ## The same by hand
#
# First the logit lens: the action times the final norm's gain times the unembedding. This is the action's *direct* path to the logits and ignores the twelve blocks in between.

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
# Then the passes. The cache of everything before the control point is computed once. The window (the control point and the recorded tokens after it) is read with this cache twice: unsteered, and with a three-line hook.

# %%
prefix = [*spot.prompt_ids, *spot.given]
window = torch.tensor([[prefix[-1], *spot.following[:32]]])
streams = [f"blocks.{i}.hook_out" for i in range(model.n_layers)]
patterns = [f"blocks.{i}.attn.hook_pattern" for i in range(model.n_layers)]
with torch.inference_mode():
    _, before = bridge(torch.tensor([prefix[:-1]]), use_cache=True, return_type="logits_and_cache")


def add_impulse(stream: torch.Tensor, hook) -> torch.Tensor:
    """Add the impulse at the window's first token, the control point, and nowhere else."""
    stream[:, 0] += response.alpha * action
    return stream


def read_window(*hooks) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits [tokens, vocab], block outputs [layers, tokens, d_model] and patterns [layers, heads, tokens, columns] of the window."""
    with torch.inference_mode(), bridge.hooks(fwd_hooks=list(hooks)):
        logits, cache = bridge.run_with_cache(window, past_key_values=copy.deepcopy(before), names_filter=streams + patterns)
    return logits[0], torch.stack([cache[key][0] for key in streams]), torch.stack([cache[key][0] for key in patterns])


unsteered = read_window()
steered = read_window((f"blocks.{layer}.hook_out", add_impulse))

# %% [markdown]
# ## Through the layers
#
# The disturbance is steered minus unsteered. Below the impulse's layer it must be exactly zero, not merely small:

# %%
moved = steered[1] - unsteered[1]
assert torch.count_nonzero(moved[:layer]) == 0
assert torch.allclose(moved[layer, 0], response.alpha * action, atol=1e-3)
assert torch.count_nonzero(moved[layer, 1:]) == 0  # later tokens are affected from the next block on, through attention

relative = (moved.norm(dim=-1) / unsteered[1].norm(dim=-1))[layer:]
cosine = torch.nn.functional.cosine_similarity(moved[layer:, 0], action[None])
assert np.allclose(relative, response.relative, rtol=1e-2, atol=1e-4)
assert np.allclose(cosine, [each.cosine for each in response.layers], atol=1e-3)
disturbance_curves(impulse.layer_table(response))

# %%
print(
    f"at the last layer the disturbance is {relative[-1, 0]:.0%} of the residual, and its cosine with what was injected {cosine[-1]:+.2f}"
)
travel_heatmap(impulse.travel_table(response)).properties(width=520)

# %% [markdown]
# The column at 0 is the steered token; attention alone carries the disturbance to the others. The layers rotate the vector, which is why the logit lens of the *action* says little about the *next* token: compare the bars above with
# the probabilities that actually change.

# %%
shift_dumbbells(impulse.shift_table(response, 10)).properties(width=420)

# %%
before_top, after_top = (each[0][0].softmax(-1) for each in (unsteered, steered))
assert all(
    abs(float(before_top[s.token_id]) - s.before) < 1e-4 and abs(float(after_top[s.token_id]) - s.after) < 1e-4 for s in response.shifts
)
direct = response.alpha * logits - (response.alpha * logits).mean()
real = steered[0][0] - unsteered[0][0]
print(f"change of all {len(real):,} logits, direct path against the real one: correlation {np.corrcoef(direct, real)[0, 1]:+.2f}")

# %% [markdown]
# ## After the token: what attention carries
#
# KL(steered || unsteered) at the control point and after every recorded token. The second curve holds every attention pattern at its unsteered value, by a hook on `attn.hook_pattern` of every block: no head attends elsewhere,
# only *values* differ. The remaining effect does not depend on changes of attention patterns.

# %%


def kl(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """KL(ours || theirs) in nats, row by row."""
    p, q = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def hold(i: int):
    """A hook that replaces the pattern of block i by the unsteered one."""
    return lambda pattern, hook: unsteered[2][i][None]


frozen = read_window((f"blocks.{layer}.hook_out", add_impulse), *((key, hold(i)) for i, key in enumerate(patterns)))
free = kl(steered[0], unsteered[0])
assert np.allclose(free, response.kl, rtol=1e-2, atol=1e-5)
assert np.allclose(kl(frozen[0], unsteered[0]), response.kl_frozen, rtol=1e-2, atol=1e-5)
divergence_curves(impulse.divergence_table(response)).properties(width=520, height=240)

# %% [markdown]
# ## Attention back to the control point
#
# Mean attention of later tokens to the control point, head by layer. Below the line (blocks up to the injected one) nothing changes.

# %%
back = [each[2][:, :, 1:, len(prefix) - 1].mean(-1) for each in (unsteered, steered)]
assert np.allclose(back[0], response.attention_unsteered, atol=1e-4)
assert np.allclose(back[1], response.attention_steered, atol=1e-4)
assert torch.equal(back[0][: layer + 1], back[1][: layer + 1])
attention_maps(impulse.attention_table(response), layer)

# %%
change = back[1] - back[0]
i, head = divmod(int(change.abs().argmax()), change.shape[1])
print(
    f"largest change: block {i}, head {head}: {back[0][i, head]:.3f} -> {back[1][i, head]:.3f}; mean over the heads above the impulse {change[layer + 1 :].mean():+.5f}"
)

# %% [markdown]
# ## Dose-response
#
# The same vector at other strengths, on the same tokens, and the model's own greedy continuation. A cross marks a text that repeats itself or is very unlikely under the unsteered model; dashed: the strength that the gate committed.

# %%
dose_curve(
    impulse.dose_table(response), response.alpha, stir.degenerates_at(response.doses), response.action_norm / response.unsteered_norm
).properties(width=480)

# %%
for dose in response.doses:
    print(f"alpha {dose.alpha:5.2f}  KL {dose.kl:6.3f}  {dose.text[:90]!r}")
print("strength for 0.1 nats at the control point:", stir.strength_for(response.doses, 0.1))

# %% [markdown]
# This is one action at one control point; `stir impulse smollm2 p0032c --at PROBLEM:M` and the Actions page show any other. It does *not* show whether the change helps (notebook 04), or what happens in later steps (notebook 08).
