//! How a coordinator is told what to do.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Schedules profiling jobs to agents, keeps measurements and models.
#[derive(Debug, Clone, Parser)]
#[command(name = "wattfarm-coordinator", version)]
pub struct Config {
    /// Where to listen; port 0 takes a free one
    #[arg(
        long,
        env = "WATTFARM_LISTEN",
        default_value = "127.0.0.1:7461",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,

    /// The folder of the store; the operator's key lies in it too
    #[arg(
        long,
        env = "WATTFARM_STORE",
        default_value = "./wattfarm-store",
        value_name = "DIR"
    )]
    pub store: PathBuf,

    /// A file to write the address to once calls are taken
    #[arg(long, env = "WATTFARM_READY_FILE", value_name = "PATH")]
    pub ready_file: Option<PathBuf>,

    /// Listen on an address that other machines reach. There is no TLS yet: credentials and measurements travel in the
    /// clear, so do this only inside a network you trust, or behind a proxy that speaks TLS
    #[arg(long, env = "WATTFARM_ALLOW_PLAINTEXT")]
    pub allow_plaintext: bool,

    /// How the log, on stderr, is written. `RUST_LOG` says how much
    #[arg(long, env = "WATTFARM_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// A form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: an object a line.
    Json,
}

/// A configuration that would do harm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Other machines would speak to us in the clear.
    #[error(
        "`{0}` can be reached from other machines, and there is no TLS yet: listen on 127.0.0.1, or add \
         --allow-plaintext if the network is trusted"
    )]
    Plaintext(SocketAddr),
}

impl Config {
    /// Refuses what would do harm.
    pub fn check(&self) -> Result<(), ConfigError> {
        let private = self.listen.ip().is_loopback() || self.allow_plaintext;
        if private {
            Ok(())
        } else {
            Err(ConfigError::Plaintext(self.listen))
        }
    }
}
