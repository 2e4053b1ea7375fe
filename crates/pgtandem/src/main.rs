//! The `pgtandem` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgtandem::cli::main()
}
