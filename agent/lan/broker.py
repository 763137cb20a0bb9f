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
from agent.lan import packets
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
RELOAD_S_MAX: Final = 5.0
"""Time for Mosquitto to read its password file again; it takes a few milliseconds."""
LOOK_S: Final = 0.02
"""How often it is asked whether it is up, or has read it."""
ANSWER_S_MAX: Final = 1.0
"""Time for it to answer one login."""
ASKER: Final = "nightsafe"
"""The name by which this stage logs in to see what Mosquitto knows; no device may bear it."""
CONNACK_BYTES: Final = 4


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the broker. Inflight and packet size are no lower than the gate's."""

    command: str
    queued_bytes_max: int
    queued_messages_max: int
    inflight_max: int
    packet_bytes_max: int
    memory_bytes_max: int
    restart_delay_s: float
    restart_delay_max_s: float


class Broker:
    """The stage that keeps Mosquitto running. `password` is the agent's own for this life of the process.

    Who may connect changes without a restart: the password file is written, and SIGHUP has Mosquitto (2.0.11) read it.
    It then ends every connection whose name or secret does not hold any more, without a DISCONNECT, and no other one.
    Mosquitto takes connections before it has a handler for SIGHUP, and the signal would end it: none is sent before it
    has answered a CONNECT. A name of this stage's own, with a new secret in every file, tells when a file is in force.
    """

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
        self._writing = asyncio.Lock()
        self._newest = ""
        """The secret of `ASKER` in the newest password file."""
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
            await self._write_files()
            started_with = self._newest
            process = await self._start(program)
            up = await self._wait_for_socket(process)
            if up:
                self._process = process
                if self._newest != started_with:
                    await self._reload(process)  # what was admitted meanwhile
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
        """Have Mosquitto ask by what is known now; other devices' sessions go on. Returns when it does. Raises OSError
        where the file cannot be written, TimeoutError, which is one, where Mosquitto does not read it in time."""
        if self._open_to_all:
            return
        await self._write_passwords()
        process = self._process  # without one its start reads it
        if process is not None and not await self._reload(process):
            raise TimeoutError(f"it has not read its list within {RELOAD_S_MAX:.0f} s")

    async def _reload(self, process: asyncio.subprocess.Process) -> bool:
        """True when the newest file is in force, or Mosquitto has ended: its next start reads it."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + RELOAD_S_MAX
        if process.returncode is None:
            process.send_signal(signal.SIGHUP)
        while process.returncode is None and await self._log_in() != 0:
            if loop.time() > until_s:
                log.warning("broker_reload_late", for_s=RELOAD_S_MAX)
                return False
            await asyncio.sleep(LOOK_S)
        return True

    async def _log_in(self) -> int | None:
        """What Mosquitto answers a login by the newest file, 0 for yes; None where it does not answer."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                reader, writer = await asyncio.open_unix_connection(str(self.socket))
                try:
                    writer.write(_connect(ASKER, self._newest))
                    return (await reader.readexactly(CONNACK_BYTES))[3]
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError):
            return None

    async def _write_passwords(self) -> None:
        async with self._writing:
            newest = secrets.token_urlsafe(32)
            known = {"agent": hashed(self.password), ASKER: hashed(newest), **self._known()}
            content = "".join(f"{name}:{hash}\n" for name, hash in known.items()).encode()
            await asyncio.to_thread(write_whole, self._directory / "mosquitto.passwords", content)
            self._newest = newest

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
        """Until Mosquitto answers; where devices are known it must also have answered a login, yes or no."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + START_S
        while process.returncode is None and loop.time() < until_s:
            if await (self._connects() if self._open_to_all else self._log_in()) is not None:
                return True
            await asyncio.sleep(LOOK_S)
        log.warning("broker_not_up", status=process.returncode, says=self._last_words())
        return False

    async def _connects(self) -> int | None:
        try:
            _, writer = await asyncio.open_unix_connection(str(self.socket))
        except OSError:
            return None
        writer.close()
        return 0

    def _last_words(self) -> str:
        """The end of what Mosquitto printed, for the log."""
        try:
            return (self._directory / "mosquitto.log").read_text("utf-8", "replace")[-300:].strip()
        except OSError:
            return ""

    async def _write_files(self) -> None:
        write_whole(self._directory / "mosquitto.conf", self.configuration().encode())
        if not self._open_to_all:
            await self._write_passwords()
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
memory_limit {limits.memory_bytes_max}
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


def _connect(user: str, password: str) -> bytes:
    """An MQTT 3.1.1 CONNECT with a clean session, user name and password."""
    words = (b"", user.encode(), password.encode())
    fields = b"".join(len(word).to_bytes(2) + word for word in words)
    body = b"\x00\x04MQTT\x04\xc2\x00\x0a" + fields
    return packets.packet(packets.CONNECT << 4, body)


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
