"""devices → gate → [Mosquitto] ← our session. Writes Mosquitto's configuration, runs it as a child, starts it again.

It listens on one Unix socket in the state directory and on nothing else. Nothing in it must survive: persistence is
off, its queues are bounded, and what it retained is published again after each start.
"""

import asyncio
import os
import pwd
import secrets
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from agent.core.errors import Held
from agent.lan.register import hashed
from agent.runtime.files import write_whole

log = structlog.get_logger()

SOCKET_NAME: Final = "mqtt.sock"
SOCKET_PATH_BYTES_MAX: Final = 107
"""What a Unix socket's address holds (sun_path, unix(7))."""
START_S: Final = 10.0
"""Time for Mosquitto to open its socket."""
STOP_S: Final = 2.0
"""Time for Mosquitto to end after SIGTERM."""
OURS: Final = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"})
"""What the service manager tells this process alone: Mosquitto would answer for it."""
RELOAD_S: Final = 0.1
"""Time for Mosquitto to read its password file again: it looks at signals between two packets."""


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the broker. Inflight and packet size are no lower than the gate's."""

    command: str
    queued_bytes_max: int
    queued_messages_max: int
    inflight_max: int
    packet_bytes_max: int
    restart_delay_s: float
    restart_delay_max_s: float


class Broker:
    """The stage that keeps Mosquitto running. `password` is the agent's own for this life of the process."""

    name = "broker"

    def __init__(
        self, directory: Path, open_to_all: bool, limits: Limits, known: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        """`known` gives the devices that may connect: name to hashed password."""
        self._directory = directory
        self._open_to_all = open_to_all
        self._limits = limits
        self._known = known
        self._process: asyncio.subprocess.Process | None = None
        """Mosquitto, while it answers."""
        self.socket = directory / SOCKET_NAME
        self.password = secrets.token_urlsafe(32)
        self.starts_count = 0
        if len(os.fsencode(self.socket)) > SOCKET_PATH_BYTES_MAX:
            raise Held(
                "socket_path",
                f"The path {self.socket} is too long for a Unix socket ({SOCKET_PATH_BYTES_MAX} bytes).",
                "Choose a shorter [state] directory.",
            )

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Start Mosquitto, and start it again whenever it ends, until `stop`."""
        program = self._program()
        delay_s = self._limits.restart_delay_s
        while not stop.is_set():
            self._write_files()
            process = await self._start(program)
            up = await self._wait_for_socket(process)
            if up:
                self._process = process
                if not self._open_to_all:
                    self._write_passwords(process)  # what was admitted meanwhile
                ready()
                self.starts_count += 1
                log.info("broker_started", pid=process.pid, starts=self.starts_count)
            else:
                await _terminate(process)
            stopped = await _ended(process, stop)
            self._process = None
            if stopped:
                await _terminate(process)
                return
            delay_s = self._limits.restart_delay_s if up else min(delay_s * 2, self._limits.restart_delay_max_s)
            log.warning("broker_ended", status=process.returncode, again_in_s=delay_s)
            await _pause(stop, delay_s)

    async def admit(self) -> None:
        """Have Mosquitto ask by what is known now; other devices' sessions go on. Returns when it does."""
        if self._open_to_all or self._process is None:
            return  # a start reads it anyway
        self._write_passwords(self._process)
        await asyncio.sleep(RELOAD_S)

    def _write_passwords(self, process: asyncio.subprocess.Process | None) -> None:
        lines = [_line("agent", hashed(self.password)), *(_line(*one) for one in sorted(self._known().items()))]
        write_whole(self._directory / "mosquitto.passwords", "".join(lines).encode())
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGHUP)

    def _program(self) -> str:
        found = shutil.which(self._limits.command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if found is None:
            raise Held(
                "broker_missing",
                f"The program {self._limits.command} was not found.",
                "Install it with `apt-get install mosquitto`, or set [broker] command to its path.",
            )
        return found

    async def _start(self, program: str) -> asyncio.subprocess.Process:
        self.socket.unlink(missing_ok=True)
        command = [program, "-c", str(self._directory / "mosquitto.conf")]
        guard = shutil.which("setpriv")
        if guard is not None:  # so that the child goes when this process is killed
            command = [guard, "--pdeathsig", "TERM", *command]
        with (self._directory / "mosquitto.log").open("wb") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name not in OURS},
            )

    async def _wait_for_socket(self, process: asyncio.subprocess.Process) -> bool:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + START_S
        while process.returncode is None and loop.time() < until_s:
            try:
                _, writer = await asyncio.open_unix_connection(str(self.socket))
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return True
        log.warning("broker_not_up", status=process.returncode, says=self._last_words())
        return False

    def _last_words(self) -> str:
        """The end of what Mosquitto printed, for the log."""
        try:
            return (self._directory / "mosquitto.log").read_text("utf-8", "replace")[-300:].strip()
        except OSError:
            return ""

    def _write_files(self) -> None:
        write_whole(self._directory / "mosquitto.conf", self.configuration().encode())
        if not self._open_to_all:
            self._write_passwords(None)
            write_whole(self._directory / "mosquitto.acl", ACCESS.encode())

    def configuration(self) -> str:
        """Mosquitto's configuration. What belongs to the listener stands behind its line: before it, options like
        these would open a second listener on every address."""
        limits = self._limits
        access = (
            "allow_anonymous true"
            if self._open_to_all
            else f"allow_anonymous false\npassword_file {self._directory}/mosquitto.passwords\n"
            f"acl_file {self._directory}/mosquitto.acl"
        )
        return f"""# Written at each start; changes made here are lost.
per_listener_settings false
persistence false
user {pwd.getpwuid(os.geteuid()).pw_name}
{access}
max_packet_size {limits.packet_bytes_max}
max_queued_messages {limits.queued_messages_max}
max_queued_bytes {limits.queued_bytes_max}
max_inflight_messages {limits.inflight_max}
persistent_client_expiration 14d
connection_messages false
sys_interval 60
log_dest stderr
log_type error
log_type warning
listener 0 {self.socket}
use_username_as_clientid true
max_topic_alias 0
"""


ACCESS: Final = """user agent
topic readwrite pos/v1/#
topic read $SYS/#
pattern write pos/v1/%u/events
pattern write pos/v1/%u/state
pattern write pos/v1/%u/requests/+
pattern read pos/v1/%u/#
pattern read pos/v1/venue/#
"""


def _line(user: str, hash: str) -> str:
    """One line of Mosquitto's password file."""
    return f"{user}:{hash}\n"


async def _ended(process: asyncio.subprocess.Process, stop: asyncio.Event) -> bool:
    """Wait until the process ends (False) or `stop` is set (True)."""
    waits = [asyncio.ensure_future(process.wait()), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return stop.is_set()


async def _terminate(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _pause(stop: asyncio.Event, delay_s: float) -> None:
    try:
        async with asyncio.timeout(delay_s):
            await stop.wait()
    except TimeoutError:
        return
