//! The program. Everything it does is in the library, so that tests can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ccci_guard::run(std::env::args_os())
}
