"""Data of the Harvest page: fields from the schema, bases, model names, and progress as text and bars."""

import tomllib
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from fake_run import make_fake_run

from stir_core.commands.overrides import overridden
from stir_core.config import RunConfig, Section, config_from, refusals
from stir_core.store.progress import ProgressLine
from workbench.harvest import data as form
from workbench.harvest.data import arguments, bases, model_refusal, toml_of
from workbench.shared.facts import RunFacts

FIELDS = {field.key: field for field in form.fields()}


def test_every_setting_but_the_server_is_a_field_and_has_its_help() -> None:
    leaves = {name for name, value in RunConfig() if not isinstance(value, Section)}
    leaves |= {f"{name}.{key}" for name, section in RunConfig() if isinstance(section, Section) for key, _ in section}
    assert (
        set(FIELDS) == leaves - set(form.NOT_HERE) and set(form.NOT_HERE) < leaves and set(form.FIRST) <= leaves and len(form.FIRST) == 10
    )
    assert all(field.help for field in FIELDS.values())


@pytest.mark.parametrize("key", [key for key, field in FIELDS.items() if field.kind in ("int", "float")])
def test_bounds_are_the_config_s_own(key: str) -> None:
    """The config accepts a value at a closed bound, refuses it at an open one, and refuses every value beyond."""
    field = FIELDS[key]
    for bound, beyond in ((field.low, -1), (field.high, 1)):
        if bound is not None:
            number = int if field.kind == "int" else float
            at, past = ({key: number(bound)}, {key: number(bound + beyond)})
            assert refusals(form.as_mapping(past)), past
            open_ = bool(refusals(form.as_mapping(at)))
            assert not open_ or not refusals(form.as_mapping({key: bound - beyond * 1e-6})), at


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"delimiter": "\\n\n\t\\", "task": {"system": "put it in \\boxed{}\nplease", "levels": ["sum_tiny"]}},
        {"mining": {"layers": [3, -1, 0.5, 1.0, "2/3"]}, "gate": {"min_tool_m": 2}},
        {"mining": {"layers": None}},
    ],
)
def test_an_unchanged_form_gives_the_config_back(data: dict) -> None:
    config = config_from(data)
    values = {key: form.parsed_value(field, form.shown(field, form.value_of(config, key))) for key, field in FIELDS.items()}
    assert config_from(form.as_mapping(values)).model_dump_json() == config.model_dump_json()
    assert form.changed_fields(config, config) == []


def test_empty_means_none_where_it_may() -> None:
    assert form.parsed_value(FIELDS["mining.layers"], " ") is None and form.parsed_value(FIELDS["task.system"], "") is None
    assert FIELDS["gate.max_tool_m"].optional and FIELDS["gate.max_tool_m"].low == 1
    assert FIELDS["task.name"].options and "math500" not in FIELDS["task.name"].options  # for evaluation only


def test_refusals_come_by_section_all_at_once() -> None:
    found = refusals({"rollouts": {"k": 0, "top_p": 0.0}, "gate": {"candidats": 3}, "sed": 1})
    assert {section: len(lines) for section, lines in found.items()} == {"rollouts": 2, "gate": 1, "": 1}
    assert "rollouts.k = 0" in found["rollouts"][0] and "did you mean gate.candidates?" in found["gate"][0]
    assert refusals({}) == {}


def test_bases_are_experiments_and_runs_and_the_rest_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "good.toml").write_text("seed = 3\n[rollouts]\nk = 5\n")
    (folder / "protocol.toml").write_text('gate = "--n 12"\n[[run]]\nname = "one"\n')
    (folder / "sweep.toml").write_text('base = "good.toml"\n[grid]\n"gate.k_scale" = [1.0]\n')
    (folder / "bad.toml").write_text("seed = 3\n[rollouts]\nkk = 5\n")
    (folder / "torn.toml").write_text("seed = [")
    run = make_fake_run(tmp_path, "one", "rollouts")
    found, broken = bases(folder, [run])
    assert list(found) == ["configs/good.toml", "run one"]
    assert len(broken) == 2 and any("did you mean" in line or "known keys" in line for line in broken)


