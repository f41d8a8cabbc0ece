//! `roster access-model`: prints, compares and replaces the access model, the roles and permissions of the deployment.
//!
//! The commands work on the database, or on a server through its API; both apply the same rules. Everything that needs
//! neither comes first: a mistake in the command line, in the settings or in the file ends the program with exit code 2
//! before a connection is opened.

mod applied;
mod server;
mod target;

use super::CliError;
use crate::client::{ClientSettings, TokenSource};
use crate::config::model_file::{self, UnusableModelFile};
use crate::config::{self, DatastoreFlags, Environment, Mistakes};
use crate::domain::access_model::file::{FileFormat, ModelFileError};
use crate::domain::access_model::{AccessModel, ModelPlan};
use crate::domain::{Invalid, RoleName};
use applied::{AppliedPlan, ModelVersion};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use target::{ModelTarget, TIMEOUT};

#[derive(clap::Args)]
pub(super) struct AccessModelFlags {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(clap::Subcommand)]
enum ModelCommand {
    /// Print the access model, in a form that `apply` accepts
    Show {
        #[command(flatten)]
        target: TargetFlags,
        /// Format to print
        #[arg(long, value_enum, default_value_t = PrintFormat::Toml)]
        format: PrintFormat,
    },
    /// Print what FILE would change, as a patch; the exit code is 0 without a difference and 3 with one
    Diff {
        #[command(flatten)]
        target: TargetFlags,
        #[command(flatten)]
        file: FileFlags,
    },
    /// Replace the access model by that of FILE, and print the changes
    Apply {
        #[command(flatten)]
        target: TargetFlags,
        #[command(flatten)]
        file: FileFlags,
        #[command(flatten)]
        options: ApplyFlags,
    },
    /// Confirm, once, that every server is of this release or newer: custom roles and permissions are refused before
    Enable {
        #[command(flatten)]
        target: TargetFlags,
    },
}

#[derive(clap::Args)]
struct FileFlags {
    /// The access model: TOML in a file that ends in .toml, otherwise JSON; `-` reads standard input, in either
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(clap::Args)]
struct ApplyFlags {
    /// Print the changes, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The role NEW for the members with the role OLD, which FILE removes or takes from a kind; can be given more than once
    #[arg(long = "replace", value_name = "OLD=NEW", value_parser = RoleReplacement::parse)]
    replace: Vec<RoleReplacement>,
    /// Confirm that no client of an older release runs: they assume the built-in permissions of admin and member
    #[arg(long)]
    older_clients_gone: bool,
}

/// Where the access model is.
#[derive(clap::Args)]
struct TargetFlags {
    #[command(flatten)]
    datastore: DatastoreFlags,
    /// Send the request to the server at this URL, instead of the database
    #[arg(
        long,
        value_name = "URL",
        requires = "credential_file",
        conflicts_with_all = ["config", "database_url", "database_password_file"]
    )]
    server: Option<String>,
    /// File with the bearer token or the API key for the server: of an operator, or of a service with the scope model
    #[arg(long, value_name = "FILE", requires = "server")]
    credential_file: Option<PathBuf>,
    /// PEM file with the authorities that sign the certificate of the server [default: those that the platform trusts]
    #[arg(long, value_name = "FILE", requires = "server")]
    ca_file: Option<PathBuf>,
    /// PEM file with a client certificate, for a server that demands one
    #[arg(long, value_name = "FILE", requires = "server", requires = "key_file")]
    certificate_file: Option<PathBuf>,
    /// PEM file with the private key of the client certificate
    #[arg(long, value_name = "FILE", requires = "certificate_file")]
    key_file: Option<PathBuf>,
    /// Send the credential in plain text to a server on another machine, because the network encrypts
    #[arg(long, requires = "server")]
    allow_plaintext_credentials: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PrintFormat {
    Toml,
    Json,
}

/// A role that takes the place of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RoleReplacement {
    former: RoleName,
    new: RoleName,
}

