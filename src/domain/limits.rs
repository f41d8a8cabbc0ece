//! Limits of `domain`: name, value and the reason for the value.

/// User ids: what an identity provider calls a subject. OpenID Connect Core §2 allows 255 ASCII characters; roster
/// counts bytes, so that any text of that size fits.
pub const USER_ID_BYTES: usize = 255;
/// Organization names, in characters after trimming (the seed's `max_length`).
pub const NAME_CHARACTERS: usize = 200;
/// Organization slugs, in characters (the seed's `max_length`).
pub const SLUG_CHARACTERS: usize = 200;
/// The shortest slug: one character is too easily a typing mistake to name an account.
pub const SLUG_CHARACTERS_MIN: usize = 2;
/// Kinds are labels that a deployment picks a few of.
pub const KIND_CHARACTERS: usize = 64;
/// What people are called, in characters.
pub const DISPLAY_NAME_CHARACTERS: usize = 200;
/// The reason given for a change, in characters: a sentence or a ticket, not a document.
pub const REASON_CHARACTERS: usize = 500;
/// An e-mail address: RFC 5321 §4.5.3.1.3 allows a path of 256 with its brackets.
pub const EMAIL_BYTES: usize = 254;
/// The local part of an address: RFC 5321 §4.5.3.1.1.
pub const EMAIL_LOCAL_BYTES: usize = 64;
/// Attributes as compact JSON. A label store, not a document store: a page of 100 members stays under 1 MiB.
pub const ATTRIBUTES_BYTES: usize = 8 * 1024;
/// Attributes: how deep objects and lists may nest.
pub const ATTRIBUTES_DEPTH: usize = 8;
/// Items in one batch of checks.
pub const BATCH_CHECKS: usize = 10_000;
/// An identifier that is not an address, in characters (the seed's `max_length`).
pub const IDENTIFIER_CHARACTERS: usize = 1_000;
