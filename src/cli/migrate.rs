//! `roster migrate`: brings the schema up to date, and raises the epoch of a database that was restored.

use super::CliError;
use crate::config::{self, DatastoreFlags, Environment};
use crate::store::migrations;
use crate::store::place::PlaceCheck;

#[derive(clap::Args)]
pub(super) struct MigrateFlags {
    #[command(flatten)]
    datastore: DatastoreFlags,
    /// Raise the epoch, because the database was restored to an earlier state: needed after a point-in-time restore, and
    /// after a failover that lost commits while no server ran
    #[arg(long)]
    after_restore: bool,
}

pub(super) fn run(flags: &MigrateFlags) -> Result<(), CliError> {
    super::start_log()?;
    let (datastore, warnings) = config::read_datastore(&flags.datastore, &Environment::of_process())?;
    super::log_warnings(&warnings);
    let mut is_newer = false;
    super::run_to_end(async {
        let report = migrations::migrate_and_check(&datastore, flags.after_restore).await?;
        is_newer = !report.newer.is_empty();
        if is_newer {
            super::print_message(&format!(
                "warning: the database has migrations of a newer release of roster ({}): nothing was migrated",
                report.newer.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
            ));
        }
        print_place(report.place)
    })?;
    super::print_result(if is_newer {
        "The schema is newer than this release, which works with it."
    } else {
        "The schema is up to date."
    })
}

fn print_place(place: PlaceCheck) -> Result<(), CliError> {
    match place {
        PlaceCheck::Unchanged => Ok(()),
        PlaceCheck::Moved(epoch) => super::print_result(&format!(
            "The database is in another place than before (another Postgres cluster, or another database in it), as \
             after a restore: its epoch was raised from {} to {epoch}.",
            epoch - 1
        )),
        PlaceCheck::Restored(epoch) => super::print_result(&format!(
            "The epoch was raised from {} to {epoch}, because the database was restored.",
            epoch - 1
        )),
        PlaceCheck::Unknown => super::print_result(
            "The place of the database is unknown, because the role may not call pg_control_system(): run \
             `roster migrate --after-restore` after every restore.",
        ),
    }
}
