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
# # 08 Ephemeral or persistent? What the KV cache remembers, and what the published code does
#
# An impulse is added at one token, once. But that token's keys and values in the blocks above are computed *from* the changed state, and every later token attends to them: as long as that column stands in the cache, the
# impulse is still there. Whether it stands there in the *next* step is a decision that an implementation can make without noticing. There are two algorithms here:
#
# - **ephemeral**: every step starts from keys and values computed without any earlier impulse; what stays of an impulse is the text that it led to;
# - **persistent**: the decoder keeps its cache, and impulses pile up in it.
#
# Below: what stays in the cache, in numbers; which part of it the next step feels; what becomes of answers; and what the published code does.

# %%
import copy

import altair as alt
import numpy as np
import pandas as pd
import torch

import stir_core as stir

alt.renderers.enable("png", scale_factor=1.5)
run = stir.open_run("demo")
model = stir.load_model(run.config.model.name)
bridge, gate = model.bridge, run.config.gate

# %% [markdown]
# ## What an impulse leaves behind
#
# A recorded answer, its first committed action, and the plain bridge: the cache of everything before the control point, then one pass of the control point's token, clean and kicked.

# %%
answer = next(trace for trace in run.traces() if trace.id == "arithmetic/eval/sum_small:11+15")
at = next(i for i, step in enumerate(answer.steps) if step.decision.chosen)
step, following = answer.steps[at], answer.steps[at + 1]
entry = next(entry for entry in run.entries() if entry.id == step.decision.chosen)
p, layer = step.evidence.position, entry.layer
impulse = step.decision.alpha * torch.tensor(run.action_rows()[entry.action_row])
ids = [*answer.prompt_ids, *answer.token_ids]
print(
    f"control point {step.m}: {entry.id} x {step.decision.alpha:.3f} behind block {layer}, at token {p}: {step.text!r}, then {following.text!r}"
)


def add(stream: torch.Tensor, hook) -> torch.Tensor:
    """The impulse, at the first token of a pass."""
    stream[:, 0] += impulse
    return stream


def read(tokens: list[int], cache=None, kicked: bool = False):
    """Logits [tokens, vocab] of a pass behind a cache (which is left as it is), and the cache with these tokens in it."""
    hooks = [(f"blocks.{layer}.hook_out", add)] if kicked else []
    with torch.inference_mode(), bridge.hooks(fwd_hooks=hooks):
        logits, grown = bridge(torch.tensor([tokens]), past_key_values=copy.deepcopy(cache), use_cache=True, return_type="logits_and_cache")
    return logits[0], grown


_, before = read(ids[:p])
seen = {}
with torch.inference_mode():
    keep = (f"blocks.{layer}.hook_out", lambda stream, hook: seen.update(h=stream[0, 0]))
    bridge.run_with_hooks(torch.tensor([[ids[p]]]), past_key_values=copy.deepcopy(before), fwd_hooks=[keep])
print(f"the impulse is {impulse.norm() / seen['h'].norm():.0%} of the state that it is added to")
(first_clean, clean), (first_kicked, kicked) = read([ids[p]], before), read([ids[p]], before, kicked=True)


def change(ours, theirs, what: str, columns: slice) -> np.ndarray:
    """Norm of the difference of keys or values over the norm of the clean ones, [layers, tokens]."""
    found = []
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        a, b = (getattr(each, what)[0, :, columns].transpose(0, 1).flatten(1) for each in (one, other))
        found.append(((a - b).norm(dim=-1) / b.norm(dim=-1)).numpy())
    return np.stack(found)


left = {what: change(kicked, clean, what, slice(None)) for what in ("keys", "values")}
for what in left:
    assert not left[what][:, :p].any()  # no earlier token is touched
    assert not left[what][: layer + 1].any()  # nor any block up to the injected one
rows = [(what, i, size) for what, sizes in left.items() for i, size in enumerate(sizes[:, p])]
alt.Chart(pd.DataFrame(rows, columns=["cache", "block", "change"])).mark_line(point=True).encode(
    x=alt.X("block:Q", title="block"),
    y=alt.Y("change", title="|steered - clean| / |clean|, at the control point", axis=alt.Axis(format="%")),
    color="cache",
    strokeDash="cache",
).properties(width=440, height=200)

# %% [markdown]
# One column of the cache, in the blocks above the injected one, and nothing else. *This column is the impulse*, as far as later tokens are concerned.
#
# ## What the next step feels
#
# While the step is decoded, its own tokens attend to that column, so their keys and values differ a little as well. At the end of the step the cache therefore holds two traces of the impulse: the control point's column, and
# the columns of the step's tokens. The next step's tokens (recorded, the same for all) are now read behind the clean cache, the persistent one, and operations on the persistent one.

# %%
*own, last = step.token_ids
own_clean, clean_after = read(own, clean)
own_kicked, kicked_after = read(own, kicked)


def with_clean(columns: slice, parts: tuple[str, ...] = ("keys", "values")):
    """The persistent cache with some columns put back as the clean pass computed them."""
    cache = copy.deepcopy(kicked_after)
    for one, other in zip(cache.layers, clean_after.layers, strict=True):
        for part in parts:
            getattr(one, part)[:, :, columns] = getattr(other, part)[:, :, columns]
    return cache


