"""Reading what a page drew."""

from streamlit.testing.v1 import AppTest


def texts(app: AppTest) -> str:
    """All captions, warnings and the like in one string, without escapes."""
    found = [*app.caption, *app.markdown, *app.warning, *app.error, *app.info]
    return "\n".join(element.value for element in found).replace("\\", "")


def clean(app: AppTest) -> AppTest:
    """The page, which must show no error."""
    assert not app.exception, app.exception[0].value
    assert not app.error, app.error[0].value
    return app
