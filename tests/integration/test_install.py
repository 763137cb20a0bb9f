"""scripts/install on this machine's own system, with layers over it that go with the test: nothing of it is changed.

What systemd would do is done by hand: the unit's own command, as the unit's own user. The sandbox is not tried here.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.repo.tree import ROOT

INSTALL_MAX_S = 400

IN_NAMESPACE = r"""
set -euo pipefail
mount -t tmpfs layers "$1"
for place in /etc /opt /usr/local /var/lib; do
  name=${place//\//-}
  mkdir "$1/upper$name" "$1/work$name"
  mount -t overlay layer -o "lowerdir=$place,upperdir=$1/upper$name,workdir=$1/work$name" "$place"
done
cd "$2"
echo secret >"$1/token"
install_it() { scripts/install --no-start "$@"; }
fact() { echo "fact: $*"; }

install_it --venue harbour --name "Harbour Bar" --location harbour-1 --cloud http://127.0.0.1:9 --token-file "$1/token"
for file in /etc/nightsafe/nightsafe.toml /etc/nightsafe/token /etc/nightsafe/pin /var/lib/nightsafe; do
  fact "$(stat -c '%n %a %U' "$file")"
done
fact "pin $(wc -c </etc/nightsafe/pin) $(tr -d 0-9 </etc/nightsafe/pin | wc -c)"

# The command of the unit, as its user.
command=$(sed -n 's/^ExecStart=//p' /etc/systemd/system/nightsafe.service)
sed -i -E 's/"[0-9.]+:(8883|1883|8080|8443)"/"127.0.0.1:0"/' /etc/nightsafe/nightsafe.toml # free ports
as_service=(setpriv --reuid nightsafe --regid nightsafe --init-groups)
"${as_service[@]}" $command 2>"$1/log" &
agent=$!
for _ in $(seq 150); do grep -q 'event=ready' "$1/log" && break; sleep 0.2; done
fact "ready $(grep -c 'event=ready' "$1/log")"
fact "status $("${as_service[@]}" nightsafe status --json | grep -o '"venue": *"[a-z]*"' | head -1)"
kill -TERM "$agent"
wait "$agent" && fact "ended 0"
cat "$1/log"

# Once more: nothing that a person has is touched.
sha256sum /etc/nightsafe/pin /etc/nightsafe/token /etc/nightsafe/nightsafe.toml >"$1/kept"
install_it
sha256sum --quiet --check "$1/kept" && fact "kept"

# A run that does not come to its end keeps the code that served until one does.
echo "nonsense = " >>/etc/nightsafe/nightsafe.toml
echo before >/opt/nightsafe/served
install_it || fact "not finished, kept $(cat /opt/nightsafe.old/served)"
install_it || fact "again, kept $(cat /opt/nightsafe.old/served)"
sed -i '$d' /etc/nightsafe/nightsafe.toml
install_it && fact "finished, old: $(ls -d /opt/nightsafe.old 2>/dev/null)"
install_it --venue other --name Other --location other --cloud http://127.0.0.1:9 || fact "refused"
"""


@pytest.mark.long
@pytest.mark.needs("unshare", "setpriv")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs a service")
def test_the_install_script_makes_a_service_that_runs_and_touches_nothing_the_second_time(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", IN_NAMESPACE, "bash", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=INSTALL_MAX_S,
        check=False,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    facts = re.findall(r"^fact: (.*)$", done.stdout, re.MULTILINE)
    assert facts == [
        "/etc/nightsafe/nightsafe.toml 640 root",
        "/etc/nightsafe/token 640 root",
        "/etc/nightsafe/pin 600 nightsafe",
        "/var/lib/nightsafe 700 nightsafe",
        "pin 8 0",
        "ready 1",
        'status "venue": "harbour"',
        "ended 0",
        "kept",
        "not finished, kept before",
        "again, kept before",
        "finished, old: ",
        "refused",
    ], told
