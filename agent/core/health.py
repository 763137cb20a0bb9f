"""snapshot, checks → [health] → /livez, /readyz, /health. What a machine asks about this box.

Pure. Readiness is "a record can be stored now": the uplink is part of neither liveness nor readiness, and offline is a
warning, because selling goes on.
"""

from typing import Any, Literal

import msgspec

from agent.core.pressure import FORECAST_ATTENTION_H, WORN_PERCENT
from agent.core.status import Snapshot

Verdict = Literal["pass", "warn", "fail"]

DISK_FREE_SHARE_MIN = 0.05
"""Less free disk than this share of it is a warning."""


class Check(msgspec.Struct, frozen=True):
    """One question with its answer; `text` says what is wrong, in words, or is empty."""

    name: str
    ok: bool
    text: str = ""


def verdict(snapshot: Snapshot, checks: tuple[Check, ...]) -> Verdict:
    """`fail`: a record cannot be stored now. `warn`: it can, but something should be looked at. Else `pass`."""
    if not all(check.ok for check in checks):
        return "fail"
    warned = any(status != "pass" for status in _warnings(snapshot).values())
    return "warn" if warned else "pass"


def health(snapshot: Snapshot, checks: tuple[Check, ...]) -> dict[str, Any]:
    """The body of `application/health+json` (draft-inadarei-api-health-check): status, version, checks by component."""
    status, details = snapshot.status, snapshot.details
    warnings = _warnings(snapshot)
    observed: dict[str, Any] = {
        "uplink:state": status.state,
        "sync:state": status.sync.state,
        "conditions:attention": sum(one.attention for one in details.conditions),
        "disk:free_bytes": details.disk.free_bytes,
        "disk:hours_until_full": details.disk.hours_until_full,
        "disk:wear_used_percent": details.disk.wear_used_percent,
    }
    parts: dict[str, list[dict[str, Any]]] = {
        name: [{"status": warnings[name], "observedValue": value, "time": status.time}]
        for name, value in observed.items()
    }
    for check in checks:
        part: dict[str, Any] = {"status": "pass" if check.ok else "fail", "time": status.time}
        parts[check.name] = [part | ({"output": check.text} if check.text else {})]
    return {
        "status": verdict(snapshot, checks),
        "version": "1",
        "releaseId": details.versions.get("nightsafe", ""),
        "serviceId": status.venue,
        "description": status.sentence,
        "checks": parts,
    }


def _warnings(snapshot: Snapshot) -> dict[str, Verdict]:
    """The things that never stop the recording, each `pass` or `warn`."""
    status, details = snapshot.status, snapshot.details
    disk = details.disk
    return {
        "uplink:state": _warn(status.state != "online"),
        "sync:state": _warn(status.sync.state == "held"),
        "conditions:attention": _warn(any(one.attention for one in details.conditions)),
        "disk:free_bytes": _warn(disk.free_bytes < disk.total_bytes * DISK_FREE_SHARE_MIN or disk.level != "normal"),
        "disk:hours_until_full": _warn(
            disk.hours_until_full is not None and disk.hours_until_full < FORECAST_ATTENTION_H
        ),
        "disk:wear_used_percent": _warn((disk.wear_used_percent or 0) >= WORN_PERCENT),
    }


def _warn(warned: bool) -> Verdict:
    return "warn" if warned else "pass"
