//! `pgtandem.toml`: reading it, and saying what is wrong with it.
