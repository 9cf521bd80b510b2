"""A shared workbench shows nothing before its password, on no page, and everything after it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit import config
from streamlit.testing.v1 import AppTest

from stir_core.deploy.serving import password
from workbench.shared import view_password

OpenPage = Callable[..., AppTest]
PAGES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "pages").glob("*.py"))
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def kept() -> str:
    return password.password_hash(PASSWORD)


@pytest.fixture
def shared(kept: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(password.HASH, kept)
    config.set_option("server.address", "0.0.0.0")
    view_password.password_check.cache_clear()
    yield
    config.set_option("server.address", "127.0.0.1")


def give(app: AppTest, text: str) -> AppTest:
    app.text_input[0].input(text)
    return app.button[0].click().run()


@pytest.mark.parametrize("stem", PAGES)
def test_no_page_shows_anything_before_the_password(shared: None, open_page: OpenPage, store: Path, stem: str) -> None:
    (store / "a_run_of_mine").mkdir()
    app = open_page(stem, run="a_run_of_mine", let_in="True", problem="p")
    assert [title.value for title in app.title] == ["STIR Workbench"] and not app.error
    assert len(app.text_input) == 1 and app.text_input[0].label == "Password"
    assert (
        len(app.button) == 1 and [heading.value for heading in app.title] == ["STIR Workbench"] and not app.selectbox and not app.dataframe
    )
    assert "a_run_of_mine" not in str(app.main)
    assert "let_in" not in app.session_state


def test_the_right_password_opens_the_page_that_was_asked_for(shared: None, open_page: OpenPage) -> None:
    app = give(open_page("calibration"), PASSWORD)
    assert (
        not app.exception
        and "STIR Workbench" not in [heading.value for heading in app.title]
        and not any(each.label == "Password" for each in app.text_input)
    )
    assert "Calibration" in [heading.value for heading in app.title]
    assert app.switch_page("../pages/home.py").run().title[0].value == "Home", "the tab stays open"


def test_another_tab_is_asked_again(shared: None, open_page: OpenPage) -> None:
    give(open_page("home"), PASSWORD)
    assert open_page("home").title[0].value == "STIR Workbench"


def test_a_wrong_password_opens_nothing_and_the_next_one_waits_in_every_tab(shared: None, open_page: OpenPage) -> None:
    app = give(open_page("home"), "battery staple")
    assert [error.value for error in app.error] == ["That is not the password."] and app.title and "let_in" not in app.session_state
    other = give(open_page("home"), PASSWORD)
    assert "a wrong password was given just now: try again in" in other.error[0].value and other.title


@pytest.mark.parametrize("address", [None, "", "0.0.0.0", "::", "192.168.1.5", "lab.example"])
def test_a_server_for_others_without_a_password_shows_nothing(open_page: OpenPage, address: str | None) -> None:
    """``streamlit run workbench/app.py --server.address 0.0.0.0``; no address is every one."""
    config.set_option("server.address", address)
    try:
        app = open_page("home")
    finally:
        config.set_option("server.address", "127.0.0.1")
    assert not app.exception and [heading.value for heading in app.title] == ["STIR Workbench"] and not app.text_input
    assert "start it with `stir workbench --share`" in app.error[0].value


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1"])
def test_on_this_machine_nothing_is_asked(open_page: OpenPage, address: str) -> None:
    config.set_option("server.address", address)
    try:
        app = open_page("home")
    finally:
        config.set_option("server.address", "127.0.0.1")
    assert not app.exception and [heading.value for heading in app.title] == ["Home"]


def test_a_hash_that_is_none_opens_nothing(shared: None, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in ("", "hunter2"):
        monkeypatch.setenv(password.HASH, broken)
        app = give(open_page("home"), broken)
        assert "is not an argon2 hash" in app.error[0].value and app.title and "let_in" not in app.session_state
