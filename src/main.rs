//! The program: a sub-command in, an exit code out.

use std::process::ExitCode;

/// A call makes some dozens of small allocations, nearly all freed by the thread that made them: what this one is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match roster::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            roster::cli::report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
