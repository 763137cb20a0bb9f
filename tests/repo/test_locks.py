"""What is installed is what was locked: pinned, hashed, and from no address that is written down."""

import re
import tomllib

import pytest

from tests.repo.tree import ROOT

LOCKS = ("requirements.lock", "requirements-dev.lock")


def pins(name: str) -> dict[str, tuple[str, int]]:
    """Package to its version and the number of its hashes."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, tuple[str, int]] = {}
    for entry in re.split(r"\n(?=\S)", text.strip()):
        head = re.match(r"([a-z0-9-]+)==(\S+)( ; [^\\]+)?", entry)
        assert head, f"{name}: not a pinned package: {entry.splitlines()[0]}"
        found[head[1]] = (head[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)))
    return found


def wanted(*extras: str) -> set[str]:
    """Packages that pyproject names, in the lock files' spelling."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    return {re.split(r"[^A-Za-z0-9._-]", one)[0].lower().replace("_", "-") for one in named}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_and_hashed(name: str) -> None:
    unhashed = [package for package, (_, hashes) in pins(name).items() if hashes == 0]
    assert unhashed == []


@pytest.mark.parametrize("name", LOCKS)
def test_no_address_stands_in_a_lock_file(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8").replace("#    scripts/lock", "")
    assert re.findall(r"(?m)^.*(?:/|file:|^-|index-url|find-links|trusted-host).*$", text) == []


def test_what_the_project_needs_is_locked() -> None:
    assert wanted("build") <= pins("requirements.lock").keys()
    assert wanted("build", "dev") <= pins("requirements-dev.lock").keys()


def test_tests_run_on_the_versions_that_a_box_gets() -> None:
    developed = pins("requirements-dev.lock")
    assert {name: pin for name, pin in pins("requirements.lock").items() if developed.get(name) != pin} == {}
