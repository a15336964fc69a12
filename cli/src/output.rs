//! What leaves the tool: results on stdout, everything else on stderr.

use std::io::{self, Write as _};

use serde::Serialize;

/// Something that a command shows: as JSON to programs, as text to people.
pub(crate) trait Report: Serialize {
    /// For people: lines without a final newline.
    fn text(&self) -> String;

    /// For spreadsheets, where the command has such a form; else as for people.
    fn csv(&self) -> anyhow::Result<String> {
        Ok(self.text())
    }
}

/// The way to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For spreadsheets.
    Csv,
}

impl Output {
    /// Shows a command's one result.
    pub(crate) fn show(self, report: &impl Report) -> anyhow::Result<()> {
        write(&match self {
            Self::Text => report.text(),
            Self::Json => serde_json::to_string_pretty(report)?,
            Self::Csv => report.csv()?,
        })
    }

    /// Shows one of many results, each on its own line for programs.
    pub(crate) fn show_next(self, report: &impl Report) -> anyhow::Result<()> {
        write(&match self {
            Self::Text => report.text(),
            Self::Json => serde_json::to_string(report)?,
            Self::Csv => report.csv()?,
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
