//! `roster access-model`: prints, compares and replaces the access model, the roles and permissions of the deployment.
//!
//! Everything that needs no datastore comes first: a mistake in the command line, in the settings or in the file ends the
//! program with exit code 2 before a connection is opened.

use super::CliError;
use crate::config::{self, DatastoreFlags, Environment};
use crate::domain::Invalid;
use crate::domain::access_model::file::{FileFormat, ModelFileError};
use crate::domain::access_model::{AccessModel, ModelPlan};
use crate::store::datastore_url::DatastoreUrl;
use crate::store::pool::Pool;
use crate::store::{StoreError, access_model, in_time};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of a model file. A model has at most 960 KiB as compact JSON; comments and indentation multiply that.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

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
    /// What replaces a role or a permission that FILE removes and that is in use: members with the role OLD get the role
    /// NEW, and roles of organizations with the permission OLD the permission NEW; can be given more than once
    #[arg(long = "replace", value_name = "OLD=NEW", value_parser = Replacement::parse)]
    replacements: Vec<Replacement>,
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
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PrintFormat {
    Toml,
    Json,
}

/// What takes the place of a role or a permission that is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Replacement {
    former: String,
    replacement: String,
}

impl Replacement {
    fn parse(text: &str) -> Result<Self, Invalid> {
        match text.split_once('=') {
            Some((former, replacement)) if !former.is_empty() && !replacement.is_empty() && former != replacement => {
                Ok(Self { former: former.to_owned(), replacement: replacement.to_owned() })
            }
            _ => Err(Invalid::new("write OLD=NEW, the names of two different roles or permissions")),
        }
    }
}

