//! The data directory of `roster dev`: its Postgres, its signing key, its mails.

use super::CliError;
use crate::authn::mint::SigningKey;
use crate::authn::settings::{AuthSettings, IssuerSettings};
use crate::config;
use crate::domain::Scope;
use crate::mail::settings::{MailKind, MailSettings};
use nix::unistd::Uid;
use std::fs::{File, Permissions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The `iss` claim of the bearer tokens of `roster dev`.
pub(super) const ISSUER: &str = "roster-dev";
/// The `aud` claim of these tokens.
pub(super) const AUDIENCE: &str = "roster";

/// The path of the data directory.
pub(super) struct DataDirectory(PathBuf);

/// An exclusive lock on the data directory: while it exists, no other `roster dev` can use the directory.
pub(super) struct DirectoryLock {
    _file: File,
}

impl DataDirectory {
    /// Chooses the directory: the one of the flag; for root `/var/lib/roster-dev`, because Postgres must run as another
    /// account, which may not enter root's home directory; for other users a directory in their home directory.
    pub(super) fn find(flag: Option<&PathBuf>) -> Result<Self, CliError> {
        if let Some(path) = flag {
            return std::path::absolute(path).map(Self).map_err(file(path));
        }
        if Uid::effective().is_root() {
            return Ok(Self(PathBuf::from("/var/lib/roster-dev")));
        }
        let data = config::environment("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let in_home = || Some(PathBuf::from(config::environment("HOME")?).join(".local/share"));
        let data = data.or_else(in_home).ok_or(CliError::NoHome)?;
        Ok(Self(data.join("roster-dev")))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The data directory of Postgres.
    pub(super) fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }

    /// Settings that write each mail to a file in the data directory, for inspection.
    pub(super) fn mail(&self) -> MailSettings {
        MailSettings {
            kind: MailKind::Directory,
            from: Some("roster <roster@localhost>".to_owned()),
            link_base_url: Some("http://127.0.0.1/invitation?token={token}".to_owned()),
            directory: Some(self.0.join("mail")),
            ..MailSettings::off()
        }
    }

    /// Creates the directory if it does not exist, and locks it for this process.
    pub(super) fn lock(&self) -> Result<DirectoryLock, CliError> {
        if !self.0.exists() {
            std::fs::create_dir_all(&self.0).map_err(file(&self.0))?;
            // If roster runs as root, the account of Postgres must be able to pass through.
            let mode = if Uid::effective().is_root() { 0o711 } else { 0o700 };
            std::fs::set_permissions(&self.0, Permissions::from_mode(mode)).map_err(file(&self.0))?;
        }
        let path = self.0.join("lock");
        // Truncated only after it is locked: until then it holds the process id of the owner.
        let mut lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(file(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let process = std::fs::read_to_string(&path).ok().map(|process| process.trim().to_owned());
                return Err(CliError::DirectoryInUse {
                    directory: self.0.clone(),
                    process: process.filter(|id| !id.is_empty()),
                });
            }
            Err(TryLockError::Error(source)) => return Err(CliError::File { path, source }),
        }
        let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(file(&path))?;
        Ok(DirectoryLock { _file: lock })
    }

    /// Loads the signing key.
    pub(super) fn signing_key(&self) -> Result<SigningKey, CliError> {
        let path = self.signing_key_path();
        match SigningKey::load(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(CliError::NoSigningKey(self.0.clone())),
            loaded => loaded.map_err(file(&path)),
        }
    }

    /// Loads the signing key, or generates one. The caller must hold the lock, so that two processes cannot both
    /// generate one.
    pub(super) fn make_signing_key(&self, _: &DirectoryLock) -> Result<SigningKey, CliError> {
        match self.signing_key() {
            Err(CliError::NoSigningKey(_)) => {}
            loaded => return loaded,
        }
        // Renamed when it is complete, so that a crash leaves no partial key.
        let (path, unfinished) = (self.signing_key_path(), self.0.join("signing-key.pem.unfinished"));
        let _ = std::fs::remove_file(&unfinished);
        let key = SigningKey::generate();
        key.save(&unfinished).and_then(|()| std::fs::rename(&unfinished, &path)).map_err(file(&path))?;
        Ok(key)
    }

    /// Settings that make a server accept bearer tokens signed with this key, with any scope.
    pub(super) fn trust(&self, key: &SigningKey) -> Result<AuthSettings, CliError> {
        let path = self.0.join("jwks.json");
        std::fs::write(&path, key.public_jwks().to_string()).map_err(file(&path))?;
        let issuer = IssuerSettings {
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            jwks_file: Some(path),
            keys: Vec::new(),
            hs256_secret_file: None,
            scopes: Scope::ALL.to_vec(),
            user_id_prefix: String::new(),
        };
        Ok(AuthSettings { issuers: vec![issuer], ..AuthSettings::default() })
    }

    fn signing_key_path(&self) -> PathBuf {
        self.0.join("signing-key.pem")
    }
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::File { path, source }
}
