"""The read models against numbers computed another way: from the files themselves, by loops and by hand."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

import json
import math
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from fake_run import IDENTITY, NASTY, WIDTH, make_fake_run
from safetensors.numpy import load_file

from stir_core.errors import DataError
from stir_core.evaluate.statistics import Z95
from stir_core.store.runs import Run
from workbench.actions.data import marked_segments
from workbench.basis import data as basis_geometry
from workbench.home import data as run_overview
from workbench.shared import entries as action_card
from workbench.shared import gate_evidence, gate_replay
from workbench.shared import text as visible_text
from workbench.shared.facts import RunFacts, differing_identity, run_fingerprint
from workbench.shared.intervals import proportion
from workbench.shared.text import text_segments


def lines(run: Run, file: str) -> list[dict]:
    """Raw JSON lines, past all models of ours."""
    return [json.loads(line) for line in (run.path / file).read_text().splitlines()]


def vectors(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Keys and actions as stored."""
    tensors = load_file(run.path / "actions" / "actions.safetensors")
    return tensors["keys"].astype(np.float64), tensors["actions"].astype(np.float64)


@pytest.mark.parametrize(("k", "n"), [(2, 6), (0, 5), (5, 5), (37, 120)])
def test_wilson_bounds_solve_the_score_equation(k: int, n: int) -> None:
    found = proportion(k, n)
    assert found.rate == k / n
    assert found.low is not None and found.high is not None
    for bound in (found.low, found.high):
        assert abs(k / n - bound) == pytest.approx(Z95 * math.sqrt(bound * (1 - bound) / n), abs=1e-9)
    assert 0 <= found.low <= k / n <= found.high <= 1


def test_nothing_observed_is_no_number() -> None:
    assert proportion(0, 0) == (0, 0, None, None, None)
    assert str(proportion(0, 0)) == "not measured"
    assert str(proportion(2, 6)) == "33.3% (2 of 6; 95 % CI 10% to 70%)"


def test_held_out_result_is_paired(facts: RunFacts) -> None:
    result = run_overview.held_out(facts)
    assert (result.vanilla.k, result.steered.k, result.vanilla.n, result.gained, result.lost) == (2, 4, 6, 2, 0)
    raw = lines(facts.run, "steered/steered.jsonl")
    assert result.tokens_steered == sum(trace["tokens_used"] for trace in raw) / 6
    assert result.probe_tokens == sum(trace["probe_tokens"] for trace in raw) / 6
    assert result.committed == sum(any(s["decision"]["chosen"] for s in trace["steps"]) for trace in raw) / 6


def test_a_damaged_run_keeps_its_row_and_hides_no_other(facts: RunFacts, tmp_path: Path) -> None:
    damaged = make_fake_run(tmp_path, "damaged")
    (damaged.folder("steered") / "steered.jsonl").write_text("{}\n")
    table, faults = run_overview.runs_table([RunFacts(damaged), facts])
    assert list(table["run"]) == ["damaged", "fake"] and list(table["rollouts"]) == [32, 32]
    assert table["held-out n"].isna()[0] and table["vanilla"][1] == pytest.approx(1 / 3)
    assert len(faults) == 1 and "steered.jsonl" in faults[0]


def test_runs_table_leaves_unmeasured_cells_empty(facts: RunFacts, tmp_path: Path) -> None:
    half = RunFacts(make_fake_run(tmp_path, "half", "actions"))
    table, faults = run_overview.runs_table([facts, half])
    assert not faults
    assert list(table["run"]) == ["fake", "half"]
    assert list(table["problems"]) == [8, 8] and list(table["rollouts"]) == [32, 32]
    assert list(table["entries"]) == [24, 24] and table["basis"][0] == 14
    assert table["vanilla"][0] == pytest.approx(1 / 3)
    assert table.loc[1, ["basis", "held-out n", "vanilla", "steered", "gained"]].isna().all()
    assert list(table["notes"]) == [1, 0]


def test_identity_disagreement_is_named() -> None:
    other = IDENTITY.model_copy(update={"name": "another name", "weights_sha256": "00" * 32})
    table = run_overview.identity_table(IDENTITY, other).set_index("field")
    assert table.loc[["weights sha256", "dtype"], "agrees"].tolist() == ["no", "yes"]
    assert table.loc["name", "checked"] == "no"
    assert differing_identity(IDENTITY, other)
    assert not differing_identity(IDENTITY, IDENTITY.model_copy(update={"name": "same weights elsewhere"}))
    assert run_overview.identity_table(IDENTITY, None)["agrees"].isna().all()


