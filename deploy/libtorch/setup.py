#!/usr/bin/env python3
"""Makes a LIBTORCH folder for the agent: the headers and the CPU part of libtorch 2.11.0, 0.5 GB.

    python3 deploy/libtorch/setup.py target/libtorch

Why a script: each release of tch speaks to one release of libtorch, no distribution packages that one, and
`pip install torch` brings five gigabytes of CUDA. Building and running the agent takes a few files of the Linux
wheel, and two CUDA libraries that its CPU part is linked to and never calls without a GPU. The wheel's CPython tag
does not matter, for nothing of Python is unpacked: one tag is pinned, and any Python from 3.9 on can run this.

Linux on x86-64 only. A folder that this script made is left as it is; a half-made one never has the final name.
Exit status: 0 made or there already, 1 the download or the unpacking failed, 2 something is missing on this machine.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wheel:
    """One wheel: what to ask pip for, and which members go where (a key ending in "/" is a whole folder)."""

    name: str
    version: str
    sha256: str
    members: dict[str, str]

    @property
    def requirement(self) -> str:
        """A line of a requirements file; the hash makes pip refuse any other file."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"

    def find(self, folder: Path) -> Path:
        """The file that pip put into `folder`."""
        return next(folder.glob(f"{self.name.replace('-', '_')}-{self.version}-*.whl"))


TORCH = Wheel(
    name="torch",
    version="2.11.0",
    sha256="7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
    members={
        "torch/include/": "include/",
        "torch/lib/libc10.so": "lib/libc10.so",
        "torch/lib/libgomp.so.1": "lib/libgomp.so.1",
        "torch/lib/libtorch_cpu.so": "lib/libtorch_cpu.so",
        "torch-2.11.0.dist-info/licenses/": "licenses/torch/",
    },
)

# The versions that torch 2.11.0 itself requires (cuda-toolkit 13.0.2). A newer libcudart would be loaded before the
# one of a full installation of torch, and so be used in its place.
WHEELS = (
    TORCH,
    Wheel(
        name="nvidia-cuda-runtime",
        version="13.0.96",
        sha256="7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        members={
            "nvidia/cu13/lib/libcudart.so.13": "lib/libcudart.so.13",
            "nvidia_cuda_runtime-13.0.96.dist-info/licenses/": "licenses/nvidia-cuda-runtime/",
        },
    ),
    Wheel(
        name="nvidia-cuda-cupti",
        version="13.0.85",
        sha256="4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        members={
            "nvidia/cu13/lib/libcupti.so.13": "lib/libcupti.so.13",
            "nvidia_cuda_cupti-13.0.85.dist-info/licenses/": "licenses/nvidia-cuda-cupti/",
        },
    ),
)

# Files that no wheel holds. torch-sys links `-ltorch`, but the wheel's own libtorch.so wants libtorch_cuda.so: in its
# place stands a linker script, read at link time only. torch-sys compares build-version with what it was made for.
WRITTEN = {
    "lib/libtorch.so": "INPUT(libtorch_cpu.so)\n",
    "build-version": f"{TORCH.version}\n",
}

# pip takes these as they are and derives no older tag from a newer one: each wheel's own tag must be named.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_25_x86_64", "manylinux2014_x86_64")
OLDEST_GLIBC = (2, 28)

# pip's own temporary copy of the wheels, the wheels, and what is unpacked lie side by side for a while.
DISK_BYTES = 3_000_000_000

# Written last; what it holds is compared whole, so a changed pin or member makes the folder anew.
STAMP = "wattfarm-libtorch.json"
STAMP_TEXT = json.dumps({"wheels": [asdict(wheel) for wheel in WHEELS], "written": WRITTEN}, indent=2) + "\n"


class Missing(Exception):
    """This machine cannot make the folder; the text says what to do about it."""


class Failed(Exception):
    """A step failed although nothing was missing."""


def main() -> int:
    """Parses the command line and turns every expected failure into a line and an exit status."""
    parser = argparse.ArgumentParser(description=f"Makes a LIBTORCH folder: the CPU part of libtorch {TORCH.version}.")
    parser.add_argument("destination", metavar="DEST", type=Path, help="the folder to make: target/libtorch")
    # Resolved: LIBTORCH has to be absolute, and a rename must not replace a symbolic link.
    destination = parser.parse_args().destination.resolve()
    try:
        make(destination)
    except Missing as missing:
        say(f"cannot make {destination}:\n{missing}")
        return 2
    except (Failed, OSError, zipfile.BadZipFile) as failure:
        say(f"failed: {failure}")
        return 1
    except KeyboardInterrupt:
        say("interrupted, nothing is left behind")
        return 130
    return 0


