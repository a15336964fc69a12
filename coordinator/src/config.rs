//! How a coordinator is told what to do.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::farm::Role;
use crate::store::Place;

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

    /// Where the records are: a folder (`DIR` or `sled:DIR`), or a PostgreSQL database
    /// (`postgres://USER:PASSWORD@HOST/NAME`, over TLS with `?sslmode=verify-full&sslrootcert=FILE`). Several coordinators over one database
    /// have its platforms among them: any takes every call, and when one is gone the others have its part
    #[arg(
        long,
        env = "WATTFARM_STORE",
        default_value = "./wattfarm-store",
        value_name = "STORE",
        hide_env_values = true
    )]
    pub store: Place,

    /// The file with the operator's key, made on the first start: by default `operator.key` in the store's folder, or in this
    /// one if the store is a database. Coordinators over one database have to have the same
    #[arg(long, env = "WATTFARM_OPERATOR_KEY", value_name = "FILE")]
    pub operator_key: Option<PathBuf>,

    /// Where other coordinators over the same database reach this one: by default where it listens. With --tls its certificate
    /// has to have this name
    #[arg(long, env = "WATTFARM_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// A file to write the address to once calls are taken
    #[arg(long, env = "WATTFARM_READY_FILE", value_name = "PATH")]
    pub ready_file: Option<PathBuf>,

    /// Speak TLS, with the certificates in this folder: `wattfarm-coordinator certs` makes them
    #[arg(long, env = "WATTFARM_TLS", value_name = "DIR")]
    pub tls: Option<PathBuf>,

    /// Take calls only from clients that the farm's authority vouches for
    #[arg(long, env = "WATTFARM_MUTUAL_TLS", requires = "tls")]
    pub mutual_tls: bool,

    /// Listen without TLS on an address that other machines reach: credentials and measurements travel in the clear, so do
    /// this only inside a network you trust, or behind a proxy that speaks TLS
    #[arg(long, env = "WATTFARM_ALLOW_PLAINTEXT")]
    pub allow_plaintext: bool,

    /// What callers without a key may do: by default `request` if only this machine reaches the coordinator, and nothing
    /// otherwise
    #[arg(long, env = "WATTFARM_ANONYMOUS", value_name = "ROLE")]
    pub anonymous: Option<Anonymous>,

    /// How the log, on stderr, is written. `RUST_LOG` says how much
    #[arg(long, env = "WATTFARM_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Something else than to run: on a store that no coordinator works on
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What callers without a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Anonymous {
    /// Nothing but what needs no key: to enrol with a token.
    Nothing,
    /// Look at platforms, campaigns and models, and predict.
    Read,
    /// Ask for models and measurements too.
    Request,
}

/// A chore.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Writes all that the store holds as text, with checksums. A running coordinator is asked by `wattfarm backup`
    Export {
        /// The file to write; it must not be there yet
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Makes a store of what `export` or `wattfarm backup` wrote, where none is yet
    Import {
        /// The file to read
        file: PathBuf,
    },
    /// Makes a store of all that this one holds, where none is yet: from a folder into a database, or back
    Migrate {
        /// Where: `sled:DIR` or `postgres://...`
        #[arg(value_name = "STORE")]
        to: Place,
    },
    /// Reads all of the store: each record against its checksum, and the records against each other
    Verify,
    /// Makes the farm's own authority, and certificates for the coordinator and its clients
    Certs {
        /// The folder for them; an authority that is there stays
        #[arg(long, short, value_name = "DIR")]
        output: PathBuf,
        /// Names and addresses that clients call the coordinator by
        #[arg(long, value_delimiter = ',', default_value = "localhost,127.0.0.1")]
        name: Vec<String>,
    },
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
        "`{0}` can be reached from other machines: give --tls a folder of certificates (`wattfarm-coordinator certs` \
         makes them), listen on 127.0.0.1, or add --allow-plaintext if the network is trusted"
    )]
    Plaintext(SocketAddr),
}

impl Config {
    /// Refuses what would do harm.
    pub fn check(&self) -> Result<(), ConfigError> {
        let safe = self.listen.ip().is_loopback() || self.tls.is_some() || self.allow_plaintext;
        if safe {
            Ok(())
        } else {
            Err(ConfigError::Plaintext(self.listen))
        }
    }

    /// Where the operator's key is.
    pub fn operator_key_file(&self) -> PathBuf {
        match (&self.operator_key, &self.store) {
            (Some(file), _) => file.clone(),
            (None, Place::Folder(folder)) => folder.join("operator.key"),
            (None, Place::Database(_)) => PathBuf::from("operator.key"),
        }
    }

    /// What a caller without a key counts as; `None` for nobody.
    pub fn anonymous_role(&self) -> Option<Role> {
        match self.anonymous {
            Some(Anonymous::Nothing) => None,
            Some(Anonymous::Read) => Some(Role::Read),
            Some(Anonymous::Request) => Some(Role::Request),
            None => self.listen.ip().is_loopback().then_some(Role::Request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Config {
        let arguments = ["wattfarm-coordinator"].iter().chain(arguments);
        Config::try_parse_from(arguments).expect("parses")
    }

    #[test]
    fn others_reach_it_only_by_tls_or_by_an_explicit_flag() {
        let all = ["--listen", "0.0.0.0:7461"];
        let checked = |more: &[&str]| config(&[&all, more].concat()).check();
        assert!(checked(&[]).is_err_and(|error| error.to_string().contains("--tls")));
        assert_eq!(checked(&["--tls", "certs"]), Ok(()));
        assert_eq!(checked(&["--allow-plaintext"]), Ok(()));
        assert_eq!(config(&["--listen", "[::1]:7461"]).check(), Ok(()));
        let alone = ["wattfarm-coordinator", "--mutual-tls"];
        assert!(
            Config::try_parse_from(alone).is_err(),
            "mutual TLS without TLS"
        );
    }

    #[test]
    fn strangers_may_do_nothing_unless_they_are_on_this_machine() {
        let role = |arguments: &[&str]| config(arguments).anonymous_role();
        assert_eq!(role(&[]), Some(Role::Request));
        assert_eq!(role(&["--listen", "0.0.0.0:7461"]), None);
        assert_eq!(
            role(&["--listen", "0.0.0.0:7461", "--anonymous", "read"]),
            Some(Role::Read)
        );
        assert_eq!(role(&["--anonymous", "nothing"]), None);
    }
}
