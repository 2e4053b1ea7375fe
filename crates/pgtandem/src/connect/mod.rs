//! Reaching a server the way libpq does.
