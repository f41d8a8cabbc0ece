//! The access model in a file.

use crate::domain::access_model::AccessModel;
use crate::domain::access_model::file::{FileFormat, ModelFileError};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a model file. A model has at most 960 KiB as compact JSON; comments and indentation multiply that.
pub const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Why a file holds no access model.
#[derive(Debug, thiserror::Error)]
pub enum UnusableModelFile {
    /// The file cannot be read, or is too large.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// Its text is no access model.
    #[error("no access model:\n{0}")]
    Model(#[from] ModelFileError),
}

/// Reads the access model in a file: TOML if its name ends in `.toml`, otherwise JSON.
///
/// # Errors
/// If the file cannot be read, or has more than [`FILE_BYTES`]. Every mistake in the model.
pub fn read(path: &Path) -> Result<AccessModel, UnusableModelFile> {
    let text = read_text(File::open(path)?)?;
    Ok(FileFormat::of_path(path).parse(&text)?)
}

/// Reads a text of at most [`FILE_BYTES`].
///
/// # Errors
/// If it is larger, cannot be read or is not UTF-8.
pub fn read_text(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    let bytes = source.take(FILE_BYTES + 1).read_to_string(&mut text)?;
    let is_larger = u64::try_from(bytes).is_ok_and(|bytes| bytes > FILE_BYTES);
    if is_larger { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}
