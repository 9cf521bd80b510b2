"""Every page on every kind of store: nothing there, half a run, a whole run, a damaged one, wrong links. Never a traceback."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_run import NASTY, make_fake_run
from page_reading import leaves, strips
from streamlit.testing.v1 import AppTest

from workbench import bootstrap, session

PAGES = ("home", "actions", "basis", "gates", "trace", "export")
OpenPage = Callable[..., AppTest]


def clean(app: AppTest) -> AppTest:
    """Passes the page on when nothing went wrong on it."""
    assert not app.exception, app.exception[0].value
    assert not app.error, app.error[0].value
    return app


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_store_says_what_to_type(open_page: OpenPage, page: str) -> None:
    app = clean(open_page(page))
    assert any("stir run configs/demo.toml" in code.value for code in app.code)


@pytest.mark.parametrize(
    ("upto", "missing"),
    [
        ("rollouts", {"actions": "actions", "basis": "actions", "gates": "actions", "trace": "actions", "export": "actions"}),
        ("actions", {"basis": "basis", "gates": "steered", "trace": "basis"}),
        ("basis", {"gates": "steered"}),
    ],
)
def test_a_half_made_run_says_what_is_missing(open_page: OpenPage, store: Path, upto: str, missing: dict[str, str]) -> None:
    make_fake_run(store, "half", upto)
    for page in PAGES:
        app = clean(open_page(page))
        if page not in missing:
            assert not app.info
            continue
        assert f'no finished stage "{missing[page]}"' in app.info[0].value.replace("\\", "")
        assert "--until" in app.code[0].value


@pytest.mark.parametrize("page", PAGES)
def test_a_whole_run_is_shown(open_page: OpenPage, store: Path, page: str) -> None:
    make_fake_run(store)
    app = clean(open_page(page))
    assert app.selectbox(key="run").value == "fake"
    assert not app.info


def address(app: AppTest) -> dict[str, str]:
    """The parameters of the page's address."""
    return {key: value if isinstance(value, str) else value[-1] for key, value in app.query_params.items()}


def absent(app: AppTest, key: str, value: str) -> AppTest:
    """The page, which says in one line that the link's ``value`` is not here, and draws the empty box ``key``."""
    assert not app.exception, app.exception[0].value
    assert app.selectbox(key=key).value is None
    (error,) = app.error
    assert f'"{value}"' in error.value.replace("\\", "") and "choose" in error.value
    return app


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_shown_for_an_absent_run_until_another_is_chosen(open_page: OpenPage, store: Path, page: str) -> None:
    make_fake_run(store)
    app = absent(open_page(page, run="../../etc", action="p0003c"), "run", "../../etc")
    assert not app.metric and not strips(app)
    absent(app.run(), "run", "../../etc")
    assert address(app)["run"] == "../../etc"  # a reload says the same
    app.selectbox(key="run").select("fake").run()
    assert address(clean(app))["run"] == "fake"
    assert "action" not in app.query_params or page in ("actions", "basis")


