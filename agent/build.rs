//! Compiles what tch doesn't bind of libtorch, and tells the agent's binaries where to find libtorch when they run, so that
//! they need no `LD_LIBRARY_PATH`.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBTORCH");

    let Some(libtorch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        println!(
            "cargo::error=LIBTORCH is not set, and the agent is built against libtorch: run `make setup`, which \
             makes target/libtorch, then set LIBTORCH to that folder's absolute path"
        );
        return;
    };
    let libraries = libtorch.join("lib");
    // torch-sys reads a relative path from its own folder, and a run path relative to the working directory is a trap.
    if !libtorch.is_absolute() || !libraries.join("libtorch_cpu.so").is_file() {
        println!(
            "cargo::error=LIBTORCH={} has to be the absolute path of a folder that holds lib/libtorch_cpu.so: \
             run `make setup` and use target/libtorch",
            libtorch.display()
        );
        return;
    }

    println!("cargo::rerun-if-changed=src/executor/shim.cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("src/executor/shim.cpp")
        .include(libtorch.join("include"))
        .warnings(false)
        .compile("wattfarm_shim");

    // First the copy that a kit carries beside the binary, then the one of the machine it was built on. The libraries
    // find each other by themselves: each names its own folder.
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/libtorch/lib");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libraries.display());
}
