//! How results look: tables and numbers as text, charts and pages.

pub(crate) mod chart;
pub(crate) mod number;
pub(crate) mod page;
pub(crate) mod scatter;
pub(crate) mod table;
