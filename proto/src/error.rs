//! Errors on the wire: a gRPC code, a reason to branch on, and the field at fault.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of every reason.
pub const DOMAIN: &str = "wattfarm.v1";

/// The most bytes of a text in an error: an error is a header, and one that is too long for a header reaches nobody.
pub const TEXT_BYTES_MAX: usize = 1024;

/// A value on the wire that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FieldError {
    /// Path to the field, such as `reports[2].reading.runtime.median_ms`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FieldError {
    /// A fault of one field.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The same fault, seen from one level up.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        let field = if self.field.is_empty() {
            parent.to_owned()
        } else {
            format!("{parent}.{}", self.field)
        };
        Self { field, ..self }
    }
}

impl From<FieldError> for Status {
    fn from(error: FieldError) -> Self {
        let message = cut(&error.to_string());
        let (field, reason) = (cut(&error.field), cut(&error.reason));
        let mut details = ErrorDetails::with_bad_request_violation(field, reason);
        details.set_error_info("INVALID_FIELD", DOMAIN, HashMap::new());
        Self::with_error_details(Code::InvalidArgument, message, details)
    }
}

/// A text of at most [`TEXT_BYTES_MAX`] bytes, with a mark where something is missing.
fn cut(text: &str) -> String {
    const MARK: char = '…';
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(TEXT_BYTES_MAX - MARK.len_utf8());
    format!("{}{MARK}", &text[..end])
}

/// An error with a reason that clients branch on and, where trying again helps, after how long.
pub fn status(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    retry_after: Option<Duration>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, cut(&message.into()), details)
}

/// The reason that an error carries; empty if it comes from somewhere else, such as a broken connection.
pub fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

/// The fields at fault that an error names; none, unless the request itself was wrong.
pub fn violations(status: &Status) -> Vec<FieldError> {
    let violations = status
        .get_details_bad_request()
        .map(|request| request.field_violations)
        .unwrap_or_default();
    violations
        .into_iter()
        .map(|violation| FieldError::new(violation.field, violation.description))
        .collect()
}

/// Whether the same call may succeed later without anybody doing anything: a timeout or a lost connection says nothing
/// about whether the call took effect, and calls may be repeated.
pub fn is_transient(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
    ) || (status.code() == Code::Unknown && reason(status).is_empty())
}

/// Whether the coordinator has judged the call, and will judge it so again. An error without a reason of its own may come
/// from anything on the way.
pub fn is_verdict(status: &Status) -> bool {
    !is_transient(status) && !reason(status).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let short = "é".repeat(TEXT_BYTES_MAX / 2);
        assert_eq!(cut(&short), short);
        for long in ["é", "x", "語"].map(|text| text.repeat(2 * TEXT_BYTES_MAX)) {
            let cut = cut(&long);
            assert!(cut.len() <= TEXT_BYTES_MAX && cut.len() > TEXT_BYTES_MAX - 4);
            assert!(long.starts_with(cut.strip_suffix('…').expect("marked")));
        }
    }

    /// Peers take 16 KiB of headers; a message is escaped, three bytes for each of it at worst.
    #[test]
    fn an_error_fits_into_headers_whatever_was_wrong() {
        let long = "語".repeat(1 << 20);
        let wrong = Status::from(FieldError::new(long.clone(), long.clone()));
        let refused = status(Code::NotFound, "PLATFORM_UNKNOWN", long, None);
        for status in [wrong, refused] {
            let bytes = 3 * status.message().len() + status.details().len().div_ceil(3) * 4;
            assert!(bytes < 8 << 10, "{bytes}");
        }
    }
}
