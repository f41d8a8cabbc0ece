//! Traits of request types. The build implements them from the access rules in the protos, so no handler chooses its rule.

use crate::authz::rules::Method;
use crate::grpc::admit::shape::RequestShape;

/// The request of a method. Each request type belongs to one method.
pub trait Request: prost::Message + RequestShape {
    /// The method, with its access rule.
    const METHOD: &'static Method;
}

/// A request whose access rule is a permission in the organization that the message names.
pub trait OrganizationRequest: Request {
    /// The organization as the caller wrote it: an id, a slug, or an invalid text.
    fn organization(&self) -> &str;
}

/// A request whose access rule depends on the caller only.
pub trait CallerRequest: Request {}

/// A request of a method that streams on one side or on both. Its access rule depends on the caller only, and is applied
/// again while the stream is open.
pub trait StreamRequest: Request {}

/// A request of a write.
pub trait WriteRequest: Request {
    /// The reason for the change, as the caller wrote it. Empty: no reason.
    fn reason(&self) -> &str;
    /// The request id, as the caller wrote it. Empty: none.
    fn request_id(&self) -> &str;
    /// The request id, to bring it into its normal form.
    fn request_id_mut(&mut self) -> &mut String;
    /// Whether the write is only validated.
    fn validate_only(&self) -> bool;
}
