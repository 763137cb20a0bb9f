"""Imports point one way, and each library lives in one edge."""

from pathlib import Path

import pytest

from tests.repo.imports import violations

AGENT = Path(__file__).resolve().parents[2] / "agent"


def test_imports_point_one_way_and_each_library_lives_in_one_edge() -> None:
    assert violations(AGENT) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("core/events.py", "import asyncio"),
        ("core/events.py", "from os import path"),
        ("core/events.py", "from agent.runtime import clock"),
        ("core/events.py", "from datetime import datetime\ndatetime.now()"),
        ("core/events.py", "from uuid import uuid4\nuuid4()"),
        ("runtime/logs.py", "import agent.settings.load"),
        ("settings/load.py", "from agent.journal import book"),
        ("lan/gate.py", "from agent.journal.book import Book"),
        ("lan/gate.py", "from agent.settings import Settings"),
        ("lan/gate.py", "from ..journal import book"),
        ("cloud/client.py", "def late():\n    from agent.drain import drainer"),
        ("drain/drainer.py", "from agent.cloud import wire"),
        ("drain/drainer.py", "from agent import ingest"),
        ("ingest/intake.py", "import agent.app"),
        ("receiver/server.py", "from agent.cloud import client"),
        ("receiver/server.py", "from agent.settings import Settings"),
        ("tills/till.py", "from agent.lan import packets"),
        ("bench/load.py", "from agent.journal import database"),
        ("app.py", "from agent.receiver import server"),
        ("app.py", "from agent.cli import main"),
        ("lan/gate.py", "import aiomqtt"),
        ("journal/writer.py", "from aiosqlite import connect"),
        ("drain/drainer.py", "import aiohttp.client"),
        ("lan/broker.py", "import systemd.daemon"),
        ("settings/load.py", "from watchfiles import awatch"),
        ("lan/gate.py", "import paho.mqtt.client"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, text: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(text)
    assert [violation.place.partition(":")[0] for violation in violations(tmp_path)] == [file]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("core/events.py", "import msgspec\nfrom agent.core.errors import Rejected\nfrom .chain import rechash"),
        (
            "lan/session.py",
            "import aiomqtt, asyncio\nfrom agent.runtime.clock import Clock\nfrom agent.core import cards",
        ),
        ("drain/drainer.py", "from agent.settings import Settings\nfrom agent.drain import resume"),
        ("receiver/server.py", "import aiohttp.web\nfrom agent.cloud.wire import Batch\nfrom agent.cloud import wire"),
        ("tills/till.py", "import paho.mqtt.client\nfrom agent.core import chain"),
        ("app.py", "from agent import __version__\nfrom agent.lan import gate\nimport agent.web.server"),
        ("cli/bench.py", "from agent.bench import load\nfrom agent.app import run"),
        ("__main__.py", "from agent.cli import main"),
    ],
)
def test_what_is_allowed_is_let_through(tmp_path: Path, file: str, text: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(text)
    assert violations(tmp_path) == []
