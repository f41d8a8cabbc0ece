//! What a caller may do: the rule of each method ([`rules`]), and the decision in one organization ([`decide`]).
//!
//! Pure: no SQL, no wire types, no clock. Who is calling is [`crate::authn`]'s answer.

pub mod decide;
pub mod rules;