def test_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path, "one", "actions")
    before = run_fingerprint(run)
    assert run_fingerprint(Run.open(run.path)) == before
    run.discard("actions")
    assert run_fingerprint(run) != before


def test_action_table_counts_and_norms(facts: RunFacts) -> None:
    table = action_card.action_table(facts).set_index("entry")
    assert len(table) == 12
    keys, actions = vectors(facts.run)
    for number, (entry_id, row) in enumerate(table.iterrows()):
        assert row["|v|"] == pytest.approx(np.linalg.norm(actions[number]), rel=1e-5), entry_id
        assert row["|v|/|key|"] == pytest.approx(np.linalg.norm(actions[number]) / np.linalg.norm(keys[2 * number]), rel=1e-5)
    steps = [step for trace in lines(facts.run, "steered/steered.jsonl") for step in trace["steps"]]
    for entry_id in table.index:
        assert table.loc[entry_id, "committed"] == sum(step["decision"]["chosen"] == entry_id for step in steps)
        seen = [c["entry_id"] for step in steps for c in step["evidence"]["retrieved"]]
        assert table.loc[entry_id, "retrieved"] == seen.count(entry_id)
    assert table["committed"].sum() > 0
    assert len(action_card.action_table(facts, null_entries=True)) == 24
    assert table.loc["p0000c", "promotes"] == "␣so  ␣total  ␣equals  ↵↵"


def test_quality_is_the_reward_gap_of_the_rollouts_shown(facts: RunFacts) -> None:
    entry = facts.entries["p0002c"]
    right, wrong = action_card.source_answers(facts, entry)
    assert all(side.verdict and side.verdict.correct for side in right)
    assert not any(side.verdict and side.verdict.correct for side in wrong)
    gap = np.mean([side.reward for side in right]) - np.mean([side.reward for side in wrong])
    assert entry.quality == pytest.approx(gap)


def test_rollouts_are_cut_at_the_control_point(facts: RunFacts) -> None:
    for entry in facts.entries.values():
        for side in chain(*action_card.source_answers(facts, entry)):
            rollout = facts.rollouts[entry.problem_id, int(side.label.split()[-1])]
            assert side.before + side.after == rollout.text
            assert side.before.endswith("\n\n") and side.before.count("\n\n") == entry.m
            assert side.tokens_before == rollout.boundaries[entry.m - 1]
            assert side.exact


