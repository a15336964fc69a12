//! How results look as text: tables and numbers.

pub(crate) mod number;
pub(crate) mod table;
