//! Connecting to a coordinator: one place for timeouts, keep-alive, limits and credentials.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::Authority;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::MESSAGE_BYTES_MAX;
use crate::dial::Dial;
use crate::v1;

/// How long a unary call may take. Long polls wait at most 20 s.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a connection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The text is not an address.
    #[error(
        "`{0}` is not the address of a coordinator, such as `http://127.0.0.1:7461` (nothing but http is spoken)"
    )]
    Address(String),
    /// Nobody answers there.
    #[error("connect to the coordinator at {address}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The options of TLS contradict each other.
    #[error("{0}")]
    Tls(&'static str),
    /// A certificate, or a key, cannot be read.
    #[error("read `{path}`")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A certificate, or a key, is not what it must be.
    #[error("use the certificates given for the coordinator at {address}")]
    Certificates {
        /// Where.
        address: String,
        /// What is wrong with them.
        #[source]
        source: tonic::transport::Error,
    },
    /// The credential has bytes that a header cannot carry.
    #[error("the credential is not plain text")]
    Credential,
}

/// Puts the caller's credential on every call.
#[derive(Clone)]
pub struct Credential(Option<MetadataValue<Ascii>>);

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

/// A channel that carries a credential.
pub type Authorized = InterceptedService<Channel, Credential>;

/// A connection to a coordinator, cheap to clone, from which clients of each service are made.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    credential: Credential,
}

/// Where a coordinator is, and what vouches for it. Several addresses, with commas between them, are of coordinators over
/// one database: whichever answers is talked to. Over TLS each has to show a certificate with the first one's name.
#[derive(Debug, Clone)]
pub struct Target {
    address: String,
    tls: Option<ClientTlsConfig>,
}

/// In the clear: for loopback, and for what something else protects.
impl<T: AsRef<str> + ?Sized> From<&T> for Target {
    fn from(address: &T) -> Self {
        Self {
            address: address.as_ref().to_owned(),
            tls: None,
        }
    }
}

/// Several connections to one coordinator.
impl From<&Self> for Target {
    fn from(target: &Self) -> Self {
        target.clone()
    }
}

impl Target {
    /// Encrypted, whatever the address's scheme says.
    pub fn over_tls(address: &str, tls: ClientTlsConfig) -> Self {
        Self {
            address: address.to_owned(),
            tls: Some(tls),
        }
    }

    /// The address as it was given.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn addresses(&self) -> impl Iterator<Item = String> {
        self.address.split(',').map(|one| one.trim().to_owned())
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// An address without its scheme.
    fn place<'a>(&self, address: &'a str) -> Result<&'a str, ConnectError> {
        match address.split_once("://") {
            None => Ok(address),
            Some((named, place))
                if named.eq_ignore_ascii_case("http")
                    || named.eq_ignore_ascii_case(self.scheme()) =>
            {
                Ok(place)
            }
            // Above all `https` without certificates: whoever writes it must not be talked to in the clear.
            Some(_) => Err(ConnectError::Address(address.to_owned())),
        }
    }

    /// How to dial, if there are several to choose from.
    fn dial(&self) -> Result<Option<Dial>, ConnectError> {
        let place = |address: String| {
            let refused = || ConnectError::Address(address.clone());
            let place = self.place(&address)?;
            let authority: Authority = place.parse().map_err(|_| refused())?;
            match authority.port() {
                Some(_) => Ok(place.to_owned()),
                None => Err(refused()),
            }
        };
        if self.addresses().nth(1).is_none() {
            return Ok(None);
        }
        let places: Result<Vec<_>, _> = self.addresses().map(place).collect();
        places.map(Dial::new).map(Some)
    }

    /// An endpoint with our keep-alive, so that a vanished peer is noticed within 20 s.
    fn endpoint(&self) -> Result<Endpoint, ConnectError> {
        let address = self.addresses().next().unwrap_or_default();
        let (address, scheme) = (&address, self.scheme());
        let refused = || ConnectError::Address(address.clone());
        let place = self.place(address)?;
        let url = format!("{scheme}://{place}");
        let mut endpoint = Endpoint::from_shared(url).map_err(|_| refused())?;
        if let Some(tls) = &self.tls {
            let wrong = |source| ConnectError::Certificates {
                address: address.clone(),
                source,
            };
            endpoint = endpoint.tls_config(tls.clone()).map_err(wrong)?;
        }
        Ok(endpoint
            // For all of them together.
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true))
    }
}

