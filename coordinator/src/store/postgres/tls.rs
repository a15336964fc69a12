//! TLS to the database, by the address's `sslmode` and `sslrootcert`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use postgres::Socket;
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_rustls::{Connect, TlsConnector, client};

/// Whom a connection trusts.
#[derive(Clone)]
pub(super) struct Tls(Arc<ClientConfig>);

/// What an address says of TLS.
pub(super) struct Wish {
    /// The address without that.
    pub(super) address: String,
    pub(super) tls: Option<Tls>,
}

impl Wish {
    /// Takes `sslmode` and `sslrootcert` out of an address. What would leave open whether anybody reads along is refused.
    pub(super) fn of(text: &str) -> Result<Self, String> {
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut authority, mut others) = (None, None, Vec::new());
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", value)) => authority = Some(value),
                _ => others.push(option),
            }
        }
        let tls = match (mode, authority) {
            (None | Some("disable"), None) => None,
            // A certificate that nobody vouches for keeps nobody out: encrypted is verified.
            (Some("require" | "verify-full"), Some(authority)) => Some(Tls::trusting(authority)?),
            (Some("require" | "verify-full"), None) => {
                return Err("`sslmode` needs `sslrootcert=FILE`, the authority that vouches for the database".to_owned());
            }
            (None | Some("disable"), Some(_)) => {
                return Err("`sslrootcert` needs `sslmode=verify-full`".to_owned());
            }
            (Some(other), _) => {
                return Err(format!(
                    "`sslmode={other}` is not `disable`, `require` or `verify-full`: the others leave open whether the \
                     database is spoken to in the clear"
                ));
            }
        };
        let mut address = place.to_owned();
        if tls.is_some() {
            others.push("sslmode=require");
        }
        if !others.is_empty() {
            address = format!("{address}?{}", others.join("&"));
        }
        Ok(Self { address, tls })
    }
}

impl Tls {
    fn trusting(file: &str) -> Result<Self, String> {
        if file.contains('%') {
            return Err("`sslrootcert` is taken as it stands: a path without `%`".to_owned());
        }
        let wrong =
            |error: &dyn std::fmt::Display| format!("`sslrootcert`: read `{file}`: {error}");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"it holds no certificate"));
        }
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Encrypted;
    type TlsConnect = Named;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Named, InvalidDnsNameError> {
        Ok(Named {
            connector: TlsConnector::from(Arc::clone(&self.0)),
            name: ServerName::try_from(host.to_owned())?,
        })
    }
}

/// One connection's handshake with the host of a name.
pub(super) struct Named {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for Named {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Handshake;

    fn connect(self, socket: Socket) -> Handshake {
        Handshake(Box::new(self.connector.connect(self.name, socket)))
    }
}

/// A handshake under way.
pub(super) struct Handshake(Box<Connect<Socket>>);

impl Future for Handshake {
    type Output = io::Result<Encrypted>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let done = Pin::new(&mut *self.0).poll(context);
        done.map_ok(|stream| Encrypted(Box::new(stream)))
    }
}

/// An encrypted connection.
pub(super) struct Encrypted(Box<client::TlsStream<Socket>>);

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_open_who_reads_along_is_refused() {
        let refused = |query: &str| {
            let refused = Wish::of(&format!("postgres://db/farm?{query}")).err();
            refused.unwrap_or_else(|| panic!("`{query}` is refused"))
        };
        assert!(refused("sslmode=prefer").contains("leave open"));
        assert!(refused("sslmode=require").contains("sslrootcert=FILE"));
        assert!(refused("sslmode=verify-full&sslrootcert=/no/such").contains("/no/such"));
        assert!(refused("sslrootcert=/no/such").contains("sslmode=verify-full"));
        let plain = Wish::of("postgres://db/farm?sslmode=disable&host=/run").expect("says so");
        assert!(plain.tls.is_none());
        assert_eq!(plain.address, "postgres://db/farm?host=/run");
    }
}
