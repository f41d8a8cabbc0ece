//! Where the programs are.

use super::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest version whose behaviour roster relies on.
const OLDEST: u32 = 15;
const INSTALL: &str =
    if cfg!(target_os = "macos") { "brew install postgresql@17" } else { "sudo apt-get install -y postgresql" };

/// The programs of one Postgres server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    directory: PathBuf,
    version: u32,
}

impl Binaries {
    /// Takes the directory that is named, else the one in `ROSTER_POSTGRES_BIN`, else looks through `PATH` and the places
    /// of Debian and Homebrew, newest version first.
    ///
    /// # Errors
    /// [`Error::NotAServer`] for a named directory, [`Error::NotInstalled`], [`Error::TooOld`].
    pub fn find(named: Option<&Path>) -> Result<Self, Error> {
        let named = named.map(Path::to_owned).or_else(|| std::env::var_os("ROSTER_POSTGRES_BIN").map(PathBuf::from));
        if let Some(directory) = named {
            let found = Self::inspect(&directory).ok_or(Error::NotAServer(directory))?;
            return if found.version >= OLDEST { Ok(found) } else { Err(found.too_old()) };
        }
        let mut too_old = None;
        for found in places().iter().filter_map(|directory| Self::inspect(directory)) {
            if found.version >= OLDEST {
                return Ok(found);
            }
            too_old.get_or_insert(found);
        }
        Err(too_old.map_or(Error::NotInstalled { oldest: OLDEST, install: INSTALL }, Self::too_old))
    }

    /// The directory that holds them.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Their major version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// One of them, ready to be given arguments. It sees nothing of our environment: a `PGPORT` or a locale that is not
    /// installed must not change what it does.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.directory.join(program));
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
        command
    }

    fn inspect(directory: &Path) -> Option<Self> {
        // Absolute, because the programs are run from elsewhere.
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

/// The major version in, for instance, `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` or `… 19beta1`.
pub(super) fn parse_version(line: &str) -> Option<u32> {
    let version = line.trim().strip_prefix("postgres (PostgreSQL) ")?;
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

fn places() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(numbered("/usr/lib/postgresql", "").into_iter().map(|directory| directory.join("bin")));
    for opt in ["/opt/homebrew/opt", "/usr/local/opt"] {
        places.extend(numbered(opt, "postgresql@").into_iter().map(|directory| directory.join("bin")));
    }
    places
}

/// The directories in this one whose name is this prefix and a number, the highest first.
fn numbered(directory: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?, entry.path())))
        .collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    found.into_iter().map(|(_, path)| path).collect()
}