def kl(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """KL(ours || theirs) in nats, row by row."""
    a, b = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
    return (a.exp() * (a - b)).sum(-1)


point, rest = slice(p, p + 1), slice(p + 1, None)
caches = {
    "persistent": kicked_after,
    "only the step's tokens remember": with_clean(point),
    "only the control point remembers": with_clean(rest),
    "only its keys": with_clean(slice(p, None), ("values",)),
    "only its values": with_clean(slice(p, None), ("keys",)),
    "ephemeral (all put back)": with_clean(slice(p, None)),
}
nextly = [last, *following.token_ids]  # from the next control point to the one after it, read unsteered
base, _ = read(nextly, clean_after)
felt = {name: kl(read(nextly, cache)[0], base) for name, cache in caches.items()}
assert felt["ephemeral (all put back)"].max() < 1e-9

within = kl(torch.cat([first_kicked, own_kicked]), torch.cat([first_clean, own_clean]))
print(
    f"the impulse's own step: KL {within[0]:.4f} nats at its control point, mean {within[1:].mean():.4f} over the {len(own)} tokens behind it"
)
pd.DataFrame(
    {
        name: {"at the next control point": float(k[0]), "mean over the next step": float(k[1:-1].mean()), "at the one after": float(k[-1])}
        for name, k in felt.items()
    }
).T.round(5)

# %%
labels = [f"{i} {model.tokenizer.decode([token])!r}" for i, token in enumerate(nextly)]
shown = [(name, label, float(k)) for name in list(caches)[:3] for label, k in zip(labels, felt[name], strict=True)]
alt.Chart(pd.DataFrame(shown, columns=["cache", "token", "kl"])).mark_line(point=True).encode(
    x=alt.X(
        "token", sort=None, title="behind this token (0: the next control point)", axis=alt.Axis(labelAngle=-60, labelFont="monospace")
    ),
    y=alt.Y("kl", title="KL(with that cache || clean), nats"),
    color=alt.Color("cache", sort=None, legend=alt.Legend(orient="top", labelLimit=220)),
    strokeDash=alt.StrokeDash("cache", sort=None),
).properties(width=480, height=200)

# %% [markdown]
# Two things to read off. The impulse acts where the text is *open*: at its own control point, and at the delimiters behind, where a step ends and anything may begin; inside a step, where the next word is all but settled, there is little for it to
# move. And both traces count: cleaning the control point's column alone is not *ephemeral*.
#
# ## Putting it back costs one pass
#
# Ephemeral needs no second run of the prefix: keep the control point's clean column, and read the step's tokens once more behind it, all in parallel. That it is the same as sending the whole text again is checkable:

# %%
whole, _ = read(ids[: p + 1 + len(own)])
print(f"largest difference of the logits: {float((whole[-len(own) :] - own_clean).abs().max()):.1e}")
assert torch.allclose(whole[-len(own) :], own_clean, atol=2e-3)

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
# ## A whole answer, read both ways
#
# `stir.read_tokens` reads a recorded answer again under either persistence: at every token, the divergence of the steered model from the plain one behind the same text. The words are the recorded ones in both, so this is
# what *would be felt* at each place.

# %%
session = stir.open_session(run, model)
persistent = stir.with_changes(gate, persistence="persistent")
readings = {"ephemeral": stir.read_tokens(session, answer, gate), "persistent": stir.read_tokens(session, answer, persistent)}
frame = pd.concat([stir.to_frame(found).assign(persistence=name) for name, found in readings.items()])
live = {step.m for step in answer.steps if step.decision.chosen}
ephemeral = frame[frame["persistence"] == "ephemeral"]
assert (ephemeral.loc[~ephemeral["m"].isin(live), "kl"] == 0).all()  # nothing is left outside a steered step
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
    f"steps that were not steered themselves, behind the first impulse ({outside['position'].nunique()} tokens): mean KL",
    outside.groupby("persistence")["kl"].mean().round(4).to_dict(),
)
later = frame[frame["m"].isin(live) & (frame["m"] > min(live))]
print(
    f"steered steps behind the first ({later['position'].nunique()} tokens): mean KL",
    later.groupby("persistence")["kl"].mean().round(4).to_dict(),
)

# %% [markdown]
# ## Two algorithms, two answers
#
# Does it matter for what is written? The recorded answers are ephemeral; a few are taken up again at their first committed action, which is kept, under a gate that differs in nothing but `persistence` (`stir.what_if`; decoding the whole
# answer with `stir.steer` gives the same). Both are the same, word for word and decision for decision, up to the end of the first steered step: only then is there something to remember.

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
# So little is left in the cache, and yet texts can part: decisions of the gate hang on thousandths (notebook 03), and greedy decoding needs only one. A handful of answers of a small model shows that the two are different programs, not which is better. That is an evaluation: `stir eval RUN --methods stir stir:persistence=persistent`.
#
# ## What the published code does
#
# It sends **the whole text again for every preview and every step**. So each step starts from keys and values without any earlier impulse: the published algorithm is *ephemeral*, not by a line that says so, but because there is no cache to remember
# anything. Parity is therefore measured on `ephemeral`, which is the default here.
#
# Sending text instead of tokens has a second consequence. Text that the model *wrote* as some tokens may be *read* back as others:

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
# The state at the control point, which is compared with the keys and which the impulse is added to, is then the state of *another token*. This project keeps the generated ids, so that the state is the one the model was in; `compat = true` in a run's config
# reproduces the published round trip, in mining as in steering. Use one or the other for both: as the last column shows, keys mined from one kind of state lie far from states of the other kind.
