"""[load] → generator. One run of the generator's process, from the job to its outcome."""

import subprocess
import sys
from typing import Self

import msgspec

from agent.bench import generator
from agent.bench.generator import Job, Outcome
from agent.bench.programs import BenchFailed, Box


class Load:
    """One run of the generator. Use as a context manager; `begun`, `ended` and `outcome` wait, in this order."""

    def __init__(self, job: Job, box: Box) -> None:
        self._box = box
        command = [sys.executable, "-m", generator.__name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        self._process.stdin.write(msgspec.json.encode(job))
        self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._lines.close()

    def begun(self) -> None:
        """Returns when the warm-up is over."""
        self._expect(generator.MEASURING)

    def ended(self) -> None:
        """Returns when the measured span is over; what is in flight may still be acknowledged."""
        self._expect(generator.MEASURED)

    def outcome(self) -> Outcome:
        """What the generator saw."""
        return msgspec.json.decode(self._line(), type=Outcome)

    def _expect(self, word: str) -> None:
        line = self._line()
        if line.strip() != word.encode():
            raise BenchFailed("generator_confused", f"The generator said {line!r}.", "Run the measurement again.")

    def _line(self) -> bytes:
        line = self._lines.readline()
        if line.startswith(b'{"error"'):
            raise self._box.failure(f"broke the load off: {msgspec.json.decode(line)['error']}")
        if not line:
            raise BenchFailed("generator_gone", "The generator ended without an outcome.", "It has said why above.")
        return line
