"""Builds the package where it lies, without a tool of Python's: `make python` runs this.

The native part becomes wattfarm/_native.abi3.so; the protocol's messages become wattfarm/v1, if grpcio-tools are there.
"""

import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
PROTOS = HERE.parent / "proto"
PACKAGE = HERE / "wattfarm"


def build_native() -> None:
    subprocess.run(["cargo", "build", "--release", "--manifest-path", HERE / "Cargo.toml"], check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target"))
    built = target / "release" / "lib_native.so"
    # Put in its place whole: an interpreter may have the old one open.
    part = PACKAGE / "._native.part"
    shutil.copyfile(built, part)
    part.replace(PACKAGE / "_native.abi3.so")


def build_protocol() -> None:
    try:
        from grpc_tools import protoc
    except ModuleNotFoundError:
        print("grpcio-tools are not there: wattfarm.Farm will not be either", file=sys.stderr)
        return
    protos = [str(path) for path in sorted((PROTOS / "wattfarm" / "v1").glob("*.proto"))]
    outputs = [f"--{kind}_out={HERE}" for kind in ("python", "pyi", "grpc_python")]
    arguments = ["protoc", f"-I{PROTOS}", *outputs, *protos]
    if protoc.main(arguments) != 0:
        raise SystemExit("the .proto files do not compile")


if __name__ == "__main__":
    build_native()
    build_protocol()
