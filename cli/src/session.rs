//! The coordinator that a command talks to, and as whom.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use wattfarm_proto::connect::{Connection, Target};
use wattfarm_proto::tls::TlsArgs;

use crate::exit::{Exit, Failure};

/// Where the coordinator is, and where the operator's key. Nothing is read or opened before a command asks for it.
pub(crate) struct Session {
    coordinator: String,
    tls: TlsArgs,
    operator_key_file: Option<PathBuf>,
}

impl Session {
    pub(crate) fn new(
        coordinator: String,
        tls: TlsArgs,
        operator_key_file: Option<PathBuf>,
    ) -> Self {
        Self {
            coordinator,
            tls,
            operator_key_file,
        }
    }

    fn target(&self) -> anyhow::Result<Target> {
        Ok(self.tls.target(&self.coordinator)?)
    }

    /// Connects as whoever designs networks: with the key that was named, if one was.
    pub(crate) async fn designer(&self) -> anyhow::Result<Connection> {
        let key = self
            .operator_key_file
            .as_deref()
            .map(operator_key)
            .transpose()?;
        Ok(Connection::open(self.target()?, key.as_deref()).await?)
    }

    /// Connects as the farm's operator.
    pub(crate) async fn operator(&self) -> anyhow::Result<Connection> {
        let missing = "this is the operator's: name the file with the key by --operator-key-file or \
                       WATTFARM_OPERATOR_KEY_FILE (the coordinator wrote it: STORE/operator.key)";
        let path = self
            .operator_key_file
            .as_deref()
            .ok_or_else(|| Failure::new(Exit::Refused, missing))?;
        Ok(Connection::open(self.target()?, Some(&operator_key(path)?)).await?)
    }
}

/// The operator's key in a file.
pub(crate) fn operator_key(path: &Path) -> anyhow::Result<String> {
    let unreadable = || {
        Failure::new(
            Exit::Usage,
            format!("read the operator's key from {}", path.display()),
        )
    };
    Ok(fs::read_to_string(path)
        .with_context(unreadable)?
        .trim()
        .to_owned())
}
