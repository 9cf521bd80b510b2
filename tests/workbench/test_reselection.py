"""Selecting again: the run's own settings give back its picks, the parts of every gain sum to it, and comparisons count right."""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false
# (pandas carries no stubs here: a comparison may be anything to a type checker)

import pytest
from big_run import make_big_run

from stir_core.config import with_changes
from stir_core.errors import ConfigError
from stir_core.store.runs import EMBEDDED_RUNS, Run
from workbench.basis import reselection
from workbench.shared import command_lines
from workbench.shared.facts import RunFacts


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunFacts:
    """A run whose basis the core's own selection made: 160 entries, 24 picks."""
    root = tmp_path_factory.mktemp("small")
    return RunFacts(make_big_run(root, 160, width=24, budget=72))


@pytest.fixture(params=["small", "smollm2"])
def made(request: pytest.FixtureRequest, small: RunFacts) -> RunFacts:
    """That run, and the embedded one."""
    if request.param == "small":
        return small
    assert (EMBEDDED_RUNS["smollm2"] / "run.json").is_file(), "the embedded run ships with the package"
    return RunFacts(Run.open("smollm2"))


def test_the_runs_own_settings_give_back_its_picks(made: RunFacts) -> None:
    again, stored = reselection.reselect(made, made.config), reselection.stored(made)
    ours, theirs = made.run.picks(), list(again.picks)
    # the last digit of a gain is that of the machine's own matrix products
    assert [pick.replaced(gain=None) for pick in theirs] == [pick.replaced(gain=None) for pick in ours]  # entry, order, forced
    assert [pick.gain for pick in theirs] == pytest.approx([pick.gain for pick in ours], abs=1e-9)
    assert again.ids == stored.ids
    assert again.notes == made.run.manifest("basis").notes
    assert reselection.comparison(made, stored, again)["change"].dropna().tolist() == pytest.approx([0] * 16)


def test_the_parts_of_every_gain_sum_to_the_stored_one(made: RunFacts) -> None:
    stored = reselection.stored(made)
    assert [part.total for part in stored.parts] == pytest.approx([pick.gain for pick in made.run.picks()], abs=1e-6)
    table = reselection.replay_table(made, stored)
    assert list(table["gain"]) == pytest.approx(list(table["quality gain"] + table["log-det gain"]))
    assert table["objective"].iloc[-1] == pytest.approx(sum(pick.gain or 0 for pick in made.run.picks()), abs=1e-5)
    keys, ids = made.unit_keys, list(made.entries)
    for k in (1, len(table) - 1):  # nearest earlier pick, by hand
        earlier = [ids.index(i) for i in table["entry"][:k]]
        cosines = keys[earlier] @ keys[ids.index(table["entry"][k])]
        assert table["nearest"][k] == ids[earlier[int(cosines.argmax())]]
        assert table["nearest cosine"][k] == pytest.approx(cosines.max())


def test_other_settings_are_followed(small: RunFacts) -> None:
    def picks(**changes: object) -> reselection.Selection:
        return reselection.reselect(small, with_changes(small.config, basis=changes))

    assert len(picks(budget=30, min_per_control_point=0).picks) == 30
    assert sum(pick.forced for pick in picks(min_per_control_point=3).picks) == 7 * 3  # m = 8 is unreachable
    best = picks(selector="top", min_per_control_point=0, budget=10)
    qualities = sorted((e.quality for e in small.entries.values() if e.reachable), reverse=True)[:10]
    assert [small.entries[i].quality for i in best.ids] == pytest.approx(qualities)
    assert [pick.gain for pick in best.picks] == [None] * 10 and len(best.parts) == 10  # weighed all the same
    spread, greedy = picks(diversity=5.0, min_per_control_point=0, budget=20), picks(diversity=0.0, min_per_control_point=0, budget=20)
    measured = [reselection.metrics(small, each) for each in (spread, greedy)]
    assert measured[0]["key rank"] > measured[1]["key rank"]  # type: ignore[operator]
    assert measured[0]["mean quality"] <= measured[1]["mean quality"]  # type: ignore[operator]
    assert picks(similarity="centred").ids != picks(similarity="cosine").ids
    assert list(small.picks) == [pick.entry_id for pick in small.run.picks()]  # nothing was written


def test_settings_that_the_config_refuses_are_one_line(small: RunFacts) -> None:
    with pytest.raises(ConfigError, match=r"basis\.budget = 0") as caught:
        with_changes(small.config, basis={"budget": 0})
    assert "\n" not in str(caught.value)
    config = with_changes(small.config, basis={"budget": 20, "diversity": small.config.basis.diversity})
    assert reselection.differing(small, config) == {"budget": 20}
    assert reselection.digest(config) != reselection.digest(small.config)


def test_what_changed_is_counted(small: RunFacts) -> None:
    before = reselection.stored(small)
    after = reselection.reselect(small, with_changes(small.config, basis={"budget": 40, "min_per_control_point": 0, "selector": "random"}))
    table = reselection.pick_changes(small, before, after)
    sets = {fate: set(table[table["fate"] == fate]["entry"]) for fate in ("kept", "gained", "lost")}
    old, new = set(before.ids), set(after.ids)
    assert sets == {"kept": old & new, "gained": new - old, "lost": old - new}
    assert sets["gained"] and sets["lost"]
    ranks = dict(zip(table["entry"], table["pick now"], strict=True))
    assert [ranks[id_] for id_ in after.ids] == list(range(1, 41))
    counted = reselection.counts(small, before, after)
    assert counted[counted["selection"] == "re-selected"]["picks"].sum() == 40
    found = reselection.metrics(small, after)
    chosen = [small.entries[i] for i in after.ids]
    alone = [e for e in chosen if sum(o.pair == e.pair for o in chosen) == 1]
    assert found["actions without their null"] == sum(e.kind == "corrective" for e in alone)
    assert found["split pairs"] == len(alone)
    rows = [list(small.entries).index(i) for i in after.ids]
    cover = (small.unit_keys @ small.unit_keys[rows].T).max(axis=1)
    assert found["coverage, mean"] == pytest.approx(cover.mean()) and found["coverage, worst"] == pytest.approx(cover.min())


def test_the_command_keeps_the_runs_own_and_makes_a_copy(small: RunFacts) -> None:
    run = Run(small.run.path, small.run.facts | {"command": "stir run a.toml --out runs/a --set seed=3 --redo states"})
    command = command_lines.reselect_command(run, {"budget": 9, "selector": "top"})
    copied, made = command.split(" && ")
    copy = copied.split()[-1]
    assert copied == f"cp -r {run.path} {copy}" and copy.startswith("runs/big-")
    sets = "--set basis.budget=9 --set basis.selector=top"
    assert made == f"stir run a.toml --set seed=3 --out {copy} {sets} --redo basis --until basis"
    assert copy not in command_lines.reselect_command(run, {"budget": 10})
