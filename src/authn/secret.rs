//! Secrets that roster generates.

/// A secret text. It implements neither `Debug` nor `Display`, so it reaches an output only through an explicit
/// [`Secret::expose`].
pub struct Secret(String);

impl Secret {
    /// Wraps a text as a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text, for the one place that delivers it to its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}
