"""Amounts between minor units and what people write: by each currency's own decimals, and nothing guessed."""

import pytest

from agent.core.money import minor_units, money_text


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (1250, "GBP", "12.50 GBP"),
        (5, "EUR", "0.05 EUR"),
        (-5, "EUR", "-0.05 EUR"),
        (700, "JPY", "700 JPY"),
        (1, "KWD", "0.001 KWD"),
        (123456789, "USD", "1234567.89 USD"),
    ],
)
def test_an_amount_in_words_is_read_back_as_it_was(amount: int, currency: str, text: str) -> None:
    assert money_text(amount, currency) == text
    if amount >= 0:
        assert minor_units(text.removesuffix(f" {currency}"), currency) == amount


def test_without_a_point_it_is_minor_units_already() -> None:
    assert minor_units("1250", "GBP") == 1250
    assert minor_units("12.50", "") == 1250


@pytest.mark.parametrize("text", ["", "12.5", "12.500", "12,50", "-1", "1e3", "١٢", "12.", ".50", "1" * 13])
def test_what_is_no_amount_is_none(text: str) -> None:
    assert minor_units(text, "GBP") is None
