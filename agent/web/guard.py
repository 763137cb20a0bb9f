"""request → [guard] → pages. What every request must pass and every answer carries.

Names in Host are checked, so that a foreign page cannot reach this box under a name of its own (DNS rebinding); nothing
is shared across origins, and nothing is taken that another page has a browser send. Never looks at what is asked for.
"""

from collections.abc import Callable
from enum import Enum
from ipaddress import ip_address
from typing import Final

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

log = structlog.get_logger()

PROBLEM_TYPE: Final = "application/problem+json"
POLICY: Final = "Content-Security-Policy"
METHODS: Final = ("GET", "HEAD")


class Terms(msgspec.Struct, frozen=True):
    """What a listener asks of its callers.

    `names` are the host names it answers to beside IP addresses; None: the caller is local by nature and Host means
    nothing. `plain_api` tells whether `/api` is served without TLS to other machines.
    """

    names: Callable[[], frozenset[str]] | None
    plain_api: bool
    acts: bool = False
    """Whether callers may change something: only those whom the operating system has let in."""
    posts: bool = False
    """Whether devices may POST to something here; the routes know what."""


def guard(terms: Terms, style_hash: str) -> Middleware:
    """The middleware for one listener; `style_hash` is the page's only style as CSP writes it."""
    headers = {
        "Server": "nightsafe",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            answer = refusal(request, terms) or await handler(request)
        except web.HTTPException as error:
            answer = problem(request, error.status, error.reason, allow=error.headers.get("Allow"))
        except Exception:
            log.exception("request_failed", path=request.path)
            answer = problem(request, 500, "Internal Server Error")
        answer.headers.update(headers)
        answer.headers.setdefault(POLICY, policy(style_hash))
        return answer

    return guarded


def policy(style_hash: str, *, script_hash: str = "", forms: bool = False) -> str:
    """What a page may do, as the header says it: its own style, its own script where it has one, forms to this box."""
    script = f" script-src {script_hash};" if script_hash else ""
    target = "'self'" if forms else "'none'"
    return (
        f"default-src 'none'; style-src {style_hash};{script} base-uri 'none'; form-action {target}; "
        "frame-ancestors 'none'"
    )


def refusal(request: web.Request, terms: Terms) -> web.Response | None:
    """Why this request is not answered, or None."""
    posted = request.method == "POST" and (terms.acts or terms.posts)
    if request.method not in METHODS and not posted:
        return problem(request, 405, "Method Not Allowed", allow=", ".join(METHODS))
    if terms.names is not None and not host_allowed(request.headers.getall("Host", []), terms.names()):
        return problem(request, 421, "Misdirected Request", "This box is not called that: use its address.")
    if posted and terms.names is not None and sent_by_a_page(request) is Sender.ANOTHER:
        return problem(request, 403, "Forbidden", "Another page has sent this.", kind="foreign-page")
    guarded = request.path.startswith("/api/") or request.path == "/metrics"  # it names devices
    if guarded and not terms.plain_api and not private(request):
        return problem(request, 403, "Forbidden", "From other machines this needs TLS.", kind="tls-required")
    return None


class Sender(Enum):
    """What sent a request, as a browser says it by itself, and as no page can make it say."""

    OWN = "a page of this box"
    ANOTHER = "another page"
    NO_PAGE = "no page"


def sent_by_a_page(request: web.Request) -> Sender:
    """Which page, judged by Sec-Fetch-Site and Origin: both must be this box's, where they are given."""
    sites, origins = request.headers.getall("Sec-Fetch-Site", []), request.headers.getall("Origin", [])
    own = f"{request.scheme}://{request.headers.get('Host', '')}".lower()
    if any(site != "same-origin" for site in sites) or any(origin.lower() != own for origin in origins):
        return Sender.ANOTHER
    return Sender.OWN if sites or origins else Sender.NO_PAGE


def private(request: web.Request) -> bool:
    """Whether nobody between can read along: over TLS, or from this machine."""
    return request.secure or _from_here(request)


def host_allowed(hosts: list[str], names: frozenset[str]) -> bool:
    """Whether exactly one Host was sent, and it is an IP address or one of `names` (lower-case)."""
    if len(hosts) != 1:
        return False
    host = hosts[0].lower()
    if host.startswith("["):
        host, closed, port = host[1:].partition("]")
        if not closed or not _port_allowed(port):
            return False
        return _is_address(host)
    host, colon, port = host.partition(":")
    return _port_allowed(colon + port) and (host in names or _is_address(host))


def _port_allowed(port: str) -> bool:
    digits = port[1:]
    return not port or (port[0] == ":" and digits.isascii() and digits.isdigit())


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _from_here(request: web.Request) -> bool:
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return False
    address = ip_address(str(peer[0]).partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def problem(
    request: web.Request, status: int, title: str, detail: str = "", *, kind: str = "", allow: str | None = None
) -> web.Response:
    """An error: problem+json below /api, one line of text elsewhere."""
    headers = {} if allow is None else {"Allow": allow}
    if not request.path.startswith("/api/"):
        return web.Response(status=status, text=f"{detail or title}\n", headers=headers)
    body = {"type": f"urn:nightsafe:{kind}" if kind else "about:blank", "title": title, "status": status}
    if detail:
        body["detail"] = detail
    return web.Response(status=status, body=msgspec.json.encode(body), content_type=PROBLEM_TYPE, headers=headers)
