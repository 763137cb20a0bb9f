"""uplink → [probe] → cloud. One small question to the cloud: are you there? Every error becomes one plain outcome.

Only the cloud's own answer counts: the exact media type and body, no redirect followed, bounded in size and time. Each
probe takes a fresh connection, so that it tests the whole way. Sends no token and nothing about the venue.
"""

import asyncio
import errno
import ssl
from types import SimpleNamespace
from typing import Final

import aiohttp

from agent.cloud.lookup import Lookup
from agent.cloud.wire import HealthAnswer, NotAnAnswer, read_answer
from agent.core.uplink import ProbeOutcome, ProbeResult

ANSWER_BYTES_MAX: Final = 4_096
"""Largest answer that is read; the real one is about a hundred bytes."""
LINE_BYTES_MAX: Final = 2_048
"""Longest header line of an answer."""

CERTIFICATE_DATES: Final = (9, 10)
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""

_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "nightsafe"}
_LOGIN_STATUSES: Final = (407, 511)
"""Network or proxy authentication required: never said by the cloud itself."""
_STEP_OUTCOMES: Final[dict[str, ProbeOutcome]] = {
    "lookup": "lookup_failed",
    "connect": "unreachable",
    "ask": "no_answer",
}
"""What running out of time means, by the step that it happened in."""


class CloudProbe:
    """Asks `GET {cloud_url}/v1/health`. `tls` overrides the system's trust store; certificates are always checked."""

    def __init__(self, cloud_url: str, tls: ssl.SSLContext | None = None) -> None:
        self._url = f"{cloud_url.rstrip('/')}/v1/health"
        self._tls = tls
        self._lookup = Lookup()

    async def ask(self, timeout_s: float) -> ProbeResult:
        """One probe, over within `timeout_s` seconds. Raises nothing about the network: that is in the result."""
        step = SimpleNamespace(name="connect")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(step)
        except TimeoutError:
            return ProbeResult(_STEP_OUTCOMES[step.name], f"no {step.name} within {timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return ProbeResult(outcome_of(error), words_of(error))

    async def _ask(self, step: SimpleNamespace) -> ProbeResult:
        connector = aiohttp.TCPConnector(
            ssl=True if self._tls is None else self._tls, resolver=self._lookup, use_dns_cache=False, force_close=True
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                trace_configs=[_steps(step)],
                auto_decompress=False,
                max_line_size=LINE_BYTES_MAX,
                max_field_size=LINE_BYTES_MAX,
            ) as session,
            session.get(self._url, headers=_HEADERS, allow_redirects=False) as answer,
        ):
            if answer.status in _LOGIN_STATUSES:
                return ProbeResult("not_health", f"status {answer.status}")
            if answer.status >= 500 or answer.status == 429:
                return ProbeResult("server_error", f"status {answer.status}")
            if answer.status != 200:
                return ProbeResult("not_health", f"status {answer.status}")
            return _judge(answer.headers.get("Content-Type"), await read_whole(answer.content, ANSWER_BYTES_MAX))


def _steps(step: SimpleNamespace) -> aiohttp.TraceConfig:
    """Keeps `step.name` at what the probe is waiting for: lookup, connect, ask."""

    def entering(name: str) -> object:
        async def enter(*_: object) -> None:
            step.name = name

        return enter

    trace = aiohttp.TraceConfig()
    trace.on_dns_resolvehost_start.append(entering("lookup"))  # type: ignore[arg-type]
    trace.on_dns_resolvehost_end.append(entering("connect"))  # type: ignore[arg-type]
    trace.on_connection_create_end.append(entering("ask"))  # type: ignore[arg-type]
    return trace


async def read_whole(content: aiohttp.StreamReader, bytes_max: int) -> bytes | None:
    """The whole body, in however many pieces it comes, or None when it is larger than it may be."""
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            return None
    return bytes(body)


def _judge(content_type: str | None, body: bytes | None) -> ProbeResult:
    if body is None:
        return ProbeResult("not_health", f"more than {ANSWER_BYTES_MAX} bytes")
    try:
        health = read_answer(HealthAnswer, content_type, body)
    except NotAnAnswer:
        return ProbeResult("not_health", "another media type or body")
    return ProbeResult("passed") if health.status == "pass" else ProbeResult("server_error", f"says {health.status}")


def outcome_of(error: Exception) -> ProbeOutcome:
    """What a failed exchange shows; the order goes from the particular to the general."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "lookup_failed"
    if _certificate_not_now(error):
        return "tls_not_now"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError | aiohttp.ServerFingerprintMismatch):
        return "tls_failed"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "tls_failed"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _connect_outcome(error.os_error)
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return "not_health"
    return "no_answer"


def _certificate_not_now(error: Exception) -> bool:
    """Whether a certificate was refused for its dates: expired, or not valid yet."""
    inner = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
    return isinstance(inner, ssl.SSLCertVerificationError) and inner.verify_code in CERTIFICATE_DATES


def _connect_outcome(error: OSError) -> ProbeOutcome:
    if error.errno == errno.ECONNREFUSED:
        return "refused"
    if isinstance(error, ConnectionResetError):
        return "tls_failed"  # the connection stood: it was cut during the handshake
    return "unreachable"


def words_of(error: Exception) -> str:
    """What went wrong, as an error name without addresses or payloads."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno is not None:
        return errno.errorcode.get(cause.errno, type(cause).__name__)
    return type(cause).__name__