def test_nothing_is_shown_for_an_absent_entry_problem_or_step(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    for page, key, value in (
        ("actions", "action", "p9999c"),
        ("basis", "action", "p9999c"),
        ("actions", "at", "arithmetic/eval/0:77"),
        ("gates", "problem", "<script>"),
        ("trace", "problem", "arithmetic/eval/77"),
    ):
        app = absent(open_page(page, **{key: value}), key, value)
        assert key == "at" or not strips(app)
    app = absent(open_page("actions", action="p9999c"), "action", "p9999c")
    app.switch_page("../pages/basis.py").run()
    absent(app, "action", "p9999c")
    app.selectbox(key="action").select("p0003c").run()
    app.switch_page("../pages/actions.py").run()
    assert clean(app).selectbox(key="action").value == "p0003c"
    for page, query, value in (
        ("gates", {"m": "-1"}, "-1"),
        ("basis", {"other": "p9999c"}, "p9999c"),
        ("export", {"targets": "bundle,nowhere"}, "nowhere"),
        ("actions", {"alpha": "much"}, "much"),
        ("curate", {"action": "p9999c"}, "p9999c"),
    ):
        app = open_page(page, **query)
        assert not app.exception
        assert [f'"{value}"' in error.value.replace("\\", "") for error in app.error] == [True], (page, query)


def test_another_run_leaves_what_was_chosen_for_the_first_out_of_the_address(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    make_fake_run(store, "other")
    app = clean(open_page("actions", run="fake", problem="arithmetic/eval/3", action="p0005c"))
    app.selectbox(key="run").select("other").run()
    assert address(clean(app))["action"] == "p0005c" and "problem" not in address(app)
    app.switch_page("../pages/gates.py").run()
    app.run()
    assert clean(app).selectbox(key="problem").value == "arithmetic/eval/3"
    assert address(app)["problem"] == "arithmetic/eval/3"


def test_links_choose(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    make_fake_run(store, "other")
    app = clean(open_page("actions", run="other", action="p0005c"))
    assert app.selectbox(key="run").value == "other"
    assert app.selectbox(key="action").value == "p0005c"
    app = clean(open_page("gates", problem="arithmetic/eval/3", m="1"))
    assert app.selectbox(key="problem").value == "arithmetic/eval/3"
    assert app.button_group(key="m").value == "1"


def test_a_choice_is_kept_from_page_to_page(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    app = clean(open_page("actions"))
    app.selectbox(key="action").select("p0006c").run()
    app.switch_page("../pages/gates.py").run()
    app.switch_page("../pages/basis.py").run()
    assert clean(app).selectbox(key="action").value == "p0006c"


def test_another_run_has_other_entries(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store, "a")
    make_fake_run(store, "b", "rollouts")
    app = clean(open_page("actions", action="p0002n"))
    app.selectbox(key="run").select("b").run()
    assert "no finished stage" in clean(app).info[0].value
    app.selectbox(key="run").select("a").run()
    assert clean(app).selectbox(key="action").value == "p0002n"


@pytest.mark.parametrize("page", PAGES)
def test_a_damaged_stage_is_one_line(open_page: OpenPage, store: Path, page: str) -> None:
    run = make_fake_run(store)
    for stage, name in (("actions", "actions.safetensors"), ("basis", "map.safetensors")):
        file = run.path / stage / name
        file.write_bytes(file.read_bytes()[:100])
    for name in ("steered.jsonl", "problems.jsonl"):
        (run.path / "steered" / name).write_text("{}\n")
    app = open_page(page)
    assert not app.exception
    assert len(app.error) == 1
    assert "\n" not in app.error[0].value


def test_unreadable_folders_are_named(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    (store / "torn").mkdir()
    (store / "torn" / "run.json").write_text("{")
    broken = make_fake_run(store, "broken", "rollouts")
    (broken.path / "rollouts" / "manifest.json").write_text("{}")
    app = clean(open_page("home"))
    named = " ".join(warning.value for warning in app.warning).replace("\\", "")
    assert "torn/run.json is not a run description" in named
    assert "broken/rollouts/manifest.json is not a Manifest" in named
    assert app.selectbox(key="run").options == ["fake"]


def test_model_text_is_shown_and_never_interpreted(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    for page, query in (("actions", {"action": "p0000c"}), ("gates", {"problem": "arithmetic/eval/0", "m": "0"})):
        app = clean(open_page(page, **query))
        drawn = ["".join(piece["text"] for piece in strip["segments"]) for strip in strips(app)]
        assert any(NASTY in text for text in drawn), page
        for element in leaves(app.main):
            if element.type in ("markdown", "caption", "subheader", "alert"):
                assert not getattr(element.proto, "allow_html", False)
                assert "<script>" not in str(getattr(element.proto, "body", ""))


def test_rows_points_and_cells_choose(open_page: OpenPage, store: Path) -> None:
    """Charts and tables have no setter in AppTest; their callbacks are run on the state that the browser would send."""
    make_fake_run(store)
    app = clean(open_page("basis"))
    app.session_state["basis_map"] = {"selection": {"points": [{"customdata": ["p0003c", 4]}, {"customdata": None}]}}
    app.session_state["basis_heatmap"] = {"selection": {"cell": [{"i": "p0001c", "j": "p0002c"}]}}
    app.session_state["actions_table"] = {"selection": {"rows": [2]}}
    seen = {}

    def look() -> None:
        seen["points"] = session.selected_points("basis_map")
        seen["cells"] = session.selected_cells("basis_heatmap", "cell")
        seen["rows"] = session.selected_rows("actions_table")
        seen["none"] = session.selected_rows("never drawn")

    state = app.session_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.st, "session_state", {key: state[key] for key in ("basis_map", "basis_heatmap", "actions_table")})
        look()
    assert seen == {"points": [["p0003c", 4], None], "cells": [{"i": "p0001c", "j": "p0002c"}], "rows": [2], "none": []}


def test_home_compares_identities_once_a_model_is_loaded(open_page: OpenPage, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_run import IDENTITY

    from workbench import live

    make_fake_run(store)
    other = IDENTITY.model_copy(update={"weights_sha256": "00" * 32})
    loads = []

    class Loaded:
        identity = other

    def load(config: object) -> Loaded:
        loads.append(config)
        return Loaded()

    monkeypatch.setattr(live, "load_core_model", load)
    app = clean(open_page("home"))
    app.button(key="load_model").click().run()
    assert any("refused" in str(element.proto) for element in leaves(clean(app).main) if element.type == "markdown")
    clean(open_page("home"))
    assert len(loads) == 1


def test_a_process_that_a_page_starts_does_not_draw_the_app() -> None:
    """Such a process imports the main script under another name, where there is no session to draw for."""
    names = runpy.run_path(str(bootstrap.PAGES.parent / "workbench" / "app.py"), run_name="__mp_main__")
    assert callable(names["open_workbench"])
