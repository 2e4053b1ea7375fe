//! `pgtandem demo`: the main job, on two servers it starts itself.