def test_cut_of_a_token_with_two_delimiters_is_called_inexact(facts: RunFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = facts.entries["p0000c"]
    key = (entry.problem_id, entry.positives[0])
    odd = facts.rollouts[key].model_copy(update={"boundaries": facts.rollouts[key].boundaries[:-1]})
    monkeypatch.setitem(vars(facts), "rollouts", {**facts.rollouts, key: odd})
    assert not action_card.source_answers(facts, entry)[0][0].exact


@pytest.mark.parametrize("by", ["keys", "actions"])
def test_neighbours_equal_brute_force(facts: RunFacts, by: str) -> None:
    keys, actions = vectors(facts.run)
    rows = {
        e.id: keys[e.key_row] if by == "keys" else actions[e.action_row or 0]
        for e in facts.entries.values()
        if by == "keys" or e.action_row is not None
    }
    me = rows["p0001c"]
    cosines = {i: float(me @ row / np.linalg.norm(me) / np.linalg.norm(row)) for i, row in rows.items() if i != "p0001c"}
    best = sorted(cosines, key=lambda i: -cosines[i])[:8]
    table = action_card.neighbours(facts, "p0001c", by)
    assert list(table["entry"]) == best
    assert list(table["cosine"]) == pytest.approx([cosines[i] for i in best])
    pair = basis_geometry.pair_cosines(facts, "p0001c", best[0])
    assert pair[by] == pytest.approx(cosines[best[0]])


def test_a_null_entry_has_no_action_neighbours(facts: RunFacts) -> None:
    assert action_card.neighbours(facts, "p0001n", "actions").empty
    assert basis_geometry.pair_cosines(facts, "p0001n", "p0002c")["actions"] is None


def test_unknown_entry_is_refused(facts: RunFacts) -> None:
    with pytest.raises(DataError, match='no entry "p9999c"'):
        action_card.entry_of(facts, "p9999c")


def test_firings_list_every_step_that_retrieved_it(facts: RunFacts) -> None:
    raw = lines(facts.run, "steered/steered.jsonl")
    expected = {
        (t["id"], s["evidence"]["m"]) for t in raw for s in t["steps"] if any(c["entry_id"] == "p0000c" for c in s["evidence"]["retrieved"])
    }
    table = action_card.firings(facts, "p0000c")
    assert set(zip(table["problem"], table["m"], strict=True)) == expected
    assert list(table["committed"]) == sorted(table["committed"], reverse=True)
    assert table["alpha"].notna().equals(table["committed"])


def test_heatmap_is_a_symmetric_permutation(facts: RunFacts) -> None:
    shown, total = basis_geometry.heatmap_ids(facts, "keys")
    assert total == 24 and set(shown) == set(facts.entries)
    assert shown[:14] == list(facts.picks)
    table = basis_geometry.heatmap_table(facts, "keys", shown)
    square = table.pivot(index="row", columns="column", values="cosine").to_numpy()
    assert np.allclose(square, square.T) and np.allclose(np.diag(square), 1)
    assert set(table["i"]) == set(shown) and len(table) == 24 * 24
    only = basis_geometry.heatmap_ids(facts, "actions", m=2, only_selected=True)[0]
    assert only and all(facts.entries[i].m == 2 and i in facts.picks and i.endswith("c") for i in only)


def test_heatmap_has_a_limit(facts: RunFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis_geometry, "HEATMAP_LIMIT", 5)
    assert basis_geometry.heatmap_ids(facts, "keys") == (list(facts.picks)[:5], 24)
    dropped = next(i for i in facts.entries if i not in facts.picks)
    assert basis_geometry.heatmap_ids(facts, "keys", first=[dropped]) == ([dropped, *list(facts.picks)[:4]], 24)
    inside = [dropped, *list(facts.picks)[2:4]]
    assert basis_geometry.heatmap_ids(facts, "keys", among=inside) == ([*inside[1:], dropped], 3)


def test_coverage_counts_and_ranks(facts: RunFacts) -> None:
    table = basis_geometry.coverage_table(facts).set_index("set")
    assert list(table["entries"]) == [24, 14, 10]
    assert list(table["unreachable"]) == [6, 0, 6]
    keys, _ = vectors(facts.run)
    units = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    values = np.sqrt(np.linalg.eigvalsh(units @ units.T).clip(0))
    share = values[values > 1e-9] / values.sum()
    assert table.loc["mined", "key rank"] == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-4)
    off = (units @ units.T)[~np.eye(24, dtype=bool)]
    assert table.loc["mined", "key cosine"] == pytest.approx(off.mean(), rel=1e-6)
    chosen = [facts.entries[i].key_row for i in facts.picks]
    nearest = (units @ units[chosen].T).max(axis=1)
    assert table.loc["mined", "worst"] == pytest.approx(nearest.min(), rel=1e-6)
    assert table.loc["selected", "nearest selected"] == pytest.approx(1)


def test_maps_and_counts(facts: RunFacts) -> None:
    assert basis_geometry.projections(facts) == ["umap", "pca"]
    counts = basis_geometry.counts_by_step(facts)
    assert counts["entries"].sum() == 24
    assert set(counts[counts["m"] == 4]["fate"]) == {"dropped"}


def test_candidates_carry_the_algorithms_numbers(facts: RunFacts) -> None:
    gate = facts.config.gate
    seen = 0
    for trace in facts.steered.values():
        for step in trace.steps:
            table = gate_evidence.candidate_table(step.evidence, step.decision)
            nulls = [c.value for c in step.evidence.retrieved if c.kind == "null"]
            for row in table.to_dict("records"):
                assert row["value"] == pytest.approx(row["cosine"] * row["quality"])
                if row["score"] == row["score"]:
                    seen += 1
                    assert row["gain"] == pytest.approx(row["logprob"] - step.evidence.null_logprob)
                    assert row["score"] == pytest.approx(gate.beta * row["value"] + gate.rho * row["gain"])
                    assert row["margin"] == pytest.approx(row["score"] - gate.beta * max([0.0, *nulls]))
                    assert row["fate"].startswith("committed") == (row["entry"] == step.decision.chosen)
    assert seen > 20