impl RoleReplacement {
    fn parse(text: &str) -> Result<Self, Invalid> {
        let names = text.split_once('=').and_then(|(former, new)| {
            let names = (RoleName::parse_assignable(former).ok()?, RoleName::parse_assignable(new).ok()?);
            Some(names).filter(|(former, new)| former != new)
        });
        let (former, new) =
            names.ok_or_else(|| Invalid::new("write OLD=NEW, the names of two different roles of the deployment"))?;
        if [&former, &new].into_iter().any(RoleName::is_of_organization) {
            return Err(Invalid::new("a role of an organization, org:…, is no role of the deployment"));
        }
        if former == RoleName::ADMIN || former == RoleName::MEMBER {
            return Err(Invalid::new("admin and member always exist, so no role replaces them"));
        }
        Ok(Self { former, new })
    }
}

impl ApplyFlags {
    /// The replacements by the role that is replaced.
    fn replacements(&self) -> Result<BTreeMap<RoleName, RoleName>, CliError> {
        let mut replacements = BTreeMap::new();
        for RoleReplacement { former, new } in &self.replace {
            if replacements.insert(former.clone(), new.clone()).is_some() {
                let sentence =
                    format!("--replace: there are two replacements of the role {former}: remove one of them");
                return Err(Mistakes(vec![sentence]).into());
            }
        }
        Ok(replacements)
    }
}

pub(super) fn run(flags: &AccessModelFlags) -> Result<(), CliError> {
    super::start_log()?;
    match &flags.command {
        ModelCommand::Show { target, format } => {
            let target = target.read()?;
            super::run_to_end(async { show(&target.read().await?, *format) })
        }
        ModelCommand::Diff { target, file } => {
            let (target, model) = (target.read()?, read_model(&file.file)?);
            super::run_to_end(async { diff(&target.read().await?, &model, &file.file) })
        }
        ModelCommand::Apply { target, file, options } => {
            let (target, model) = (target.read()?, read_model(&file.file)?);
            options.replacements()?;
            super::run_to_end(async { report(&target.apply(&model, options).await?, options) })
        }
        ModelCommand::Enable { target } => {
            let target = target.read()?;
            super::run_to_end(async {
                super::print_result(if target.enable().await? {
                    "Custom roles and permissions are enabled."
                } else {
                    "Custom roles and permissions were enabled before."
                })
            })
        }
    }
}

impl TargetFlags {
    fn read(&self) -> Result<ModelTarget, CliError> {
        if let (Some(url), Some(credential)) = (&self.server, &self.credential_file) {
            return Ok(ModelTarget::Server(Box::new(self.client(url, credential)?)));
        }
        let (datastore, warnings) = config::read_datastore(&self.datastore, &Environment::of_process())?;
        super::log_warnings(&warnings);
        Ok(ModelTarget::Datastore(datastore))
    }

    /// The settings of the client for a server. No connection is opened.
    fn client(&self, url: &str, credential: &Path) -> Result<ClientSettings, CliError> {
        let credential = TokenSource::fixed(read_file(credential)?.trim())?;
        let mut settings = ClientSettings::new(url)?.with_timeout(TIMEOUT);
        if let Some(file) = &self.ca_file {
            settings = settings.with_ca(read_file(file)?)?;
        }
        if let (Some(certificate), Some(key)) = (&self.certificate_file, &self.key_file) {
            let (certificate, key) = (read_file(certificate)?, read_file(key)?);
            settings = settings.with_client_certificate(certificate, key)?;
        }
        if self.allow_plaintext_credentials {
            settings = settings.allow_plaintext_credentials();
        }
        Ok(settings.with_token(credential))
    }
}

fn read_file(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|source| CliError::File { path: path.to_owned(), source })
}

fn show(stored: &ModelVersion, format: PrintFormat) -> Result<(), CliError> {
    let format = match format {
        PrintFormat::Toml => FileFormat::Toml,
        PrintFormat::Json => FileFormat::Json,
    };
    if !stored.is_enabled {
        super::print_message(
            "Custom roles and permissions are not enabled: run `roster access-model enable` when every server is of this \
             release or newer.",
        );
    }
    super::print_result(format.print(&stored.model).trim_end())
}

fn diff(stored: &ModelVersion, model: &AccessModel, file: &Path) -> Result<(), CliError> {
    let plan = ModelPlan::between(&stored.model, model);
    print_plan(&plan)?;
    if plan.is_empty() {
        super::print_message(&format!("No difference from revision {}.", stored.revision));
        return Ok(());
    }
    Err(CliError::ModelDiffers { file: file.to_owned(), revision: stored.revision.clone() })
}

