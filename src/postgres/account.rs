//! The operating system account that Postgres runs as.

use super::{Error, io};
use nix::unistd::{Gid, Uid, User, chown};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The account that Postgres runs as if roster runs as root.
#[derive(Debug, Clone)]
pub(super) struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// The account, if roster runs as root; otherwise `None`, and Postgres runs as the same user as roster.
    pub(super) fn needed() -> Result<Option<Self>, Error> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let name = std::env::var("ROSTER_POSTGRES_USER").unwrap_or_else(|_| "postgres".to_owned());
        match User::from_name(&name) {
            Ok(Some(user)) if !user.uid.is_root() => Ok(Some(Self { name, uid: user.uid, gid: user.gid })),
            _ => Err(Error::NoAccount(name)),
        }
    }

    /// Makes the command run as this account, without root's groups (the standard library drops them with the uid).
    pub(super) fn drop_to(&self, command: &mut Command) {
        command.uid(self.uid.as_raw()).gid(self.gid.as_raw());
    }

    /// Makes the account the owner of a file or directory.
    pub(super) fn make_owner(&self, path: &Path) -> Result<(), Error> {
        chown(path, Some(self.uid), Some(self.gid)).map_err(|errno| io("change the owner of", path)(errno.into()))
    }

    /// Checks that the account can reach the contents of this directory: it needs the execute permission on the
    /// directory and on each of its ancestors.
    pub(super) fn check_access(&self, directory: &Path) -> Result<(), Error> {
        let directory = directory.canonicalize().map_err(io("read", directory))?;
        let mut ancestors: Vec<&Path> = directory.ancestors().collect();
        ancestors.reverse();
        for ancestor in ancestors {
            let metadata = ancestor.metadata().map_err(io("read", ancestor))?;
            let execute = match () {
                () if metadata.uid() == self.uid.as_raw() => 0o100,
                () if metadata.gid() == self.gid.as_raw() => 0o010,
                () => 0o001,
            };
            if metadata.mode() & execute == 0 {
                return Err(Error::Unreachable { directory: ancestor.to_owned(), account: self.name.clone() });
            }
        }
        Ok(())
    }
}
