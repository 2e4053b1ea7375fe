//! How changes are read off a node.