def test_every_fate_has_a_reason(facts: RunFacts) -> None:
    fates = {
        fate.split(",")[0]
        for trace in facts.steered.values()
        for step in trace.steps
        for fate in gate_evidence.candidate_table(step.evidence, step.decision)["fate"]
    }
    assert {"committed", "not above null", "sets the null value", "null entry"} <= fates


def test_steps_and_firing_rates(facts: RunFacts) -> None:
    trace = facts.steered["arithmetic/eval/0"]
    table = gate_evidence.step_table(trace)
    assert list(table["m"]) == [0, 1, 2, 3, 4]
    assert table["reason"][0] == "control point 0 is never steered"
    assert (table["library"] >= table["retrieved"]).all() and (table["retrieved"] >= table["candidates"]).all()
    firing = gate_evidence.firing_rates(facts.steered.values()).set_index("m")
    assert 0 not in firing.index
    for m, row in firing.iterrows():
        reached = [s for t in facts.steered.values() for s in t.steps if s.m == m]
        assert (row["n"], row["fired"]) == (len(reached), sum(s.decision.chosen is not None for s in reached))
    own = facts.config.gate
    margins = gate_replay.margin_rows(gate_replay.replay_answer(trace, own, own, seed=facts.config.seed))
    assert set(margins[margins["committed"]]["entry"]) == {s.decision.chosen for s in trace.steps if s.decision.chosen}
    assert gate_evidence.firing_rates([]).empty


def test_problem_table_pairs_the_arms(facts: RunFacts) -> None:
    table = gate_evidence.problem_table(facts.steered, facts.vanilla)
    assert list(table["vanilla right"]) == [True, False, False, True, False, False]
    assert list(table["steered right"]) == [True, True, False, True, True, False]


def test_model_text_is_kept_to_the_letter(facts: RunFacts) -> None:
    entry = facts.entries["p0000c"]
    side = action_card.source_answers(facts, entry)[0][0]
    pieces = marked_segments(side, facts.config.delimiter, entry.m, None)
    assert NASTY in side.before
    kept = "".join(piece["text"] for piece in pieces if piece["role"] != "mark")  # the delimiter is drawn in the mark
    assert kept == side.before.removesuffix(facts.config.delimiter) + side.after
    assert [p["text"] for p in text_segments("a\n b\n\n")] == ["a\n b", "↵↵"]


def test_plain_escapes_every_markdown_sign() -> None:
    escaped = visible_text.plain(NASTY)
    assert escaped.replace("\\", "") == NASTY
    for sign in "<>![]($*_`":
        assert all(escaped[i - 1] == "\\" for i, letter in enumerate(escaped) if letter == sign)
    assert visible_text.visible_token(" a\n") == "␣a↵" and visible_text.visible_token("") == "∅"
    assert visible_text.one_line("a \n b", 10) == "a b" and len(visible_text.one_line("x" * 50, 10)) == 10


def test_an_empty_library_has_tables_too(facts: RunFacts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = RunFacts(make_fake_run(tmp_path, "bare"))
    bare.__dict__.update(entries={}, picks={}, unit_keys=np.zeros((0, WIDTH)), unit_actions=np.zeros((0, WIDTH)), action_ids=())
    assert action_card.action_table(bare).empty
    assert list(basis_geometry.coverage_table(bare)["entries"]) == [0, 0, 0]
    assert basis_geometry.heatmap_ids(bare, "keys") == ([], 0)


@pytest.mark.parametrize(("gained", "lost", "verdict"), [(0, 0, "cannot tell"), (2, 1, "cannot tell"), (14, 0, "helps"), (0, 14, "harms")])
def test_a_verdict_on_a_run_needs_an_interval_without_zero(
    facts: RunFacts, monkeypatch: pytest.MonkeyPatch, gained: int, lost: int, verdict: str
) -> None:
    result = run_overview.HeldOut(proportion(1 + lost, 16), proportion(1 + gained, 16), gained, lost, None, None, None, None)
    monkeypatch.setattr(run_overview, "held_out", lambda facts: result)
    (found,) = run_overview.evidence(facts, {})
    low, high = result.difference.bounds
    assert found.verdict == verdict and (low > 0 or high < 0) == (verdict != "cannot tell") and "n = 16" in found.text