impl Connection {
    /// Connects now. `credential` is an agent's or the operator's, `None` for calls that need none.
    pub async fn open(
        target: impl Into<Target>,
        credential: Option<&str>,
    ) -> Result<Self, ConnectError> {
        let target = target.into();
        let endpoint = target.endpoint()?;
        let channel = match target.dial()? {
            None => endpoint.connect().await,
            Some(dial) => endpoint.connect_with_connector(connector(dial)).await,
        };
        let unreachable = |source| ConnectError::Unreachable {
            address: target.address.clone(),
            source,
        };
        Self::over(channel.map_err(unreachable)?, credential)
    }

    /// Connects at the first call, and again after a loss.
    pub fn lazy(target: impl Into<Target>, credential: Option<&str>) -> Result<Self, ConnectError> {
        let target = target.into();
        let endpoint = target.endpoint()?;
        let channel = match target.dial()? {
            None => endpoint.connect_lazy(),
            Some(dial) => endpoint.connect_with_connector_lazy(connector(dial)),
        };
        Self::over(channel, credential)
    }

    /// Over a channel that somebody else made: tests bring an in-memory one.
    pub fn over(channel: Channel, credential: Option<&str>) -> Result<Self, ConnectError> {
        let bearer = credential.map(|credential| format!("Bearer {credential}").parse());
        let credential = Credential(bearer.transpose().map_err(|_| ConnectError::Credential)?);
        Ok(Self {
            channel,
            credential,
        })
    }

    fn authorized(&self) -> Authorized {
        InterceptedService::new(self.channel.clone(), self.credential.clone())
    }

    /// The service for agents.
    pub fn agents(&self) -> v1::agent_service_client::AgentServiceClient<Authorized> {
        v1::agent_service_client::AgentServiceClient::new(self.authorized())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The service for designers of networks.
    pub fn models(&self) -> v1::model_service_client::ModelServiceClient<Authorized> {
        v1::model_service_client::ModelServiceClient::new(self.authorized())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The service for trainers.
    pub fn trainer(&self) -> v1::trainer_service_client::TrainerServiceClient<Authorized> {
        v1::trainer_service_client::TrainerServiceClient::new(self.authorized())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The service for operators.
    pub fn farm(&self) -> v1::farm_service_client::FarmServiceClient<Authorized> {
        v1::farm_service_client::FarmServiceClient::new(self.authorized())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// What tonic dials by, wherever it thinks that it is going.
fn connector(
    dial: Dial,
) -> impl Service<Uri, Response = TokioIo<TcpStream>, Error = io::Error, Future: Send>
+ Clone
+ Send
+ 'static {
    tower::service_fn(move |_: Uri| dial.clone().connect())
}

/// A unary request with our deadline.
pub fn unary<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_addresses_each_is_looked_at() {
        let dial = |text: &str| Target::from(text).dial();
        assert!(matches!(dial("http://one:7461"), Ok(None)));
        assert!(matches!(dial("one:7461, http://two:7461"), Ok(Some(_))));
        for bad in ["one:7461,", "one:7461,two", "one:7461,https://two:7461"] {
            assert!(matches!(dial(bad), Err(ConnectError::Address(_))), "{bad}");
        }
    }

    #[test]
    fn no_scheme_but_http_is_taken() {
        for good in ["127.0.0.1:7461", "http://farm:7461", "HTTP://farm:7461"] {
            assert!(Target::from(good).endpoint().is_ok(), "{good}");
        }
        for bad in [
            "https://farm:7461",
            "ftp://farm",
            "://farm",
            "not an address",
        ] {
            assert!(
                matches!(Target::from(bad).endpoint(), Err(ConnectError::Address(_))),
                "{bad}"
            );
        }
    }
}
