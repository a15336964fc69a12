//! Protobuf's text format: fields with their values, whatever they mean.

use std::iter::Peekable;
use std::str::CharIndices;

use crate::error::{CaffeError, shown};

/// How deep messages may lie within each other.
const DEPTH_MAX: u32 = 16;

/// The most fields of a description, in all.
const FIELDS_MAX: usize = 1 << 20;

/// A field's value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A number or a name: `11`, `0.5`, `true`, `MAX`.
    Word(String),
    /// Between quotation marks.
    Text(String),
    Message(Message),
}

/// Fields in the order of the file; a name may come several times.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Message {
    fields: Vec<(String, Value)>,
    /// Where it begins, counted from 1.
    pub(crate) line: u32,
}

impl Message {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        let own = self.fields.iter().filter(move |(own, _)| own == name);
        own.map(|(_, value)| value)
    }

    /// The messages of this name.
    pub(crate) fn messages<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Message> {
        self.values(name).filter_map(|value| match value {
            Value::Message(message) => Some(message),
            Value::Word(_) | Value::Text(_) => None,
        })
    }

    /// All messages with their names.
    pub(crate) fn all_messages(&self) -> impl Iterator<Item = (&str, &Message)> {
        self.fields.iter().filter_map(|(name, value)| match value {
            Value::Message(message) => Some((name.as_str(), message)),
            Value::Word(_) | Value::Text(_) => None,
        })
    }

    pub(crate) fn message(&self, name: &str) -> Option<&Message> {
        let mut all = self.all_messages();
        all.find_map(|(own, message)| (own == name).then_some(message))
    }

    /// Texts and words of this name.
    pub(crate) fn words<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.values(name).filter_map(|value| match value {
            Value::Word(text) | Value::Text(text) => Some(text.as_str()),
            Value::Message(_) => None,
        })
    }

    /// The last of this name: it counts.
    pub(crate) fn word(&self, name: &str) -> Option<&str> {
        let own = self.fields.iter().rev().filter(|(own, _)| own == name);
        let mut words = own.filter_map(|(_, value)| match value {
            Value::Word(text) | Value::Text(text) => Some(text.as_str()),
            Value::Message(_) => None,
        });
        words.next()
    }

    /// Whole numbers of this name that are not negative.
    pub(crate) fn sizes(&self, name: &str) -> Result<Vec<u64>, String> {
        let size = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| format!("{name}: `{}` is not a size", shown(text)))
        };
        self.words(name).map(size).collect()
    }

    pub(crate) fn size(&self, name: &str) -> Result<Option<u64>, String> {
        Ok(self.sizes(name)?.pop())
    }

    /// A whole number, which may be negative.
    pub(crate) fn int(&self, name: &str) -> Result<Option<i64>, String> {
        let int = |text: &str| {
            text.parse::<i64>()
                .map_err(|_| format!("{name}: `{}` is not a whole number", shown(text)))
        };
        self.word(name).map(int).transpose()
    }

    pub(crate) fn switch(&self, name: &str, default: bool) -> Result<bool, String> {
        match self.word(name) {
            None => Ok(default),
            Some("true" | "True" | "t" | "1") => Ok(true),
            Some("false" | "False" | "f" | "0") => Ok(false),
            Some(other) => Err(format!(
                "{name}: `{}` is neither true nor false",
                shown(other)
            )),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>, String> {
        let number = |text: &str| {
            let text = text.trim_end_matches(['f', 'F']);
            let parsed = text.parse::<f64>().ok().filter(|number| number.is_finite());
            parsed.ok_or_else(|| format!("{name}: `{}` is not a number", shown(text)))
        };
        self.word(name).map(number).transpose()
    }
}

/// Reads a text as one message.
pub(crate) fn parse(text: &str) -> Result<Message, CaffeError> {
    let mut parser = Parser {
        text,
        rest: text.char_indices().peekable(),
        line: 1,
        fields: 0,
    };
    parser.message(None, 0)
}

struct Parser<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
    line: u32,
    fields: usize,
}

