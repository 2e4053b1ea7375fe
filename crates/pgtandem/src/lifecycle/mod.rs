//! check, plan, up and down.
