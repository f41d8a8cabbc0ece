//! Limits of the access model, each with the reason for its value.

/// Permissions that a model declares. A set of them has 128 bytes.
pub const PERMISSIONS: usize = 1_000;
/// Roles for one kind of organization, with those for all kinds and without `admin` and `member`: a list to choose from.
pub const ROLES_OF_A_KIND: usize = 100;
/// Roles in all, without `admin` and `member`. The replica stores a role in 12 bits.
pub const ROLES: usize = 2_000;
/// Characters in the title of a permission or a role, as in the name of an organization.
pub const TITLE_CHARACTERS: usize = 200;
/// Characters in the description of a permission or a role: a paragraph.
pub const DESCRIPTION_CHARACTERS: usize = 1_000;
/// Bytes of a model as compact JSON. A request that carries it has at most 1 MiB and holds the replacements of removed roles
/// too. Protobuf is never larger than JSON.
pub const MODEL_BYTES: usize = 960 * 1024;
/// Violations that one attempt lists. It bounds the memory of an error: a request of 1 MiB could have more than 300 000.
pub const VIOLATIONS: usize = 1_000;
/// Permissions that one sentence names. The rest is counted.
pub const WORDS_IN_A_SENTENCE: usize = 5;
