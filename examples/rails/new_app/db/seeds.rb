# The new application begins empty: what the legacy one has comes from there.
