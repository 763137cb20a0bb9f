"""The contract for machines: sound by the standards' own tools, and true of what the box takes and sends."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate as validate_openapi

from agent.core.events import FAMILIES, SHAPES, Event, Reason, judge
from agent.faces.asyncapi import TOPICS
from tests.node_modules import node
from tests.repo.tree import ROOT

DOCS = ROOT / "docs"
VALIDATORS = {
    path.stem: Draft202012Validator(json.loads(path.read_text())) for path in sorted((DOCS / "schemas").glob("*.json"))
}


@pytest.mark.parametrize("name", sorted(VALIDATORS))
def test_each_schema_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(VALIDATORS[name].schema)


def test_the_asyncapi_document_is_sound_by_asyncapis_own_parser() -> None:
    done = node("asyncapi.cjs", str(DOCS / "asyncapi.yaml"))
    assert (done.returncode, done.stdout) == (0, f"channels: {len(TOPICS)}\n"), done.stdout + done.stderr


def test_the_parser_would_say_so_of_a_document_that_is_not(tmp_path: Path) -> None:
    document = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
    document["operations"]["events"]["action"] = "shout"
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump(document))
    assert node("asyncapi.cjs", str(broken)).returncode == 1


@pytest.mark.parametrize("name", ["openapi", "openapi-cloud"])
def test_the_openapi_documents_are_sound(name: str) -> None:
    validate_openapi(yaml.safe_load((DOCS / f"{name}.yaml").read_text()))


# Events: what the schema takes is what the box takes ------------------------------------------------------------------

TYPES = [f"pos.{name}" for names in SHAPES.values() for name in names]
OTHERS = [f"{family}x" for family in FAMILIES] + ["vendor.thing", "pos.table.moved", "nightsafe.event.refused", ""]
MONEY = st.sampled_from(
    [{"amount": 1250, "currency": "GBP"}, {"amount": 12.5, "currency": "GBP"}, {"amount": 2**53, "currency": "GBP"},
     {"amount": "1", "currency": "GBP"}, {"amount": True, "currency": "GBP"}, {"currency": "GBP"}, None, 5,
     {"amount": -1, "currency": "EURO"}, {"amount": -1, "currency": "EUR", "more": 1}]
)  # fmt: skip
TEXTS = st.sampled_from(["a", "", None, 7, "x" * 256, "x" * 257, True, ["a"]])
DATA = st.one_of(
    st.none(),
    st.sampled_from([[], "text", 5]),
    st.fixed_dictionaries(
        {},
        optional={
            "check_id": TEXTS,
            "payment_id": TEXTS,
            "order_id": TEXTS,
            "menu_version": TEXTS,
            "product_ids": st.sampled_from([[], ["p"], [1], None]),
            "amount": MONEY,
            "total": MONEY,
            "tender": st.sampled_from(["card", "cash", "barter", None]),
            "offline": st.sampled_from([True, False, 1, None]),
            "training": st.sampled_from([True, "no"]),
            "card": st.sampled_from([{}, {"last4": "1111"}, {"last4": "11111"}, {"last4": 1111}, None, "visa"]),
            "table": st.sampled_from(["12", 12, 1.5, None]),
            "covers": st.sampled_from([2, "2", None]),
            "lines": st.sampled_from([[], [{}], [{"quantity": 1.5}], [{"quantity": "1"}], [{"modifiers": {}}], None]),
            "more": st.sampled_from([{}, [1, [2]], "x"]),
        },
    ),
)
EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES + OTHERS), "data": DATA},
    optional={
        "specversion": st.sampled_from(["1.0", "0.3", 1]),
        "id": TEXTS,
        "source": TEXTS,
        "time": st.sampled_from(["2026-11-22T10:15:00Z", "noon", None, 5]),
        "subject": TEXTS,
        "epoch": st.sampled_from(["e1", "", None, "a b", "x" * 65, 5]),
        "sequence": st.sampled_from(["1", "0" * 19 + "7", "0", "", None, "9" * 13, "-1", "1x", 5, "0" * 21 + "1"]),
    },
)
GOOD = {"specversion": "1.0", "id": "a", "source": "/devices/till-1", "type": "pos.cash.x", "data": {}}


@settings(max_examples=1_500, deadline=None)
@given(EVENTS)
def test_the_schema_of_an_event_says_what_the_box_says(changes: dict[str, Any]) -> None:
    """Both ways. `data: null` is as good as no data to the box where the type asks for none."""
    event = GOOD | changes
    verdict = judge("till-1", json.dumps(event).encode(), 65_536, 64, 4_096)
    assert isinstance(verdict, Event) or verdict.reason is Reason.SCHEMA, verdict
    found = [error.message for error in VALIDATORS["event"].iter_errors(event)]
    assert isinstance(verdict, Event) == (not found), (event, verdict, found)