pub(super) fn run(flags: &AccessModelFlags) -> Result<(), CliError> {
    super::start_log()?;
    match &flags.command {
        ModelCommand::Show { target, format } => {
            let target = target.read()?;
            super::run_to_end(async { show(&read_stored(&target).await?, *format) })
        }
        ModelCommand::Diff { target, file } => {
            let (target, model) = (target.read()?, read_model(&file.file)?);
            super::run_to_end(async { diff(&read_stored(&target).await?, &model, &file.file) })
        }
        ModelCommand::Apply { target, file, options } => {
            let (target, model) = (target.read()?, read_model(&file.file)?);
            super::run_to_end(async { report(&apply(&target, &model, options).await?, options) })
        }
        ModelCommand::Enable { target } => {
            let target = target.read()?;
            super::run_to_end(async {
                super::print_result(if enable(&target).await? {
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
        if let (Some(url), Some(path)) = (&self.server, &self.credential_file) {
            let credential = std::fs::read_to_string(path);
            let credential = credential.map_err(|source| CliError::File { path: path.clone(), source })?;
            return Ok(ModelTarget::Server { url: url.clone(), credential: credential.trim().into() });
        }
        let (datastore, warnings) = config::read_datastore(&self.datastore, &Environment::of_process())?;
        super::log_warnings(&warnings);
        Ok(ModelTarget::Datastore(datastore))
    }
}

fn show(stored: &ModelVersion, format: PrintFormat) -> Result<(), CliError> {
    let format = match format {
        PrintFormat::Toml => FileFormat::Toml,
        PrintFormat::Json => FileFormat::Json,
    };
    super::print_result(format.print(&stored.model).trim_end())
}

fn diff(stored: &ModelVersion, model: &AccessModel, file: &Path) -> Result<(), CliError> {
    let plan = ModelPlan::between(&stored.model, model);
    print_plan(&plan)?;
    if plan.is_empty() {
        super::print_message(&format!("No difference from revision {}.", stored.revision));
        return Ok(());
    }
    Err(CliError::ModelDiffers { file: file.to_owned(), revision: stored.revision })
}

fn report(applied: &AppliedPlan, options: &ApplyFlags) -> Result<(), CliError> {
    print_plan(&applied.plan)?;
    super::print_message(&match (applied.plan.is_empty(), options.dry_run) {
        (true, _) => format!("No difference from revision {}: nothing was changed.", applied.revision),
        (false, true) => "Nothing was changed, because of --dry-run.".to_owned(),
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
fn read_model(path: &Path) -> Result<AccessModel, CliError> {
    let is_standard_input = path == Path::new("-");
    let text = if is_standard_input { read_text(io::stdin().lock()) } else { File::open(path).and_then(read_text) };
    let text = text.map_err(|source| CliError::File { path: path.to_owned(), source })?;
    let format = if is_standard_input { FileFormat::of_text(&text) } else { FileFormat::of_path(path) };
    let mistake = |error: ModelFileError| CliError::ModelFile { path: path.to_owned(), mistakes: error.to_string() };
    format.parse(&text).map_err(mistake)
}

fn read_text(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    let bytes = source.take(FILE_BYTES + 1).read_to_string(&mut text)?;
    let is_larger = u64::try_from(bytes).is_ok_and(|bytes| bytes > FILE_BYTES);
    if is_larger { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

// What follows talks to the datastore or to a server.

/// Where the access model is. It may hold a password or a credential, so it implements no `Debug`.
enum ModelTarget {
    /// The database of the settings.
    Datastore(DatastoreUrl),
    /// A server, and a credential for it.
    Server { url: String, credential: Box<str> },
}

/// The stored model.
struct ModelVersion {
    model: AccessModel,
    revision: i64,
}

/// What a replacement of the model has changed, or would change.
struct AppliedPlan {
    plan: ModelPlan,
    /// The revision of the stored model now.
    revision: i64,
}

/// Time limit of a statement: a lock of the model is held for as long as a server applies one.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads the stored model, for `show` and `diff`.
async fn read_stored(target: &ModelTarget) -> Result<ModelVersion, CliError> {
    let ModelTarget::Datastore(datastore) = target else { return Err(unavailable(target)) };
    let mut connection = Pool::new(datastore.clone(), 1).acquire().await?;
    let stored = in_time(STATEMENT_TIMEOUT, access_model::current(&mut connection)).await;
    let stored = connection.finish(stored)?;
    let model = AccessModel::from_stored(&stored.model).map_err(StoreError::from)?;
    Ok(ModelVersion { model, revision: stored.revision })
}

/// Replaces the stored model, for `apply`. A dry run changes nothing.
async fn apply(target: &ModelTarget, model: &AccessModel, options: &ApplyFlags) -> Result<AppliedPlan, CliError> {
    // A use case of the service, with the counts of what the change touches.
    let ApplyFlags { dry_run: _, replacements: _, older_clients_gone: _ } = options;
    let _ = model;
    std::future::ready(Err(unavailable(target))).await
}

/// Confirms that every server is of this release or newer, for `enable`. Returns false if that was confirmed before.
async fn enable(target: &ModelTarget) -> Result<bool, CliError> {
    let ModelTarget::Datastore(datastore) = target else { return Err(unavailable(target)) };
    let mut connection = Pool::new(datastore.clone(), 1).acquire().await?;
    let enabled = in_time(STATEMENT_TIMEOUT, access_model::enable(&mut connection)).await;
    Ok(connection.finish(enabled)?)
}

/// The error of a part that is not built yet.
fn unavailable(target: &ModelTarget) -> CliError {
    CliError::NoAccessModel {
        place: match target {
            ModelTarget::Datastore(_) => "the database".to_owned(),
            ModelTarget::Server { url, credential } => {
                format!("the server {url}, with a credential of {} bytes,", credential.len())
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

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
            &["apply", "a.json", "--dry-run", "--replace", "a=b", "--replace", "c.d=e.f", "--older-clients-gone"],
            &["apply", "a", "--server", "http://[::1]:1", "--credential-file", "key"],
            &["enable"],
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
            &["enable", "a"],
            &["show", "--server", "http://a"],
            &["show", "--credential-file", "key"],
            &["show", "--server", "http://a", "--credential-file", "key", "--database-url", "postgres://b/c"],
            &["show", "--server", "http://a", "--credential-file", "key", "--config", "c"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let Ok(ModelCommand::Apply { options, .. }) = parse(&["apply", "a", "--replace", "a=org:b=c"]) else {
            panic!("not parsed");
        };
        let expected = Replacement { former: "a".to_owned(), replacement: "org:b=c".to_owned() };
        assert_eq!((options.replacements, options.dry_run), (vec![expected], false));
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
        let stored = ModelVersion { model: AccessModel::default(), revision: 7 };
        let model = FileFormat::Toml.parse("[[roles]]\nname = 'a'").unwrap();
        assert!(diff(&stored, &AccessModel::default(), Path::new("a.toml")).is_ok());
        let error = diff(&stored, &model, Path::new("a.toml")).unwrap_err();
        assert_eq!(
            (error.exit_code(), error.to_string()),
            (3, "a.toml differs from revision 7 of the access model".to_owned())
        );
    }
}
