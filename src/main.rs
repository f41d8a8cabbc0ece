//! The program: a sub-command in, an exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    match roster::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            roster::cli::report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
