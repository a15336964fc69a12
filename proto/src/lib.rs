//! The protocol `wattfarm.v1`: generated messages and services, conversions to and from the domain types of
//! `wattfarm-cost`, and the way to connect.
//!
//! Generated types stop at the edge of each process: a handler converts, asks, and converts back.

pub mod bound;
pub mod codec;
pub mod connect;
pub mod convert;
mod dial;
pub mod error;
pub mod tls;

/// The generated messages, clients and servers.
#[expect(
    missing_docs,
    reason = "generated: the .proto files have the documentation"
)]
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("wattfarm.v1");

    /// The encoded file descriptors, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// The largest message that either side takes, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The most reports that are handed in at once.
pub const REPORTS_MAX: usize = 64;

/// Bits of a number within its block.
const BLOCK_BITS: u32 = 40;

/// The block of a number of a measurement, a retraction or a lease. A farm that several coordinators run has a block for each of
/// its shards, so that no number is given twice; numbers grow in the order of events within a block alone.
pub const fn block(number: u64) -> u64 {
    number >> BLOCK_BITS
}

/// The first number of a block.
pub const fn first_of(block: u64) -> u64 {
    (block << BLOCK_BITS) + 1
}
