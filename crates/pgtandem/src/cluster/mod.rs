//! PostgreSQL servers of our own, in a temporary directory: for the demo, the tests and the bench.
