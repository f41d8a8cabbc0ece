//! Every limit of authentication: its name, its value and why it is this one.

/// A credential, in bytes. HTTP/2 servers accept header lists of 16 KiB; half of it is more than any provider needs.
pub const TOKEN_BYTES: usize = 8 * 1024;
/// How far the clocks of an issuer and of this machine may differ, in seconds. It lengthens the life of each token.
pub const LEEWAY_SECONDS: i64 = 30;
/// Verified tokens that are remembered. A few hundred bytes each; the least used go first.
pub const REMEMBERED_TOKENS: usize = 10_000;
/// Between two readings of a JWKS file that unknown key ids ask for, in seconds: anybody can make up key ids.
pub const JWKS_REREAD_SECONDS: u64 = 10;
/// After so many seconds a JWKS file is read again though nothing asks for it: a key that was taken out of the file
/// stops working within this time.
pub const JWKS_AGE_SECONDS: u64 = 60;
/// A file of keys, in bytes. The largest published JWKS are a tenth of this.
pub const KEY_FILE_BYTES: u64 = 256 * 1024;
/// An RSA modulus, in bits: RFC 7518 §3.3 asks for 2048, and more than 4096 the library does not verify.
pub const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// An HS256 secret at least, in bytes: RFC 7518 §3.2.
pub const HS256_SECRET_BYTES: usize = 32;
