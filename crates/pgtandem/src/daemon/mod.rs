//! `pgtandem run`: the process that owns the hub, the captures and the deliveries.
