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
# # 08 Ephemeral or persistent? Impulses in the KV cache, and the published code
#
# An impulse is added once, at one token. But that token's keys and values in the blocks above are computed *from* the changed state, and every later token attends to them: as long as that column is in the cache, the
# impulse has an effect. Whether the column is still there in the *next* step is a choice that an implementation can make without noticing. There are two algorithms:
#
# - **ephemeral**: every step starts from keys and values computed without any earlier impulse; only the text remains of an impulse;
# - **persistent**: the decoder keeps its cache, and impulses accumulate in it.
#
# This notebook measures what remains in the cache, how it affects the next step and whole answers, and shows what the published code does.

# %%
import copy

import altair as alt
import numpy as np
import pandas as pd
import torch

import stir_core as stir

alt.renderers.enable("png", scale_factor=1.5)
run = stir.open_run("smollm2")
model = stir.load_model(run.config.model.name)
bridge, gate = model.bridge, run.config.gate

# %% [markdown]
# ## What remains of an impulse
#
# Take a recorded answer, its first committed action, and the plain bridge: the cache of everything before the control point, then one pass of the control point's token, unsteered and steered.

# %%
answer = next(trace for trace in run.traces() if trace.id == "arithmetic/eval/sum_small:11+15")
at = next(i for i, step in enumerate(answer.steps) if step.decision.chosen)
step, following = answer.steps[at], answer.steps[at + 1]
entry = next(entry for entry in run.entries() if entry.id == step.decision.chosen)
p, layer = step.evidence.position, entry.layer
impulse = step.decision.alpha * torch.tensor(run.action_rows()[entry.action_row])
ids = [*answer.prompt_ids, *answer.token_ids]
print(
    f"control point {step.m}: {entry.id} x {step.decision.alpha:.3f} after block {layer}, at token {p}: {step.text!r}, then {following.text!r}"
)


def add(stream: torch.Tensor, hook) -> torch.Tensor:
    """The impulse, at the first token of a pass."""
    stream[:, 0] += impulse
    return stream


def read(tokens: list[int], cache=None, steer: bool = False):
    """Logits [tokens, vocab] of a pass after a cache (not modified), and the cache extended by these tokens."""
    hooks = [(f"blocks.{layer}.hook_out", add)] if steer else []
    with torch.inference_mode(), bridge.hooks(fwd_hooks=hooks):
        logits, grown = bridge(torch.tensor([tokens]), past_key_values=copy.deepcopy(cache), use_cache=True, return_type="logits_and_cache")
    return logits[0], grown


_, before = read(ids[:p])
seen = {}
with torch.inference_mode():
    keep = (f"blocks.{layer}.hook_out", lambda stream, hook: seen.update(h=stream[0, 0]))
    bridge.run_with_hooks(torch.tensor([[ids[p]]]), past_key_values=copy.deepcopy(before), fwd_hooks=[keep])
print(f"the impulse is {impulse.norm() / seen['h'].norm():.0%} of the state that it is added to")
(first_unsteered, unsteered), (first_steered, steered) = read([ids[p]], before), read([ids[p]], before, steer=True)


def change(ours, theirs, part: str) -> np.ndarray:
    """Norm of the difference of keys or values relative to the norm of the unsteered ones, [layers, tokens]."""
    ratios = []
    for our_layer, their_layer in zip(ours.layers, theirs.layers, strict=True):
        a, b = (getattr(each, part)[0].transpose(0, 1).flatten(1) for each in (our_layer, their_layer))
        ratios.append(((a - b).norm(dim=-1) / b.norm(dim=-1)).numpy())
    return np.stack(ratios)


changes = {part: change(steered, unsteered, part) for part in ("keys", "values")}
for ratios in changes.values():
    assert not ratios[:, :p].any()  # earlier tokens do not change
    assert not ratios[: layer + 1].any()  # nor do blocks up to the injected one
