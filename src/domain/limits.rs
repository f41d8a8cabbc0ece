//! Limits of `domain`, each with the reason for its value.

/// Bytes in a user id, which is the subject of an identity provider. OpenID Connect Core §2 allows 255 ASCII
/// characters; roster counts bytes, so that any such subject fits.
pub const USER_ID_BYTES: usize = 255;
/// Characters in an organization name after trimming: the `max_length` of django-organizations.
pub const NAME_CHARACTERS: usize = 200;
/// Characters of a search, after folding, from which on it matches anywhere in a name: the length of the shortest text
/// that an index of trigrams finds.
pub const SEARCH_ANYWHERE_CHARACTERS: usize = 3;
/// Characters in an organization slug: the `max_length` of django-organizations.
pub const SLUG_CHARACTERS: usize = 200;
/// Minimum characters in a slug: a single character is too easily a typing mistake.
pub const SLUG_CHARACTERS_MIN: usize = 2;
/// Characters in a kind: a short label, of which a deployment defines a few.
pub const KIND_CHARACTERS: usize = 64;
/// Characters in the name of a permission: an index entry and a log line stay short.
pub const PERMISSION_NAME_CHARACTERS: usize = 100;
/// Segments in the name of a permission: at least a thing and an action on it.
pub const PERMISSION_NAME_SEGMENTS_MIN: usize = 2;
/// Segments in the name of a permission: an area, a thing, a part of it and an action.
pub const PERMISSION_NAME_SEGMENTS_MAX: usize = 4;
/// Characters in a user's display name.
pub const DISPLAY_NAME_CHARACTERS: usize = 200;
/// Characters in the reason for a change: a sentence or a ticket number, not a document.
pub const REASON_CHARACTERS: usize = 500;
/// Bytes in an e-mail address: RFC 5321 §4.5.3.1.3 allows a path of 256 octets with its angle brackets.
pub const EMAIL_BYTES: usize = 254;
/// Bytes in the local part of an e-mail address: RFC 5321 §4.5.3.1.1.
pub const EMAIL_LOCAL_BYTES: usize = 64;
/// Bytes of attributes as compact JSON with all digits of each number, as Postgres prints them. Attributes hold labels,
/// not documents: a page of 100 members stays under 1 MiB.
pub const ATTRIBUTES_BYTES: usize = 8 * 1024;
/// Nesting levels of objects and lists in attributes.
pub const ATTRIBUTES_DEPTH: usize = 8;
/// Checks in one batch.
pub const BATCH_CHECKS: usize = 10_000;
/// Questions in one batch of effective permissions. With 1 000 permissions of the application, the answer has 2.4 MB.
pub const BATCH_EFFECTIVE_PERMISSIONS: usize = 1_000;
/// Characters in a locale: RFC 5646 §4.4.1 recommends that a language tag of 35 characters fits.
pub const LOCALE_CHARACTERS: usize = 35;
/// Characters in a recipient that is not an e-mail address: the `max_length` of django-organizations.
pub const IDENTIFIER_CHARACTERS: usize = 1_000;
