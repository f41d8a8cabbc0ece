//! Secrets that roster makes.

/// A secret text. It has no `Debug` and no `Display`, so that it reaches an output only where [`Secret::expose`] is
/// written.
pub struct Secret(String);

impl Secret {
    /// Makes a secret of this text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text: for the one place that hands it to its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}
