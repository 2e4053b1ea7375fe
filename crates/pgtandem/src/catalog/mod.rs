//! What a node's catalog says about tables, keys, sequences, triggers, settings and privileges.
