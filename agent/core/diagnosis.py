"""layers → [diagnosis] → uplink state, netcheck. Says from what was seen layer by layer what is wrong, and what to do.

Pure. The lowest layer that fails is the cause; what nobody could see is not claimed. A connection that was refused, or
stood and got no proper answer, is the cloud's: the way there worked.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from agent.core.facts import Finding, UplinkCause, UplinkState

LayerName = Literal["link", "address", "gateway", "dns", "portal", "others", "clock", "tls", "cloud", "login"]
Verdict = Literal["ok", "failed", "unknown", "skipped"]

CAUSES: Final[Mapping[Finding, UplinkCause]] = {
    "": "none",
    "no_carrier": "link",
    "no_address": "link",
    "no_route": "gateway",
    "gateway_silent": "gateway",
    "provider": "link",
    "unreachable": "link",
    "lookup_failed": "dns",
    "captive_portal": "captive_portal",
    "clock_wrong": "clock",
    "tls_failed": "tls",
    "blocked": "firewall",
    "refused": "cloud",
    "no_answer": "cloud",
    "server_error": "cloud",
    "not_health": "cloud",
    "slow": "cloud_slow",
    "token_refused": "auth",
}

WORDS: Final[Mapping[Finding, tuple[str, str]]] = {
    "no_carrier": ("this box is not connected to the network", "Check the network cable of this box."),
    "no_address": ("this box gets no address from the router", "Restart the router."),
    "no_route": ("this box knows no router", "Restart the router."),
    "gateway_silent": ("the router does not answer", "Check the router and its cables."),
    "provider": ("the internet is down behind the router", "Call the internet provider if it lasts."),
    "unreachable": ("no connection to the cloud gets through", "Check the router and its cables."),
    "lookup_failed": (
        "the name of the cloud cannot be looked up",
        "Restart the router. If other sites open in a browser, tell support instead.",
    ),
    "captive_portal": ("the network wants somebody to log in first", "Log in to the network with a browser."),
    "clock_wrong": ("the clock of this box is wrong", "Set the clock of this box."),
    "tls_failed": ("no secure connection to the cloud can be made", "Tell support."),
    "blocked": (
        "something blocks the way to the cloud, while other hosts on the internet answer",
        "Check the firewall rules of the router.",
    ),
    "refused": ("the cloud refuses connections, though the way there works", "It resumes by itself."),
    "no_answer": ("the cloud does not answer, though the way there works", "It resumes by itself."),
    "server_error": ("the cloud has a failure, though the way there works", "It resumes by itself."),
    "not_health": ("something else answers in the place of the cloud", "Tell support."),
    "slow": ("the cloud answers slowly", "It resumes by itself."),
    "token_refused": ("the cloud refuses this box", "Tell support: the box needs a new token."),
}
"""Per finding: what holds, and what to do about it."""

_BEFORE_NAMES: Final[tuple[LayerName, ...]] = ("link", "address", "gateway", "portal")
"""What fails in these is the cause, whatever else fails."""
_TLS_FINDINGS: Final = frozenset({"tls_failed", "clock_wrong"})


class Layer(msgspec.Struct, frozen=True):
    """What one layer showed; `finding` where it failed, `seen` in words for who looks closely, without secrets."""

    name: LayerName
    verdict: Verdict
    seen: str = ""
    finding: Finding = ""


class Diagnosis(msgspec.Struct, frozen=True):
    """What is wrong, as a cause of the device contract and as a finding."""

    cause: UplinkCause
    finding: Finding


def judge(layers: Iterable[Layer]) -> Diagnosis:
    """The cause that the layers show; `none` where none failed."""
    by_name = {layer.name: layer for layer in layers}

    def failed(name: LayerName) -> Finding:
        layer = by_name.get(name)
        return layer.finding if layer is not None and layer.verdict == "failed" else ""

    for name in _BEFORE_NAMES:
        if failed(name):
            return _as(failed(name))
    others = by_name["others"].verdict if "others" in by_name else "unknown"
    if failed("dns"):
        return _as("provider" if others == "failed" else failed("dns"))
    found = failed("tls") or failed("cloud")
    if found == "unreachable":
        return _as("blocked" if others == "ok" else "provider" if others == "failed" else found)
    if found in _TLS_FINDINGS:
        return _as("clock_wrong" if failed("clock") else found)
    return _as(found or failed("login"))


def _as(finding: Finding) -> Diagnosis:
    return Diagnosis(CAUSES[finding], finding)


UplinkPart = Literal["up", "down", "unknown"]
CloudPart = Literal["up", "slow", "failing", "refusing", "unknown"]


def parts(state: UplinkState, cause: UplinkCause) -> tuple[UplinkPart, CloudPart]:
    """The way to the internet and the cloud, each for itself: a cloud that fails is no failed internet."""
    if state == "online":
        return "up", "up"
    if cause in ("cloud", "cloud_slow", "auth"):
        cloud: Mapping[str, CloudPart] = {"cloud": "failing", "cloud_slow": "slow", "auth": "refusing"}
        return "up", cloud[cause]
    if state == "degraded":
        return "up", "failing"
    return ("unknown" if cause == "none" else "down"), "unknown"
