-- Two tables with a foreign key between them and a secondary unique index, and one with values that go to TOAST.
CREATE TABLE customers (
    id     bigserial PRIMARY KEY,
    email  text NOT NULL UNIQUE,
    name   text NOT NULL,
    orders int NOT NULL DEFAULT 0
);
CREATE TABLE orders (
    id         bigserial PRIMARY KEY,
    customer   bigint NOT NULL REFERENCES customers,
    amount     numeric(12, 2) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    attributes jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX ON orders (customer);
CREATE TABLE documents (
    id      bigserial PRIMARY KEY,
    title   text NOT NULL,
    version int NOT NULL DEFAULT 1,
    body    text NOT NULL
);
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO customers (email, name)
SELECT 'customer' || i || '@example.org', 'Customer ' || i FROM generate_series(1, 10000) AS i;
INSERT INTO documents (title, body)
SELECT 'Document ' || i, repeat(md5(i::text), 200) FROM generate_series(1, 500) AS i;
