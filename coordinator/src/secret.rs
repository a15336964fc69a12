//! Secrets: drawn here, written as hexadecimal text, and known to the farm only by their hash.

/// The bytes of a secret.
pub const SECRET_BYTES: usize = 32;

/// A new secret in its written form.
pub fn fresh() -> String {
    written(&rand::random())
}

/// The written form of a secret.
pub fn written(secret: &[u8; SECRET_BYTES]) -> String {
    secret.iter().map(|byte| format!("{byte:02x}")).collect()
}
