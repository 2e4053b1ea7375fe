//! SQL text with names in it is built here and nowhere else.
