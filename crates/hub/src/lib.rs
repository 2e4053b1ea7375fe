//! pgtandem's deciding core.
