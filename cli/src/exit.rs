//! How the tool ends: the exit codes that scripts may rely on, and errors as people read them.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use tonic::{Code, Status};
use wattfarm_caffe::CaffeError;
use wattfarm_cost::network::{ChangeError, NetworkError};
use wattfarm_onnx::OnnxError;
use wattfarm_proto::connect::ConnectError;
use wattfarm_proto::error;

/// What `--help` says of [`Exit`].
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    what was asked for is done
  1    something unexpected, perhaps a fault in the tool
  2    the command line or a file that it names is wrong
  3    the coordinator cannot be reached, or asks to try again later
  4    no such platform, network, campaign or agent
  5    the operator's key is missing or not accepted
  6    a campaign, a measurement or a prediction ended without what was asked for
  7    a prediction is over its budget
  130  interrupted";

/// The exit codes. Their numbers never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// Something that no other code is for.
    Unexpected = 1,
    /// The command line, or a file that it names, is wrong. Clap uses the same number.
    Usage = 2,
    /// The coordinator cannot be reached, or asks to try again later.
    Unreachable = 3,
    /// No such platform, network, campaign or agent.
    NotFound = 4,
    /// The operator's key is missing or not accepted.
    Refused = 5,
    /// A campaign, a measurement or a prediction ended without what was asked for.
    Unfinished = 6,
    /// A prediction is over its budget.
    OverBudget = 7,
    /// Ctrl-C or SIGTERM.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that knows its exit code: by itself, or as the context of its cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }
}

impl Exit {
    /// The code for an error: the outermost [`Failure`]'s, or else that of the first cause that has one.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<Failure>() {
            Some(failure) => failure.exit,
            None => error
                .chain()
                .find_map(Self::of_cause)
                .unwrap_or(Self::Unexpected),
        }
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(status) = cause.downcast_ref::<Status>() {
            return Some(Self::of_status(status));
        }
        if let Some(error) = cause.downcast_ref::<ConnectError>() {
            return Some(match error {
                ConnectError::Unreachable { .. } => Self::Unreachable,
                ConnectError::Address(_)
                | ConnectError::Credential
                | ConnectError::Tls(_)
                | ConnectError::Pem { .. }
                | ConnectError::Certificates { .. } => Self::Usage,
            });
        }
        if let Some(error) = cause.downcast_ref::<NetworkError>() {
            return Some(match error {
                NetworkError::UnknownName(_) => Self::NotFound,
                NetworkError::Size(_)
                | NetworkError::Name(_)
                | NetworkError::Input(_)
                | NetworkError::Node { .. } => Self::Usage,
            });
        }
        if cause.downcast_ref::<OnnxError>().is_some()
            || cause.downcast_ref::<CaffeError>().is_some()
            || cause.downcast_ref::<ChangeError>().is_some()
        {
            return Some(Self::Usage);
        }
        // Whoever reads our stdout has seen enough: `wattfarm jobs | head`.
        let pipe = cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        pipe.then_some(Self::Done)
    }

    fn of_status(status: &Status) -> Self {
        match status.code() {
            Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::Unauthenticated | Code::PermissionDenied => Self::Refused,
            Code::FailedPrecondition => Self::Unfinished,
            _ if error::is_transient(status) => Self::Unreachable,
            _ => Self::Unexpected,
        }
    }
}

/// The chain of causes, then what a coordinator's error says for programs: its reason and the fields at fault.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain() {
        if let Some(status) = cause.downcast_ref::<Status>() {
            causes.push(describe_status(status));
            // What follows is hyper's view of the same broken connection.
            break;
        }
        causes.push(cause.to_string());
    }
    // Some libraries wrap an error in one that says the same.
    causes.dedup();
    format!("error: {}", causes.join("\n  because "))
}

fn describe_status(status: &Status) -> String {
    let mut text = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    let reason = error::reason(status);
    if !reason.is_empty() {
        let _ = write!(text, "\n  reason  {reason}");
    }
    for violation in error::violations(status) {
        let _ = write!(text, "\n  field   {violation}");
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use wattfarm_proto::error::FieldError;

    use super::*;

    #[test]
    fn a_status_decides_by_its_code() {
        let of = |code| Exit::of(&anyhow::Error::from(Status::new(code, "no")).context("ask"));
        assert_eq!(of(Code::NotFound), Exit::NotFound);
        assert_eq!(of(Code::Unauthenticated), Exit::Refused);
        assert_eq!(of(Code::Unavailable), Exit::Unreachable);
        assert_eq!(of(Code::Internal), Exit::Unexpected);
    }

    #[test]
    fn a_failure_decides_before_its_cause() {
        let missing = io::Error::new(io::ErrorKind::NotFound, "gone");
        let error = Err::<(), _>(missing)
            .context(Failure::new(Exit::Usage, "read the key"))
            .expect_err("gone");
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert_eq!(describe(&error), "error: read the key\n  because gone");
    }

    #[test]
    fn a_refused_field_is_named() {
        let status = Status::from(FieldError::new("campaign.platform", "missing"));
        let error = anyhow::Error::from(status).context("request models");
        insta::assert_snapshot!(describe(&error), @r"
        error: request models
          because campaign.platform: missing
          reason  INVALID_FIELD
          field   campaign.platform: missing
        ");
    }
}
