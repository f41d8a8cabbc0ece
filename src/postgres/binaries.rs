//! Finds the programs of the installed Postgres.

use super::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest supported major version.
pub(super) const OLDEST: u32 = 15;
/// The command that installs Postgres, for error messages.
const INSTALL: &str =
    if cfg!(target_os = "macos") { "brew install postgresql@17" } else { "sudo apt-get install -y postgresql" };

/// The directory and version of the programs of one Postgres installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    directory: PathBuf,
    version: u32,
}

impl Binaries {
    /// Uses the given directory, or the one in `ROSTER_POSTGRES_BIN`. Otherwise searches `PATH` and the directories of
    /// Debian and Homebrew, newest version first.
    ///
    /// # Errors
    /// [`Error::NotAServer`] for a given directory, [`Error::NotInstalled`], [`Error::TooOld`].
    pub fn find(directory: Option<&Path>) -> Result<Self, Error> {
        let configured =
            directory.map(Path::to_owned).or_else(|| std::env::var_os("ROSTER_POSTGRES_BIN").map(PathBuf::from));
        if let Some(directory) = configured {
            let binaries = Self::inspect(&directory).ok_or(Error::NotAServer(directory))?;
            return if binaries.version >= OLDEST { Ok(binaries) } else { Err(binaries.too_old()) };
        }
        let mut too_old = None;
        for binaries in directories().iter().filter_map(|directory| Self::inspect(directory)) {
            if binaries.version >= OLDEST {
                return Ok(binaries);
            }
            too_old.get_or_insert(binaries);
        }
        Err(too_old.map_or(Error::NotInstalled { oldest: OLDEST, install: INSTALL }, Self::too_old))
    }

    /// The directory of the programs.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The major version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A command for one of the programs. It does not inherit the environment, because a `PGPORT` or a locale that is
    /// not installed would change its behaviour.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.directory.join(program));
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
        command
    }

    /// The programs in this directory; `None` if it holds no server or `postgres --version` fails.
    fn inspect(directory: &Path) -> Option<Self> {
        // Absolute, because the programs run in another working directory.
        let directory = std::path::absolute(directory).ok()?;
        if !directory.join("initdb").is_file() {
            return None;
        }
        let unknown = Self { directory, version: 0 };
        let output = unknown.command("postgres").arg("--version").output().ok()?;
        let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { version, ..unknown })
    }

    fn too_old(self) -> Error {
        Error::TooOld { directory: self.directory, version: self.version, oldest: OLDEST, install: INSTALL }
    }
}

/// The major version in a line such as `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` or `… 19beta1`.
pub(super) fn parse_version(line: &str) -> Option<u32> {
    let version = line.trim().strip_prefix("postgres (PostgreSQL) ")?;
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// The directories to search, in this order.
fn directories() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.extend(numbered("/usr/lib/postgresql", "").into_iter().map(|directory| directory.join("bin")));
    for opt in ["/opt/homebrew/opt", "/usr/local/opt"] {
        directories.extend(numbered(opt, "postgresql@").into_iter().map(|directory| directory.join("bin")));
    }
    directories
}

/// The subdirectories whose name is the prefix and a number, the highest first.
fn numbered(directory: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut numbered: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?, entry.path())))
        .collect();
    numbered.sort_unstable_by(|one, other| other.cmp(one));
    numbered.into_iter().map(|(_, path)| path).collect()
}
