-- What both sides update, and what both sides add to.
CREATE TABLE items (
    id         int PRIMARY KEY,
    stock      int NOT NULL DEFAULT 0,
    name       text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT '2000-01-01'
);
CREATE TABLE events (
    id     bigserial PRIMARY KEY,
    item   int NOT NULL,
    amount int NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);
INSERT INTO items (id, name) SELECT i, repeat('item ' || i || ' ', 5) FROM generate_series(1, 20000) AS i;
