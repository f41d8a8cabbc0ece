//! `roster migrate`.

use super::Error;
use crate::config::{self, DatastoreFlags};
use crate::store::pool;

pub(super) fn run(flags: &DatastoreFlags) -> Result<(), Error> {
    let datastore = config::read_datastore(flags, &config::environment)?;
    super::run_to_end(async { Ok(pool::migrate(&datastore).await?) })?;
    super::answer("The schema is up to date.")
}
