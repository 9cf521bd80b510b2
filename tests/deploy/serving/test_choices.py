"""Stop sequences in a stream of text: whatever the pieces, the text before the first one, and nothing of it is sent."""

from hypothesis import given
from hypothesis import strategies as st

from stir_core.deploy.serving.choices import StopText

ALPHABET = st.text("ab\n", max_size=12)


@given(st.lists(ALPHABET, max_size=8), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_a_text_in_pieces_is_cut_before_its_first_stop_sequence(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    held = StopText(tuple(stops))
    sent = "".join(held.push(piece) for piece in pieces)
    assert whole.startswith(sent)
    ends = [end for end in range(len(whole) + 1) if any(whole[:end].endswith(stop) for stop in stops)]
    if ends:  # the stop sequence that is complete first, as in decoding token by token
        complete = whole[: ends[0]]
        first = min(complete.find(stop) for stop in stops if complete.endswith(stop))
        assert held.stopped and held.rest() == ""
        assert len(sent) <= first
    else:
        assert not held.stopped and sent + held.rest() == whole


def test_nothing_is_held_back_without_reason() -> None:
    held = StopText(("###", "\nQ:"))
    assert [held.push(piece) for piece in ("a", "#", "b", "c##", "d\n", "Q", "x")] == ["a", "", "#b", "c", "##d", "", "\nQx"]
    assert held.push("y\nQ: and more") == "y" and held.stopped and held.push("z") == "" == held.rest()
