//! What leaves the tool: results on stdout, everything else on stderr.

use std::io::{self, Write as _};

use serde::Serialize;

/// Something that a command shows: as JSON to programs, as text to people.
pub(crate) trait Report: Serialize {
    /// For people: lines without a final newline.
    fn text(&self) -> String;
}

/// The way to stdout.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Output {
    /// Shows a command's one result.
    pub(crate) fn show(self, report: &impl Report) -> anyhow::Result<()> {
        write(&match self {
            Self::Text => report.text(),
            Self::Json => serde_json::to_string_pretty(report)?,
        })
    }

    /// Shows one of many results, each on its own line for programs.
    pub(crate) fn show_next(self, report: &impl Report) -> anyhow::Result<()> {
        write(&match self {
            Self::Text => report.text(),
            Self::Json => serde_json::to_string(report)?,
        })
    }
}

/// Says something that is no result.
pub(crate) fn note(text: impl AsRef<str>) {
    // A closed stderr must not end a command that does its work.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// Not `println!`: a reader that went away is an error to return, not a panic.
fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}