rows = [(part, i, ratio) for part, ratios in changes.items() for i, ratio in enumerate(ratios[:, p])]
alt.Chart(pd.DataFrame(rows, columns=["cache", "block", "change"])).mark_line(point=True).encode(
    x=alt.X("block:Q", title="block"),
    y=alt.Y("change", title="|steered - unsteered| / |unsteered|, at the control point", axis=alt.Axis(format="%")),
    color="cache",
    strokeDash="cache",
).properties(width=440, height=200)

# %% [markdown]
# One column of the cache changes, in the blocks above the injected one, and nothing else. For later tokens, *this column is the impulse*.
#
# ## The effect on the next step
#
# While the step is decoded, its own tokens attend to that column, so their keys and values differ a little as well. At the end of the step the cache therefore holds two effects of the impulse: the control point's column, and
# the columns of the step's tokens. The next step's tokens (recorded, the same for all) are now read after the unsteered cache, the persistent one, and modifications of the persistent one.

# %%
*own, last = step.token_ids
own_unsteered, unsteered_after = read(own, unsteered)
own_steered, steered_after = read(own, steered)


def restored(columns: slice, parts: tuple[str, ...] = ("keys", "values")):
    """The persistent cache with some columns restored from the unsteered pass."""
    cache = copy.deepcopy(steered_after)
    for ours, theirs in zip(cache.layers, unsteered_after.layers, strict=True):
        for part in parts:
            getattr(ours, part)[:, :, columns] = getattr(theirs, part)[:, :, columns]
    return cache


