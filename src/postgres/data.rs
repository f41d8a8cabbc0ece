//! Creates the data directory of a server.

use super::account::Account;
use super::binaries::OLDEST;
use super::{Binaries, Error, io};
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The directory that `initdb` writes to until it is complete.
pub(super) fn unfinished(data: &Path) -> PathBuf {
    data.with_added_extension("unfinished")
}

/// Runs `initdb`, unless the data directory exists. `initdb` writes to a directory beside it, which is renamed when it
/// is complete, so that a crash leaves no partial data directory.
pub(super) async fn initialize(
    binaries: &Binaries,
    data: &Path,
    sync: bool,
    account: Option<&Account>,
) -> Result<(), Error> {
    let version_path = data.join("PG_VERSION");
    match std::fs::read_to_string(&version_path) {
        Ok(version) if version.trim() == binaries.version().to_string() => return Ok(()),
        Ok(version) => return Err(other_version(binaries, data, version.trim())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(io("read", &version_path)(error)),
    }
    if std::fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::NotData(data.to_owned()));
    }
    let unfinished = unfinished(data);
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).map_err(io("remove", &unfinished))?;
    }
    make_private(&unfinished, account)?;
    let mut command = binaries.command("initdb");
    command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]);
    if !sync {
        command.arg("--no-sync");
    }
    command.arg("-D").arg(&unfinished).stdin(Stdio::null());
    if let Some(account) = account {
        account.drop_to(&mut command);
    }
    let output = tokio::process::Command::from(command).output().await;
    let output = output.map_err(io("run", &binaries.directory().join("initdb")))?;
    if !output.status.success() {
        return Err(Error::Initdb(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    std::fs::rename(&unfinished, data).map_err(io("create", data))
}

/// The error about data of another version than the programs.
fn other_version(binaries: &Binaries, data: &Path, version: &str) -> Error {
    let (directory, data) = (data.to_owned(), version.to_owned());
    let (binaries, programs) = (binaries.directory().to_owned(), binaries.version());
    // Up to version 9, the second number is part of the major version.
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < OLDEST) {
        Error::DataTooOld { directory, data, oldest: OLDEST, binaries, programs }
    } else {
        Error::OtherVersion { directory, data, binaries, programs }
    }
}

/// Creates a directory that only the account of Postgres (and root) may enter.
pub(super) fn make_private(directory: &Path, account: Option<&Account>) -> Result<(), Error> {
    DirBuilder::new().mode(0o700).create(directory).map_err(io("create", directory))?;
    account.map_or(Ok(()), |account| account.make_owner(directory))
}
