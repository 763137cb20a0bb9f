"""UUIDv7 as in RFC 9562."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from agent.core.ids import CHANCE_BYTES, uuid7

instants = st.integers(min_value=0, max_value=(1 << 48) - 1)
chances = st.binary(min_size=CHANCE_BYTES, max_size=CHANCE_BYTES)


def test_the_example_of_the_standard_comes_out() -> None:
    chance = bytes.fromhex("0cc3 18c4dc0c0c07398f")
    assert uuid7(0x017F22E279B0, chance) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(instants, chances)
def test_version_variant_and_time_are_in_their_places(unix_ms: int, chance: bytes) -> None:
    made = UUID(uuid7(unix_ms, chance))
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert made.int >> 80 == unix_ms


@given(instants, instants, chances, chances)
def test_later_ids_sort_later(one: int, other: int, chance: bytes, other_chance: bytes) -> None:
    if one < other:
        assert uuid7(one, chance) < uuid7(other, other_chance)