fn report(applied: &AppliedPlan, options: &ApplyFlags) -> Result<(), CliError> {
    print_plan(&applied.plan)?;
    for held in applied.uses.iter().filter(|held| held.count > 0) {
        super::print_message(&held.to_string());
    }
    for role in &applied.moving {
        super::print_message(&format!("The members of {role} hold the other role at once, and move later."));
    }
    super::print_message(&match (applied.plan.is_empty(), options.dry_run) {
        (true, _) => format!("No difference from revision {}: nothing was changed.", applied.revision),
        (false, true) => "Nothing was changed, because of --dry-run.".to_owned(),
        (false, false) if applied.moved > 0 => {
            format!(
                "The access model has the revision {}. {} member(s) got another role.",
                applied.revision, applied.moved
            )
        }
        (false, false) => format!("The access model has the revision {}.", applied.revision),
    });
    Ok(())
}

/// Prints the patch to standard output, and the warnings to standard error.
fn print_plan(plan: &ModelPlan) -> Result<(), CliError> {
    if !plan.is_empty() {
        super::print_result(plan.to_string().trim_end())?;
    }
    for warning in &plan.warnings {
        super::print_message(&format!("warning: {warning}"));
    }
    Ok(())
}

/// Reads a model from a file, or from standard input for `-`.
pub(super) fn read_model(path: &Path) -> Result<AccessModel, CliError> {
    let read = if path == Path::new("-") { read_standard_input() } else { model_file::read(path) };
    read.map_err(|error| match error {
        UnusableModelFile::Read(source) => CliError::File { path: path.to_owned(), source },
        UnusableModelFile::Model(error) => CliError::ModelFile { path: path.to_owned(), mistakes: error.to_string() },
    })
}