def test_the_command_makes_the_config(tmp_path: Path) -> None:
    """Parsed as the command line does it, the file and then the changes, it gives the config."""
    (tmp_path / "good.toml").write_text("seed = 3\n[rollouts]\nk = 5\n")
    run = make_fake_run(tmp_path, "one", "rollouts")
    found, _ = bases(tmp_path, [run])
    wanted = config_from({"seed": 3, "rollouts": {"k": 2}, "mining": {"layers": None}, "task": {"system": "a 'b' \"c\""}})
    for base in found.values():
        own = tmp_path / "own.txt"
        own.write_text(toml_of(base, wanted))
        words = arguments(base, wanted, own, tmp_path / "out", "basis")
        assert words[0] == "run" and words[-4:] == ["--out", str(tmp_path / "out"), "--until", "basis"]
        start = config_from(tomllib.loads(Path(words[1]).read_text()))
        sets = [word for before, word in pairwise(words) if before == "--set"]
        assert overridden(start, sets) == wanted
    assert "--until" not in arguments(found["run one"], wanted, tmp_path / "own.txt", tmp_path / "out", "steered")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x/y", "a/b/c", "x", "", "~/m.gguf", "a/b.gguf", "a/../b", "./a", "org/m\n", "-x/y"])
def test_a_typed_path_is_no_model(name: str) -> None:
    line = model_refusal(name, ["smollm2"])
    assert line is not None and "\n" not in line


def test_offered_and_hub_names_are_taken_and_local_folders_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_refusal("smollm2", ["smollm2"]) is None and model_refusal("/a/b.gguf", ["/a/b.gguf"]) is None
    assert model_refusal("Qwen/Qwen2.5-0.5B", []) is None
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "takes no paths" in (model_refusal("org/model", []) or "")


def line(at: float, stage: str | None, done: int = 0, total: int = 0, *, state: str = "running", **more) -> ProgressLine:
    return ProgressLine(at=at, state=state, stage=stage, done=done, total=total, unit="rollouts", **more)  # pyright: ignore[reportArgumentType]


def test_expected_problems_with_both_outcomes_are_those_of_all_draws(facts: RunFacts) -> None:
    rights: dict[str, list[bool]] = {}
    for (problem, _), rollout in facts.rollouts.items():
        rights.setdefault(problem, []).append(rollout.verdict.correct)
    for k in (2, 3):
        draws = [[len(set(draw)) == 2 for draw in combinations(each, k)] for each in rights.values()]
        expected = 40 * sum(sum(draw) / len(draw) for draw in draws) / len(draws)
        config = config_from(facts.config.model_dump() | {"task": {"name": "arithmetic", "n_train": 40}, "rollouts": {"k": k}})
        assert f"about {expected:.1f} of 40 are expected" in form.pairs_line(config, facts) and 3 < expected <= 40
    few = config_from(config.model_dump() | {"task": {"name": "arithmetic", "n_train": 2}})
    assert "may stay empty" in form.pairs_line(few, facts) and "never measured" in form.pairs_line(few, None)


def test_stages_stand_on_a_time_axis_without_gaps() -> None:
    lines = [
        line(101, None, state="starting"),
        line(105, "rollouts", 4, 16, tokens=0),
        line(115, "rollouts", 16, 16, tokens=400, seconds=10.0),
        line(117, "states", 0, 9),
    ]
    table = form.timeline(lines, started=100, now=120)
    assert table[["stage", "start", "end", "going"]].to_numpy().tolist() == [
        ["loading", 0, 5, False],
        ["rollouts", 5, 17, False],
        ["states", 17, 20, True],
    ]
    ended = form.timeline([*lines, line(118, "states", 0, 9, state="stopped")], started=100, now=999)
    assert ended["end"].tolist()[-1] == 18 and not any(ended["going"].tolist())
    assert form.timeline([], 0, 1).empty
    assert form.kept_stages(("rollouts", "states", "actions"), lines) == ["actions"]


def test_pace_counts_this_attempt_alone() -> None:
    """Rollouts of an earlier attempt count for the share, not for the pace."""
    lines = [line(0, "rollouts", 100, 200, seconds=0.0), line(50, "rollouts", 150, 200, tokens=5000, seconds=50.0)]
    pace = form.pace(lines)
    assert pace is not None and pace.share == 0.75
    assert pace.text == "rollouts: 150 of 200 rollouts · 5,000 tokens · 100.0 tokens/s · about 50 s left at this pace"
    assert form.pace([]) is None and form.pace([line(0, None, state="starting")]) is None
    done = form.pace([*lines, line(51, "rollouts", 150, 200, state="stopped", tokens=5000, seconds=50.0)])
    assert done is not None and "left" not in done.text
