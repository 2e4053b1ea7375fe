//! The replication connection and the pgoutput decoder.
