"""A fact is one line, whatever was put into it, and a log that cannot be written stops nobody."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from agent.runtime import logs

HOSTILE = 'a\x1b[31m\n\u202eevent=ready "x" \x9b\u2028'


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_readiness_stands_literally_in_the_line() -> None:
    out = io.StringIO()
    logs.configure("info", "auto", out)
    structlog.get_logger().info("ready", listen="127.0.0.1:1883")
    assert out.getvalue().endswith(" level=info event=ready listen=127.0.0.1:1883\n")


def test_json_lines_carry_event_level_and_timestamp() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    structlog.get_logger().warning("drain_held", next=17)
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"], line["next"]) == ("drain_held", "warning", 17)
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_hostile_text_stays_on_its_line_and_moves_no_terminal(form: logs.Format) -> None:
    out = io.StringIO()
    logs.configure("info", form, out)
    structlog.get_logger().info("refused", detail=HOSTILE, nested=(HOSTILE,))
    (line,) = out.getvalue().split("\n")[:-1]
    assert line.isprintable()
    assert " event=ready" not in line.replace('"', "").split("detail=")[0]


def test_a_traceback_is_one_line() -> None:
    out = io.StringIO()
    logs.configure("info", "logfmt", out)
    try:
        raise ValueError("no")
    except ValueError as error:
        structlog.get_logger().error("stage_crashed", exc_info=error)
    assert out.getvalue().count("\n") == 1
    assert "ValueError: no" in out.getvalue()


def test_the_level_can_change_while_running() -> None:
    out = io.StringIO()
    log = structlog.get_logger()
    logs.configure("info", "logfmt", out)
    log.debug("one")
    logs.configure("debug", "logfmt", out)
    log.debug("two")
    assert "one" not in out.getvalue()
    assert "event=two" in out.getvalue()


def test_libraries_are_heard_from_warning_on_in_the_same_form() -> None:
    out = io.StringIO()
    logs.configure("debug", "logfmt", out)
    logging.getLogger("somebody").info("chatter")
    logging.getLogger("somebody").warning("trouble\n%s", HOSTILE)
    (line,) = out.getvalue().split("\n")[:-1]
    assert "level=warning" in line
    assert "logger=somebody" in line


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    logs.configure("info", "logfmt", Full())
    structlog.get_logger().info("ready")
    logging.getLogger("somebody").warning("trouble")
