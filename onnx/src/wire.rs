//! Protobuf's wire format, walked field by field: what is not wanted is sought over and never read.

use std::io::{BufReader, Read, Seek, SeekFrom};

use crate::error::OnnxError;

/// Bytes that one read of the file takes in: a node is some hundred.
const BUFFER: usize = 32 << 10;

/// Bytes of memory that everything kept of one file may take, roughly: names, attributes, small constants.
const KEPT_MAX: u64 = 128 << 20;

/// A field's value; of a message, a string or a packed list only its length, for it follows in the stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Payload {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Length(u64),
}

/// A place in a file of protobuf messages.
pub(crate) struct Wire<R> {
    reader: BufReader<R>,
    at: u64,
    length: u64,
    kept: u64,
}

impl<R: Read + Seek> Wire<R> {
    pub(crate) fn new(mut reader: R) -> Result<Self, OnnxError> {
        let length = reader.seek(SeekFrom::End(0))?;
        reader.seek(SeekFrom::Start(0))?;
        Ok(Self {
            reader: BufReader::with_capacity(BUFFER, reader),
            at: 0,
            length,
            kept: 0,
        })
    }

    /// Bytes of the file.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn malformed<T>(&self, reason: impl Into<String>) -> Result<T, OnnxError> {
        Err(OnnxError::Malformed {
            at: self.at,
            reason: reason.into(),
        })
    }

    /// Counts memory that the caller is about to keep.
    pub(crate) fn keep(&mut self, bytes: u64) -> Result<(), OnnxError> {
        self.kept = self.kept.saturating_add(bytes);
        match self.kept <= KEPT_MAX {
            true => Ok(()),
            false => Err(OnnxError::TooLarge(format!(
                "the graph without its weights takes more than {} MiB",
                KEPT_MAX >> 20
            ))),
        }
    }

    fn read<const N: usize>(&mut self, end: u64) -> Result<[u8; N], OnnxError> {
        let mut bytes = [0; N];
        if end.saturating_sub(self.at) < N as u64 {
            return self.malformed("a value is cut short");
        }
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// A number of up to 64 bits.
    pub(crate) fn varint(&mut self, end: u64) -> Result<u64, OnnxError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.read(end)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.malformed("a number has more than 64 bits")
    }

    /// The next field of a message that ends at byte `end`, `None` at its end.
    pub(crate) fn field(&mut self, end: u64) -> Result<Option<(u64, Payload)>, OnnxError> {
        if self.at >= end {
            return Ok(None);
        }
        let key = self.varint(end)?;
        let number = key >> 3;
        let payload = match key & 7 {
            0 => Payload::Varint(self.varint(end)?),
            1 => Payload::Fixed64(self.read(end)?),
            2 => {
                let length = self.varint(end)?;
                if length > end - self.at {
                    return self.malformed(format!(
                        "field {number} has {length} bytes and {} are left",
                        end - self.at
                    ));
                }
                Payload::Length(length)
            }
            5 => Payload::Fixed32(self.read(end)?),
            other => return self.malformed(format!("field {number} has wire type {other}")),
        };
        match number {
            0 => self.malformed("a field has number 0"),
            _ => Ok(Some((number, payload))),
        }
    }

    /// Where a message of this length, from here on, ends.
    pub(crate) fn end(&self, length: u64) -> u64 {
        self.at + length
    }

    /// Whether a message that ends there has been read to its end.
    pub(crate) fn is_at(&self, end: u64) -> bool {
        self.at >= end
    }

    /// Passes over what follows a field that is not wanted.
    pub(crate) fn skip(&mut self, payload: Payload) -> Result<(), OnnxError> {
        if let Payload::Length(length) = payload {
            // Lengths were held against the file's own, which is under 2^63.
            self.reader.seek_relative(length as i64)?;
            self.at += length;
        }
        Ok(())
    }

    /// The bytes of a field.
    pub(crate) fn bytes(&mut self, payload: Payload) -> Result<Vec<u8>, OnnxError> {
        let Payload::Length(length) = payload else {
            return self.malformed("a number where bytes belong");
        };
        self.keep(length)?;
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes)?;
        self.at += length;
        Ok(bytes)
    }

    /// A string of a field. What is no UTF-8 is replaced: names are compared and shown, nothing else.
    pub(crate) fn text(&mut self, payload: Payload) -> Result<String, OnnxError> {
        self.keep(32)?;
        let bytes = self.bytes(payload)?;
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    /// One number, or a packed list of them, each handed on.
    pub(crate) fn varints(
        &mut self,
        payload: Payload,
        mut take: impl FnMut(&mut Self, u64) -> Result<(), OnnxError>,
    ) -> Result<(), OnnxError> {
        match payload {
            Payload::Varint(value) => take(self, value),
            Payload::Length(length) => {
                let end = self.end(length);
                while !self.is_at(end) {
                    let value = self.varint(end)?;
                    take(self, value)?;
                }
                Ok(())
            }
            Payload::Fixed32(_) | Payload::Fixed64(_) => {
                self.malformed("a fraction where whole numbers belong")
            }
        }
    }

    /// One number of 32 or 64 bits, or a packed list of them.
    pub(crate) fn floats(
        &mut self,
        payload: Payload,
        double: bool,
        values: &mut Vec<f64>,
    ) -> Result<(), OnnxError> {
        match payload {
            Payload::Fixed32(bytes) => values.push(f64::from(f32::from_le_bytes(bytes))),
            Payload::Fixed64(bytes) => values.push(f64::from_le_bytes(bytes)),
            Payload::Length(length) => {
                self.keep(2 * length)?;
                let end = self.end(length);
                while !self.is_at(end) {
                    values.push(match double {
                        true => f64::from_le_bytes(self.read(end)?),
                        false => f64::from(f32::from_le_bytes(self.read(end)?)),
                    });
                }
            }
            Payload::Varint(_) => return self.malformed("a whole number where fractions belong"),
        }
        Ok(())
    }
}
