//! Whom a client trusts, and how it shows who it is. Every client has these options, in these words.

use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::connect::{ConnectError, Target};

/// A client's part in TLS.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsArgs {
    /// The authority that vouches for the coordinator (`ca.pem` of `wattfarm-coordinator certs`); calls are encrypted then
    #[arg(long, global = true, value_name = "PATH", env = "WATTFARM_CA")]
    pub ca: Option<PathBuf>,

    /// This client's certificate, where the coordinator asks for one
    #[arg(long, global = true, value_name = "PATH", env = "WATTFARM_CERT")]
    pub cert: Option<PathBuf>,

    /// The key of the client's certificate
    #[arg(long, global = true, value_name = "PATH", env = "WATTFARM_KEY")]
    pub key: Option<PathBuf>,
}

impl TlsArgs {
    /// The coordinator at an address, trusted as these options say.
    pub fn target(&self, address: &str) -> Result<Target, ConnectError> {
        let Some(ca) = &self.ca else {
            if self.cert.is_some() || self.key.is_some() {
                return Err(ConnectError::Tls("`--cert` and `--key` need `--ca`"));
            }
            if address.starts_with("https://") {
                return Err(ConnectError::Tls("an address with `https://` needs `--ca`"));
            }
            return Ok(Target::from(address));
        };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem(ca)?));
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                tls = tls.identity(Identity::from_pem(pem(cert)?, pem(key)?))
            }
            (None, None) => (),
            (Some(_), None) | (None, Some(_)) => {
                return Err(ConnectError::Tls("`--cert` and `--key` go together"));
            }
        }
        Ok(Target::over_tls(address, tls))
    }
}

fn pem(path: &Path) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|source| ConnectError::Pem {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let path = || Some(PathBuf::from("no/such/file"));
        let error = |args: TlsArgs, address| args.target(address).expect_err("refused").to_string();
        let cert = TlsArgs {
            cert: path(),
            ..TlsArgs::default()
        };
        assert_eq!(error(cert, "a:1"), "`--cert` and `--key` need `--ca`");
        let none = TlsArgs::default();
        assert_eq!(
            error(none.clone(), "https://a:1"),
            "an address with `https://` needs `--ca`"
        );
        let ca = TlsArgs {
            ca: path(),
            ..TlsArgs::default()
        };
        assert_eq!(error(ca, "a:1"), "read `no/such/file`");
        assert!(none.target("a:1").is_ok());
    }
}