def kl(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """KL(ours || theirs) in nats, row by row."""
    a, b = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
    return (a.exp() * (a - b)).sum(-1)


point, rest = slice(p, p + 1), slice(p + 1, None)
caches = {
    "persistent": steered_after,
    "control point restored": restored(point),
    "step's tokens restored": restored(rest),
    "all values restored": restored(slice(p, None), ("values",)),
    "all keys restored": restored(slice(p, None), ("keys",)),
    "ephemeral (all restored)": restored(slice(p, None)),
}
next_step = [last, *following.token_ids]  # from the next control point to the one after it, read unsteered
base, _ = read(next_step, unsteered_after)
effects = {name: kl(read(next_step, cache)[0], base) for name, cache in caches.items()}
assert effects["ephemeral (all restored)"].max() < 1e-9

within = kl(torch.cat([first_steered, own_steered]), torch.cat([first_unsteered, own_unsteered]))
print(
    f"the impulse's own step: KL {within[0]:.4f} nats at its control point, mean {within[1:].mean():.4f} over the {len(own)} tokens after it"
)
pd.DataFrame(
    {
        name: {"at the next control point": float(k[0]), "mean over the next step": float(k[1:-1].mean()), "at the one after": float(k[-1])}
        for name, k in effects.items()
    }
).T.round(5)

# %%
labels = [f"{i} {model.tokenizer.decode([token])!r}" for i, token in enumerate(next_step)]
shown = [(name, label, float(k)) for name in list(caches)[:3] for label, k in zip(labels, effects[name], strict=True)]
alt.Chart(pd.DataFrame(shown, columns=["cache", "token", "kl"])).mark_line(point=True).encode(
    x=alt.X("token", sort=None, title="after this token (0: the next control point)", axis=alt.Axis(labelAngle=-60, labelFont="monospace")),
    y=alt.Y("kl", title="KL(with this cache || unsteered), nats"),
    color=alt.Color("cache", sort=None, legend=alt.Legend(orient="top", labelLimit=220)),
    strokeDash=alt.StrokeDash("cache", sort=None),
).properties(width=480, height=200)

# %% [markdown]
# Two observations. The impulse matters where the next token is uncertain: at its own control point and at later delimiters, where a new step begins. Inside a step the next token is nearly determined, and the effect is small.
# And both effects matter: restoring the control point's column alone is not *ephemeral*.
#
# ## Restoring the cache costs one pass
#
# Ephemeral needs no second run of the prefix: restore the control point's unsteered column, and read the step's tokens once more after it, all in parallel. We check that this equals sending the whole text again:

# %%
whole, _ = read(ids[: p + 1 + len(own)])
print(f"largest difference of the logits: {float((whole[-len(own) :] - own_unsteered).abs().max()):.1e}")
assert torch.allclose(whole[-len(own) :], own_unsteered, atol=2e-3)

sent = sum(
    (len(s.decision.scored) + 1 if s.decision.scored else 0) * (s.evidence.position + 1)
    + s.probe_tokens
    + s.evidence.position
    + 1
    + len(s.token_ids)
    for s in answer.steps
)
print(
    f"token positions run through the model for this answer: {answer.forward_tokens} with forked caches, about {sent:,} if every preview and every step sends the text again"
)

# %% [markdown]
# ## A whole answer, read in both modes
#
# `stir.read_tokens` reads a recorded answer again in either mode: at every token, the divergence of the steered model from the unsteered one after the same text. Both use the recorded tokens, so the figure shows
# the effect at each position for the same text.

# %%
session = stir.open_session(run, model)
persistent = stir.with_changes(gate, persistence="persistent")
readings = {"ephemeral": stir.read_tokens(session, answer, gate), "persistent": stir.read_tokens(session, answer, persistent)}
frame = pd.concat([stir.to_frame(tokens).assign(persistence=name) for name, tokens in readings.items()])
live = {step.m for step in answer.steps if step.decision.chosen}
ephemeral = frame[frame["persistence"] == "ephemeral"]
assert (ephemeral.loc[~ephemeral["m"].isin(live), "kl"] == 0).all()  # no effect outside steered steps
starts = ephemeral.groupby("m")["position"].min()
rules = pd.DataFrame([(at, "steered" if number in live else "not steered") for number, at in starts.items()], columns=["position", "step"])
lines = (
    alt.Chart(frame[["position", "kl", "persistence"]])
    .mark_line()
    .encode(
        x=alt.X("position", title="token of the answer"),
        y=alt.Y(
            "kl",
            title="KL(steered || unsteered), nats",
            scale=alt.Scale(type="symlog", constant=1e-3),
            axis=alt.Axis(values=[0, 0.001, 0.01, 0.1, 1], format="~g"),
        ),
        color=alt.Color("persistence", scale=alt.Scale(range=["#3a87c8", "#d55e00"])),
        strokeDash=alt.StrokeDash("persistence"),
    )
)
marks = (
    alt.Chart(rules)
    .mark_rule(color="#8a8f98")
    .encode(
        x="position",
        strokeWidth=alt.StrokeWidth("step", scale=alt.Scale(domain=["steered", "not steered"], range=[1.5, 0.4]), title="control point"),
    )
)
alt.layer(marks, lines).properties(width=560, height=220)

# %%
outside = frame[~frame["m"].isin(live) & (frame["m"] > min(live))]
print(
    f"unsteered steps after the first impulse ({outside['position'].nunique()} tokens): mean KL",
    outside.groupby("persistence")["kl"].mean().round(4).to_dict(),
)
later = frame[frame["m"].isin(live) & (frame["m"] > min(live))]
print(
    f"steered steps after the first ({later['position'].nunique()} tokens): mean KL",
    later.groupby("persistence")["kl"].mean().round(4).to_dict(),
)

# %% [markdown]
# ## Two algorithms, two answers
#
# Does this change answers? The recorded answers are ephemeral. A few of them are resumed at their first committed action, which is kept, under a gate that differs only in `persistence` (`stir.what_if`; decoding the whole
# answer with `stir.steer` gives the same). Both are equal, token for token and decision for decision, up to the end of the first steered step; the modes differ only after that.

# %%
budget = stir.with_changes(run.config.decode, max_new_tokens=80)


def first_end(trace) -> int:
    """Answer tokens up to the end of the first steered step."""
    first = next(s for s in trace.steps if s.decision.chosen)
    return first.evidence.position + 1 - len(trace.prompt_ids) + len(first.token_ids)


rows = []
twice = [trace for trace in run.traces() if sum(bool(s.decision.chosen) for s in trace.steps) >= 2]
for trace in sorted(twice, key=first_end)[:3]:
    m = next(s.evidence.m for s in trace.steps if s.decision.chosen)
    (other,) = stir.what_if(session, trace, stir.Change(m=m), persistent, budget)
    ours, theirs = trace.token_ids[: other.tokens_used], other.token_ids
    same = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
    assert same is None or same >= first_end(trace)
    decisions = [(s.evidence.m, s.decision.chosen, o.decision.chosen) for s, o in zip(trace.steps, other.steps, strict=False)]
    parted = next((f"m = {m}: {was or 'null'} / {now or 'null'}" for m, was, now in decisions if was != now), "none")
    rows.append((trace.id.split("/")[-1], len(theirs), first_end(trace), same if same is not None else "never", parted))
pd.DataFrame(
    rows,
    columns=[
        "problem",
        "tokens compared",
        "first steered step ends at",
        "texts part at",
        "first decision that differs (ephemeral / persistent)",
    ],
)

# %% [markdown]
# The effect in the cache is small, and yet texts can diverge: decisions of the gate depend on thousandths (notebook 03), and one changed token is enough under greedy decoding. A few answers of a small model show that the two modes are different algorithms, not which is better. To compare them, run `stir eval RUN --methods stir stir:persistence=persistent`.
#
# ## What the published code does
#
# It sends **the whole text again for every preview and every step**. Each step therefore starts from keys and values without any earlier impulse: the published algorithm is *ephemeral*, because no cache is kept between
# steps. Parity is measured on `ephemeral`, which is the default here.
#
# Sending text instead of tokens has a second consequence. Text that the model *generated* as some tokens may be *tokenised* again as others:

# %%
text = model.prompt_text(list(answer.prompt_ids)) + model.text(answer.token_ids[: p + 1 - len(answer.prompt_ids)])
kept, sent_again = ids[: p + 1], model.tokens(text)
print(f"{len(kept)} tokens as generated, {len(sent_again)} tokenised again")
print(
    "ends as generated:",
    [model.tokenizer.decode([token]) for token in kept[-3:]],
    " tokenised again:",
    [model.tokenizer.decode([token]) for token in sent_again[-3:]],
)

hook = f"blocks.{layer}.hook_out"
with torch.inference_mode():
    states = [bridge.run_with_cache(torch.tensor([tokens]), names_filter=[hook])[1][hook][0, -1] for tokens in (kept, sent_again)]
print(f"cosine of the two states at this control point: {float(torch.cosine_similarity(*states, dim=0)):.3f}")

library = stir.to_frame(run)
here = library[library["in_basis"] & (library["m"] == step.evidence.m)].copy()
for name, state in zip(("as generated", "tokenised again"), states, strict=True):
    here[name] = [float(torch.cosine_similarity(torch.tensor(key), state, dim=0)) for key in here["key"]]
recorded = {entry.entry_id: entry.sim for entry in step.evidence.retrieved}
assert all(abs(row["as generated"] - recorded[row["entry"]]) < 1e-3 for _, row in here.iterrows() if row["entry"] in recorded)
here[["entry", "kind", "as generated", "tokenised again"]].sort_values("as generated", ascending=False).head(6).round(3)

# %% [markdown]
# The state at the control point, which is compared with the keys and changed by the impulse, is then the state of *another token*. This project keeps the generated ids, so that the state is the one the model was in; `compat = true` in a run's config
# reproduces the published round trip, in mining and in steering. Use the same setting for both: as the last column shows, keys mined from one kind of state are far from states of the other kind.
