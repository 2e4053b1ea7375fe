//! What a session of the hub sets before anything else.

/// Values leave and enter every node as text, so both sides must spell them alike, whatever the role's, the
/// database's or the server's own settings are. Nor may a limit that is meant for the application end us.
pub const SPELLING: [(&str, &str); 18] = [
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("TimeZone", "UTC"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("search_path", ""),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("array_nulls", "on"),
];

/// A delivery finds rows by primary key; nothing else is a good plan for it, and planning once is enough.
/// It commits without waiting for the disk: what a server loses in a crash, its stream never showed either (and no read
/// of its outbox has passed), and the hub delivers it again.
pub const DELIVERY: [(&str, &str); 7] = [
    ("synchronous_commit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("row_security", "off"),
];
