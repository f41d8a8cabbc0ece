//! The known name that a mistyped one probably means.

/// The name among these that is most similar to a mistyped one, by edits of characters. Upper and lower case count as
/// equal. Empty if there are no names.
pub(crate) fn nearest<'a>(mistyped: &str, names: impl IntoIterator<Item = &'a str>) -> &'a str {
    let mistyped = mistyped.to_lowercase();
    let similarity = |name: &str| strsim::normalized_damerau_levenshtein(&mistyped, &name.to_lowercase());
    names.into_iter().max_by(|one, other| similarity(one).total_cmp(&similarity(other))).unwrap_or_default()
}
