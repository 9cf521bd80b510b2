"""What an action says through the unembedding: tokens promoted above 0, suppressed below."""

import altair as alt
import pandas as pd

from stir_core.records import Lens
from workbench.shared.charts_colours import DIVERGING
from workbench.shared.visible_text import visible_token


def lens_table(lens: Lens, n: int = 10) -> pd.DataFrame:
    """The ``n`` most promoted and most suppressed tokens; a text that two tokens share is told apart by its id."""
    tokens = [*lens.promoted[:n], *reversed(lens.suppressed[:n])]
    return pd.DataFrame(
        {
            "token": [f"{visible_token(token.text)}  {token.token_id}" for token in tokens],
            "text": [visible_token(token.text) for token in tokens],
            "id": [token.token_id for token in tokens],
            "logit": [token.logit for token in tokens],
            "sign": ["promoted" if token.logit >= 0 else "suppressed" for token in tokens],
        }
    )


def lens_bars(lens: Lens, n: int = 10) -> alt.Chart:
    """Horizontal bars around 0; the scale is the change of the logit that a unit multiple of the action makes directly."""
    table = lens_table(lens, n)
    return (
        alt.Chart(table)
        .mark_bar(height={"band": 0.75})
        .encode(
            x=alt.X("logit:Q", title="direct logit effect (per unit α)"),
            y=alt.Y(
                "token:N",
                sort=list(table["token"]),
                title="token and its id",
                axis=alt.Axis(
                    labelFont="monospace", labelLimit=150, labelOverlap=False, labelBound=False, labelFlush=False, labelFontSize=10
                ),
            ),
            color=alt.Color("sign:N", scale=alt.Scale(domain=["promoted", "suppressed"], range=[DIVERGING[-1], DIVERGING[1]]), legend=None),
            tooltip=[alt.Tooltip("text:N", title="token"), alt.Tooltip("id:Q", format="d"), alt.Tooltip("logit:Q", format="+.3f")],
        )
        .properties(height=15 * len(table) + 50)
    )
