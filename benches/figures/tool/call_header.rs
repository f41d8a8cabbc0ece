//! The header that each call of a generator has, beyond those that all calls of a connection share.

use serde::{Deserialize, Serialize};

/// A header with another value in each call. It travels as a literal that does not enter the table of the connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum CallHeader {
    None,
    /// `x-request-id`, a UUID. The answer has to return it.
    RequestId,
    /// `traceparent`, as proxies and tracing libraries send it.
    Traceparent,
    /// `grpc-timeout`, slightly less than a second.
    Timeout,
    /// `authorization` with one of these bearer tokens after the other, as behind a proxy.
    Authorization(Vec<String>),
}

impl CallHeader {
    /// The name of the header, and its value in the call with this number.
    pub(crate) fn field(&self, call: u64) -> Option<(&'static str, String)> {
        match self {
            Self::None => None,
            Self::RequestId => Some(("x-request-id", uuid::Uuid::from_u64_pair(mix(call), mix(!call)).to_string())),
            Self::Traceparent => {
                let (trace, parent) = (u128::from(mix(call)) << 64 | u128::from(mix(!call)), mix(call ^ 1 << 63));
                Some(("traceparent", format!("00-{trace:032x}-{parent:016x}-01")))
            }
            Self::Timeout => Some(("grpc-timeout", format!("{}u", 900_000 + call % 100_000))),
            Self::Authorization(tokens) => {
                let turn = usize::try_from(call).unwrap() % tokens.len();
                Some(("authorization", format!("Bearer {}", tokens[turn])))
            }
        }
    }
}

/// Spreads a number over all bits: the finalizer of `SplitMix64`.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}
