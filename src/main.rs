//! The program: runs a sub-command and exits with its code.

use std::process::ExitCode;

/// A call makes some dozens of small allocations, and the thread that made them frees nearly all of them. mimalloc is
/// fast for this pattern.
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
