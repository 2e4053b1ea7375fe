//! The `pgtandem` command.

fn main() {}
