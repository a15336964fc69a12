//! What leaves the tool: results on stdout, everything else on stderr.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Something that a command shows: as JSON to programs, as text to people.
pub(crate) trait Report: Serialize {
    /// For people: lines without a final newline.
    fn text(&self) -> String;

    /// For spreadsheets, where the command has such a form.
    fn csv(&self) -> anyhow::Result<String> {
        Err(Failure::new(Exit::Usage, "this command's result is not written as csv").into())
    }

    /// As a page of its own, where the command has one.
    fn html(&self) -> anyhow::Result<String> {
        Err(Failure::new(Exit::Usage, "this command's result is not written as html").into())
    }
}

/// Records under their headings, without a final newline.
pub(crate) fn csv_of<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    records: impl IntoIterator<Item = [String; COLUMNS]>,
) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(headings)?;
    for record in records {
        writer.write_record(record)?;
    }
    let text = String::from_utf8(writer.into_inner()?)?;
    Ok(text.trim_end().to_owned())
}

/// A number in a record; nothing, if there is none.
pub(crate) fn cell(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
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
    /// For a browser, or to be printed.
    Html,
}

impl Output {
    /// Shows a command's one result.
    pub(crate) fn show(self, report: &impl Report) -> anyhow::Result<()> {
        write(&match self {
            Self::Text => report.text(),
            Self::Json => serde_json::to_string_pretty(report)?,
            Self::Csv => report.csv()?,
            Self::Html => report.html()?,
        })
    }

    /// Shows one of many results, each on its own line for programs.
    pub(crate) fn show_next(self, report: &impl Report) -> anyhow::Result<()> {
        write(&match self {
            Self::Text => report.text(),
            Self::Json => serde_json::to_string(report)?,
            Self::Csv => report.csv()?,
            Self::Html => report.html()?,
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
