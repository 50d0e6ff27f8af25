#!/usr/bin/env bash
# Runs integration_test.py against whatever listens on ports 8000-8005 of this machine. Needs python3 with venv.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../target/seed-venv

# The marker is written last, so that an environment left half made is made anew.
if ! cmp -s "$here/requirements.txt" "$venv/complete"; then
  rm -rf "$venv"
  mkdir -p "$(dirname "$venv")"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$venv/complete"
fi
PYTHONIOENCODING=utf-8 exec "$venv/bin/python" "$here/integration_test.py"