def make(destination: Path) -> None:
    """Makes `destination` beside its final place and moves it there whole, or returns at once if it is made."""
    if is_made(destination):
        say(f"{destination} is there already")
        return
    require_replaceable(destination)
    require_machine(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with locked(destination.parent):
        if is_made(destination):
            say("another run made it meanwhile")
            return
        part = destination.with_name(f"{destination.name}.part")
        # An earlier run may have been killed before it could clean up.
        shutil.rmtree(part, ignore_errors=True)
        try:
            wheels, folder = part / "wheels", part / "folder"
            wheels.mkdir(parents=True)
            download(wheels)
            unpack(wheels, folder)
            if destination.exists():
                destination.rename(part / "replaced")
            folder.rename(destination)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    say(f"made {destination}")


def is_made(destination: Path) -> bool:
    """Whether an earlier run finished this very folder."""
    try:
        return (destination / STAMP).read_text() == STAMP_TEXT
    except (FileNotFoundError, NotADirectoryError):
        return False


def require_replaceable(destination: Path) -> None:
    """Refuses to throw away what another hand made."""
    ours = (destination / STAMP).exists()
    empty = destination.is_dir() and not any(destination.iterdir())
    if destination.exists() and not ours and not empty:
        raise Missing("  it exists, and this script did not make it: name another folder, or remove it first")


def require_machine(destination: Path) -> None:
    """Names everything that this machine lacks, at once, with the command that helps."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Missing(f"  it is for Linux on x86-64 only, and this is {platform.system()} on {platform.machine()}")
    problems: list[str] = []
    packages: list[str] = []

    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < OLDEST_GLIBC:
        oldest = ".".join(map(str, OLDEST_GLIBC))
        problems.append(f"glibc {oldest} or later is needed (Debian 10, Ubuntu 20.04), found {libc} {version}".rstrip())

    compiler = os.environ.get("CXX") or "c++"
    if shutil.which(compiler.split()[0]) is None:
        problems.append(f"no C++ compiler: {compiler} is not found, and tch compiles C++ sources against libtorch")
        packages.append("g++")

    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0:
        problems.append(f"no pip for {sys.executable}")
        if importlib.util.find_spec("ensurepip") is not None:
            problems.append(
                "  without root: python3 -m venv /tmp/venv && "
                f"/tmp/venv/bin/python {sys.argv[0]} {destination}"
            )
        packages.append("python3-pip")

    nearest = next(folder for folder in (destination, *destination.parents) if folder.is_dir())
    free = shutil.disk_usage(nearest).free
    if free < DISK_BYTES:
        problems.append(f"{DISK_BYTES / 1e9:.0f} GB of free disk are needed, {nearest} has {free / 1e9:.1f} GB")

    if packages:
        problems.append(f"on Debian and Ubuntu: sudo apt-get install {' '.join(packages)}")
    if problems:
        raise Missing("\n".join(f"  {problem}" for problem in problems))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder` alone, so that of two runs at once the second waits and then finds the work done."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def download(wheels: Path) -> None:
    """Fetches the wheels from wherever pip is set up to look; pip verifies each one's pinned hash."""
    say(f"downloading libtorch {TORCH.version} (540 MB)")
    requirements = wheels / "requirements.txt"
    requirements.write_text("".join(f"{wheel.requirement}\n" for wheel in WHEELS))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--require-hashes", "--no-deps"]
    # pip's cache would keep the wheels a second time, and older versions of pip read a cached file into memory whole.
    command += ["--no-cache-dir", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311"]
    command += [f"--platform={tag}" for tag in PLATFORMS]
    command += [f"--dest={wheels}", f"--requirement={requirements}"]
    # pip works in TMPDIR first, and /tmp may be small. What it prints is progress: it goes to stderr like ours.
    environment = {**os.environ, "TMPDIR": str(wheels)}
    started = time.monotonic()
    pip = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
    if pip.returncode != 0:
        raise Failed(f"pip download ended with status {pip.returncode}, see its lines above")
    say(f"downloaded and verified in {time.monotonic() - started:.0f} s")


def unpack(wheels: Path, folder: Path) -> None:
    """Copies the wanted members out of the wheels, then writes the rest, the stamp last."""
    started = time.monotonic()
    for wheel in WHEELS:
        with zipfile.ZipFile(wheel.find(wheels)) as archive:
            for source, target in wheel.members.items():
                names = [name for name in archive.namelist() if belongs(name, source)]
                if not names:
                    raise Failed(f"{archive.filename} holds no {source}")
                for name in names:
                    path = folder / (target + name[len(source) :])
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as packed, path.open("wb") as unpacked:
                        shutil.copyfileobj(packed, unpacked, 1 << 20)
    for target, text in {**WRITTEN, STAMP: STAMP_TEXT}.items():
        (folder / target).write_text(text)
    say(f"unpacked in {time.monotonic() - started:.0f} s")


def belongs(name: str, source: str) -> bool:
    """Whether the member `name` is the file `source`, or a file below the folder `source`."""
    if source.endswith("/"):
        return name.startswith(source) and not name.endswith("/")
    return name == source


def say(text: str) -> None:
    """Prints one line of progress; stdout stays empty."""
    print(f"libtorch: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