fn read_standard_input() -> Result<AccessModel, UnusableModelFile> {
    let text = model_file::read_text(io::stdin().lock())?;
    let model: Result<_, ModelFileError> = FileFormat::of_text(&text).parse(&text);
    Ok(model?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model_file::{FILE_BYTES, read_text};
    use clap::Parser;
    use std::io::Read;

    #[derive(Parser)]
    struct TestCommand {
        #[command(flatten)]
        flags: AccessModelFlags,
    }

    fn parse(arguments: &[&str]) -> Result<ModelCommand, clap::Error> {
        let arguments = ["access-model"].iter().chain(arguments);
        TestCommand::try_parse_from(arguments).map(|command| command.flags.command)
    }

    #[test]
    fn the_command_line_is_checked() {
        for good in [
            &["show"][..],
            &["show", "--format", "json", "--database-url", "postgres://localhost/x"],
            &["diff", "model.toml"],
            &["diff", "-"],
            &["apply", "a.json", "--dry-run", "--replace", "a=b", "--replace", "c=member", "--older-clients-gone"],
            &["apply", "a", "--server", "http://[::1]:1", "--credential-file", "key"],
            &["enable"],
            &[
                "enable",
                "--server",
                "https://a",
                "--credential-file",
                "key",
                "--ca-file",
                "ca",
                "--certificate-file",
                "c",
                "--key-file",
                "k",
            ],
            &["show", "--server", "http://a", "--credential-file", "key", "--allow-plaintext-credentials"],
        ] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            &[][..],
            &["show", "model.toml"],
            &["show", "--format", "yaml"],
            &["diff"],
            &["diff", "a", "b"],
            &["diff", "a", "--dry-run"],
            &["apply"],
            &["apply", "a", "--replace", "b"],
            &["apply", "a", "--replace", "b="],
            &["apply", "a", "--replace", "b=b"],
            &["apply", "a", "--replace", "b=owner"],
            &["apply", "a", "--replace", "b=org:c"],
            &["apply", "a", "--replace", "org:b=c"],
            &["apply", "a", "--replace", "member=c"],
            &["apply", "a", "--replace", "b.c=d.e"],
            &["apply", "a", "--replace", "b=c=d"],
            &["enable", "a"],
            &["show", "--server", "http://a"],
            &["show", "--ca-file", "ca"],
            &["show", "--allow-plaintext-credentials"],
            &["show", "--server", "https://a", "--credential-file", "key", "--certificate-file", "c"],
            &["show", "--server", "https://a", "--credential-file", "key", "--key-file", "k"],
            &["show", "--credential-file", "key"],
            &["show", "--server", "http://a", "--credential-file", "key", "--database-url", "postgres://b/c"],
            &["show", "--server", "http://a", "--credential-file", "key", "--config", "c"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_role_has_one_replacement() {
        for (text, expected) in [("a=b", Some(1)), ("c=b", Some(2)), ("a=b", None), ("a=c", None)] {
            let arguments = ["apply", "f", "--replace", "a=b", "--replace", text];
            let arguments = if expected == Some(1) { &arguments[..4] } else { &arguments[..] };
            let Ok(ModelCommand::Apply { options, .. }) = parse(arguments) else { panic!("not parsed") };
            let replacements = options.replacements();
            assert_eq!(replacements.as_ref().ok().map(BTreeMap::len), expected, "{text}");
            assert!(replacements.err().is_none_or(|error| error.exit_code() == 2));
        }
    }

    #[test]
    fn the_settings_of_a_client_are_checked_without_a_connection() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (key, split) = (file("key", "secret\n"), file("split", "sec\nret"));
        let code = |arguments: &[&str]| {
            let Ok(ModelCommand::Show { target, .. }) = parse(&[&["show"], arguments].concat()) else {
                panic!("not parsed: {arguments:?}");
            };
            target.read().err().map(|error| error.exit_code())
        };
        let server = |url: &'static str| ["--server", url, "--credential-file", &*key];
        for url in ["http://127.0.0.1:1", "https://roster.internal", "unix:/run/roster.sock"] {
            assert_eq!(code(&server(url)), None, "{url}");
        }
        assert_eq!(code(&server("roster.internal:50051")), Some(2));
        assert_eq!(code(&["--server", "http://127.0.0.1:1", "--credential-file", "/missing"]), Some(1));
        assert_eq!(code(&["--server", "http://127.0.0.1:1", "--credential-file", &split]), Some(1));
        assert_eq!(code(&[&server("https://a")[..], &["--ca-file", &key]].concat()), Some(2));
        assert_eq!(code(&[&server("http://127.0.0.1:1")[..], &["--ca-file", &key]].concat()), Some(2));
    }

    #[test]
    fn a_file_is_read_by_its_name_and_its_mistakes_end_with_code_2() {
        let directory = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            read_model(&path)
        };
        let (toml, json) = (&b"[[roles]]\nname = 'a'"[..], &br#"{"roles": [{"name": "a"}]}"#[..]);
        let models = [("a.toml", toml), ("a.json", json), ("a", json)].map(|(name, text)| read(name, text).unwrap());
        assert!(models.iter().all(|model| *model == models[0] && model.role("a").is_some()));
        for (name, text, part, code) in [
            ("a.json", toml, "not valid JSON", 2),
            ("a.toml", json, "not valid TOML", 2),
            ("b.toml", b"[[roles]]\nname = 'owner'", "roles[0].name (\"owner\"): the owner always holds", 2),
            ("b.toml", b"\xff", "cannot use ", 1),
        ] {
            let error = read(name, text).unwrap_err();
            assert!(error.to_string().contains(part) && error.exit_code() == code, "{error}");
        }
        let missing = read_model(&directory.path().join("missing.toml")).unwrap_err();
        assert_eq!(missing.exit_code(), 1);
        let large = io::repeat(b' ').take(FILE_BYTES + 1);
        assert_eq!(read_text(large).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(read_text(io::repeat(b' ').take(FILE_BYTES)).is_ok());
    }

    #[test]
    fn a_difference_has_an_exit_code_of_its_own() {
        let stored = ModelVersion { model: AccessModel::default(), revision: "7".to_owned(), is_enabled: true };
        let model = FileFormat::Toml.parse("[[roles]]\nname = 'a'").unwrap();
        assert!(diff(&stored, &AccessModel::default(), Path::new("a.toml")).is_ok());
        let error = diff(&stored, &model, Path::new("a.toml")).unwrap_err();
        assert_eq!(
            (error.exit_code(), error.to_string()),
            (3, "a.toml differs from revision 7 of the access model".to_owned())
        );
    }
}
