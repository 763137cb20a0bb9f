"""verdicts → [report] → people and build servers. One page, and JUnit XML. Pure: texts from values."""

from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple
from xml.etree import ElementTree

from agent.conform.cases import Case
from agent.conform.rules import Verdict

MARKS: Final = {"passed": "✓", "failed": "✗", "not applicable": "-", "not judged": "?"}
STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }
li { margin: .8rem 0 } .passed b { color: #176a2c } .failed b { color: #a11212 } small { color: #555 }
"""


class Played(NamedTuple):
    """One case, how it went, and how long it took in seconds."""

    case: Case
    verdict: Verdict
    seconds: float


def page(device: str, version: str, at: str, played: Sequence[Played]) -> str:
    """The report for people, one HTML file without anything else."""
    items = "\n".join(
        f'<li class="{one.verdict.result.replace(" ", "-")}">'
        f"<b>{MARKS[one.verdict.result]} {escape(one.case.title)}</b>"
        f" <small>{one.case.name}: {one.verdict.result}, {one.seconds:.1f} s</small>"
        + "".join(f"<br>{escape(words)}" for words in one.verdict.words)
        + "</li>"
        for one in played
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(device)}: conformance</title><style>{STYLE}</style>
<h1>{escape(device)}: {escape(summary(played))}</h1>
<p>Nightsafe {escape(version)}, {escape(at)}</p>
<ul style="list-style: none; padding: 0">
{items}
</ul>
</html>
"""


def junit(device: str, played: Sequence[Played]) -> bytes:
    """The report for build servers. What was not judged is an error: it proves nothing."""
    counts = {result: sum(one.verdict.result == result for one in played) for result in MARKS}
    suite = ElementTree.Element(
        "testsuite",
        name=f"nightsafe conform {device}",
        tests=str(len(played)),
        failures=str(counts["failed"]),
        errors=str(counts["not judged"]),
        skipped=str(counts["not applicable"]),
        time=f"{sum(one.seconds for one in played):.3f}",
    )
    kinds = {"failed": "failure", "not judged": "error", "not applicable": "skipped"}
    for one in played:
        case = ElementTree.SubElement(
            suite, "testcase", classname=device, name=one.case.name, time=f"{one.seconds:.3f}"
        )
        if kind := kinds.get(one.verdict.result):
            words = "\n".join(one.verdict.words)
            ElementTree.SubElement(case, kind, message=words.partition("\n")[0]).text = words
    text: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text


def summary(played: Sequence[Played]) -> str:
    """All of it in a line."""
    counts = [(result, sum(one.verdict.result == result for one in played)) for result in MARKS]
    return ", ".join(f"{count} {result}" for result, count in counts if count)
