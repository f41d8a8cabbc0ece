//! What each request type says of itself. The build implements these traits from the protos' rules, so that no handler
//! chooses which rule it is under.

use crate::authz::rules::Method;

/// The request of a method: the type alone says which one.
pub trait Request: prost::Message {
    /// The method, and with it the rule.
    const METHOD: &'static Method;
}

/// A request that is ruled by a permission in the organization it names.
pub trait OrganizationRequest: Request {
    /// The organization as the caller wrote it: an id, a slug, or neither.
    fn organization(&self) -> &str;
}

/// A request that is ruled by the caller alone.
pub trait CallerRequest: Request {}

/// A request of a method that is a stream on one side or on both. It is ruled by the caller alone, and decided again for
/// as long as the stream lives.
pub trait StreamRequest: Request {}

/// A request that may change something.
pub trait WriteRequest: Request {
    /// Why the change is made, as the caller wrote it. Empty: no reason.
    fn reason(&self) -> &str;
    /// The name of the request, as the caller wrote it. Empty: none.
    fn request_id(&self) -> &str;
    /// Whether everything is to be checked and nothing to be changed.
    fn validate_only(&self) -> bool;
}
