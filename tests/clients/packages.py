"""Packages of Python for a test, by versions and checksums."""

import subprocess
import sys


def virtual_environment(directory, requirements, program):
    """Where the programs of a virtual environment are. It is made unless this program is in it."""
    programs = directory / "venv/bin"
    if not (programs / program).exists():
        subprocess.run([sys.executable, "-m", "venv", programs.parent], check=True)
        pip = [programs / "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([*pip, "-r", requirements], check=True)
    return programs
