"""Whatever a device says of itself: nothing breaks, nothing unbounded or unprintable is kept, versions are ordered."""

import json

from hypothesis import given
from hypothesis import strategies as st

from agent.core import cards
from agent.core.presence import TEXT_CHARS_MAX, UNSENT_MAX, Line, Said, said_in, verdict, version_order, version_state

WORDS = st.sampled_from(["ready", "asleep", "background", "offline"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=100)
CARDS = st.sampled_from(["4111111111111111", "4111 1111", "1111 1111", "5500-0000-0000-0004", "%B4111111111111111^X"])
ANY = st.recursive(
    SCALARS | CARDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
KEYS = st.sampled_from(["app", "version", "menu_version", "epoch", "last", "pending", "applied", "state", "other"])
STATES = st.builds(lambda word, rest: {"state": word} | rest, WORDS | ANY, st.dictionaries(KEYS, ANY, max_size=9))
VERSIONS = (
    st.text(max_size=12)
    | st.from_regex(r"\Av?[0-9]{1,3}(\.[0-9]{1,3}){0,3}(-[a-z0-9]{1,3}(\.[a-z0-9]{1,3})?|rc[0-9])?\Z")
    | st.text(max_size=12)
)


def sound(said: Said) -> None:
    shown = [text for text in (said.app, said.version, said.menu_version) if text is not None]
    for text in shown:
        assert 0 < len(text) <= TEXT_CHARS_MAX
        assert text.isprintable()
    assert cards.text_clean(" ".join(shown))
    assert said.epoch is None or (len(said.epoch) <= 64 and cards.text_clean(said.epoch))
    assert said.unsent is None or 0 <= said.unsent <= UNSENT_MAX
    assert said.last is None or 0 < said.last < 10**12


@given(st.lists(STATES, min_size=1, max_size=4))
def test_a_chain_of_hostile_states_leaves_only_what_can_be_shown(states: list[dict[str, object]]) -> None:
    said = None
    for state in states:
        said = said_in(json.dumps(state).encode(), said) or said
        if said is not None:
            sound(said)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_state_break_nothing(payload: bytes) -> None:
    said = said_in(payload, None)
    assert said is None or sound(said) is None


@given(VERSIONS, VERSIONS, VERSIONS)
def test_the_order_of_versions_is_total_among_those_that_are_some(a: str, b: str, c: str) -> None:
    keys = [key for key in map(version_order, (a, b, c)) if key is not None]
    low, *rest = sorted(keys) if keys else [None]
    assert all(low is not None and low <= key for key in rest)
    for version in (a, b, c):
        assert (version_state(version, "1.2") == "unknown") == (version_order(version) is None)


@given(st.none() | WORDS, st.none() | st.tuples(st.floats(0, 1e9), st.floats(0, 1e5)), st.booleans(), st.floats(0, 1e9))
def test_unresponsive_means_connected_and_not_asleep_and_ready_means_connected(
    word: str | None, line: tuple[float, float] | None, joined: bool, unanswered_s: float
) -> None:
    told = verdict(word, Line(*line) if line else None, joined, unanswered_s, 300.0)  # type: ignore[arg-type]
    assert told != "unresponsive" or (word not in ("asleep", "background") and line is not None)
    assert told != "ready" or (word == "ready" and line is not None)
