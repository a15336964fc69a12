//! Generates the services and messages from the .proto files, without protoc.

use std::path::PathBuf;

use anyhow::Context as _;
use prost::Message as _;

fn main() -> anyhow::Result<()> {
    let files = ["wattfarm/v1/types.proto", "wattfarm/v1/services.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."]).context("compile the .proto files")?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())
        .context("write the descriptors")?;
    // Names, so that a message's descriptor is found before it is decoded.
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .codec_path("crate::codec::Bounded")
        .compile_fds_with_config(descriptors, config)
        .context("generate code")?;
    Ok(())
}
