//! The built-in types that are told apart here, by their OIDs, which are the same on every server.

pub const SMALLINT: u32 = 21;
pub const INTEGER: u32 = 23;
pub const BIGINT: u32 = 20;
pub const NUMERIC: u32 = 1700;
pub const REAL: u32 = 700;
pub const DOUBLE: u32 = 701;
pub const JSON: u32 = 114;
pub const JSONB: u32 = 3802;
pub const DATE: u32 = 1082;
pub const TIMESTAMP: u32 = 1114;
pub const TIMESTAMPTZ: u32 = 1184;
pub const INTERVAL: u32 = 1186;
pub const BPCHAR: u32 = 1042;
pub const TIME: u32 = 1083;
pub const TIMETZ: u32 = 1266;
