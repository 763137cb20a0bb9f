"""Text from outside cannot move, hide or recolour what stands beside it."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.printable import printable


@given(st.text(st.characters(codec=None)))
def test_no_control_or_direction_survives(text: str) -> None:
    shown = printable(text)
    assert not any(char in shown for char in "\x00\x07\x1b\n\r\x7f\x85\x9b\u2028\u202e\u2066\ufeff")
    shown.encode()


def test_plain_words_of_any_language_stay() -> None:
    assert printable("Café 東京 ₤5 \\n") == "Café 東京 ₤5 \\n"
    assert printable("a\nb\x1b[0m\u202e") == "a\\nb\\x1b[0m\\u202e"
