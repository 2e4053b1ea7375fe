//! One delivery: one transaction on a target that writes canonical states.