impl Parser<'_> {
    fn malformed<T>(&self, reason: impl Into<String>) -> Result<T, CaffeError> {
        Err(CaffeError::Malformed {
            line: self.line,
            reason: reason.into(),
        })
    }

    fn next(&mut self) -> Option<char> {
        let (_, next) = self.rest.next()?;
        self.line += u32::from(next == '\n');
        Some(next)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, next)| *next)
    }

    /// Passes over spaces and comments.
    fn skip(&mut self) {
        while let Some(next) = self.peek() {
            match next {
                '#' => while self.next().is_some_and(|next| next != '\n') {},
                next if next.is_whitespace() => {
                    self.next();
                }
                _ => return,
            }
        }
    }

    fn takes(&mut self, wanted: char) -> bool {
        self.skip();
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    /// Letters, digits and what numbers are made of.
    fn word(&mut self) -> Option<String> {
        self.skip();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
        let (from, _) = self.rest.peek().copied()?;
        let mut to = from;
        while let Some(&(at, next)) = self.rest.peek().filter(|(_, next)| is_part(*next)) {
            to = at + next.len_utf8();
            self.next();
        }
        (to > from).then(|| self.text[from..to].to_owned())
    }

    /// Fields up to the message's end: `end`, or that of the text.
    fn message(&mut self, end: Option<char>, depth: u32) -> Result<Message, CaffeError> {
        if depth > DEPTH_MAX {
            return self.malformed(format!("more than {DEPTH_MAX} messages within each other"));
        }
        let mut message = Message {
            fields: Vec::new(),
            line: self.line,
        };
        loop {
            self.skip();
            match (self.peek(), end) {
                (None, None) => return Ok(message),
                (None, Some(end)) => return self.malformed(format!("a `{end}` is missing")),
                (Some(next), Some(end)) if next == end => {
                    self.next();
                    return Ok(message);
                }
                (Some(_), _) => (),
            }
            let Some(name) = self.word() else {
                let next = self.peek().map_or(' ', |next| next);
                return self.malformed(format!(
                    "a field's name is missing before `{}`",
                    shown(&next.to_string())
                ));
            };
            let has_colon = self.takes(':');
            self.skip();
            match self.peek() {
                Some('[') if has_colon => {
                    self.next();
                    while !self.takes(']') {
                        self.field(&mut message, &name, depth)?;
                        self.takes(',');
                    }
                }
                Some('{' | '<') => self.field(&mut message, &name, depth)?,
                _ if has_colon => self.field(&mut message, &name, depth)?,
                _ => return self.malformed(format!("`{}` has no value", shown(&name))),
            }
            // Fields may be parted.
            let _ = self.takes(',') || self.takes(';');
        }
    }

    fn field(&mut self, message: &mut Message, name: &str, depth: u32) -> Result<(), CaffeError> {
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(CaffeError::TooLarge(format!(
                "the file has more than {FIELDS_MAX} fields"
            )));
        }
        self.skip();
        let value = match self.peek() {
            Some('{') => {
                self.next();
                Value::Message(self.message(Some('}'), depth + 1)?)
            }
            Some('<') => {
                self.next();
                Value::Message(self.message(Some('>'), depth + 1)?)
            }
            Some('"' | '\'') => Value::Text(self.quoted()?),
            _ => match self.word() {
                Some(word) => Value::Word(word),
                None => return self.malformed(format!("`{}` has no value", shown(name))),
            },
        };
        message.fields.push((name.to_owned(), value));
        Ok(())
    }

    /// Texts that follow each other are one.
    fn quoted(&mut self) -> Result<String, CaffeError> {
        let mut text = String::new();
        while let Some(quote) = self.peek().filter(|next| matches!(next, '"' | '\'')) {
            self.next();
            loop {
                match self.next() {
                    Some(next) if next == quote => break,
                    // Names are compared and shown: what an escape stands for is of no account.
                    Some('\\') => text.extend(self.next()),
                    Some('\n') | None => return self.malformed("a text has no end"),
                    Some(next) => text.push(next),
                }
            }
            self.skip();
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_read_as_protobuf_writes_it() {
        let text = "name: \"net\" # a comment\nlayer {\n  top: 'a' top: \"b\" \"c\"\n  param < lr: 0.5f >\n  \
                    shape: { dim: [1, 3], dim: 224; }\n  on: true\n}";
        let message = parse(text).expect("well formed");
        assert_eq!(message.word("name"), Some("net"));
        let layer = message.message("layer").expect("one");
        assert_eq!(layer.line, 2);
        assert_eq!(layer.words("top").collect::<Vec<_>>(), ["a", "bc"]);
        assert_eq!(
            layer.message("param").expect("one").number("lr"),
            Ok(Some(0.5))
        );
        assert_eq!(
            layer.message("shape").expect("one").sizes("dim"),
            Ok(vec![1, 3, 224])
        );
        assert_eq!(layer.switch("on", false), Ok(true));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, told) in [
            ("layer {\n top: \"a\"", "line 2: a `}` is missing"),
            ("name: \"a\n\"", "line 2: a text has no end"),
            ("\n\nlayer", "line 3: `layer` has no value"),
            ("}", "line 1: a field's name is missing before `}`"),
            ("a: [1, 2", "line 1: `a` has no value"),
            (
                "\u{8}\u{12}PK",
                "line 1: a field's name is missing before `?`",
            ),
        ] {
            let error = parse(text).expect_err("malformed").to_string();
            assert!(error.starts_with(told), "{error}");
        }
        let deep = "a {".repeat(1000);
        let error = parse(&deep).expect_err("too deep").to_string();
        assert!(error.contains("more than 16 messages within each other"));
    }
}
