//! What pgtandem keeps on a node: the schema `pgtandem` and its rows.
