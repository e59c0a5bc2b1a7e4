-- Who leads, for a catalogue that several coordinators share: one row, written by the server's clock.
CREATE TABLE leases (
    name       TEXT   NOT NULL PRIMARY KEY,
    term       BIGINT NOT NULL,
    holder     TEXT   NOT NULL,
    address    TEXT   NOT NULL,
    expires_ms BIGINT NOT NULL
);

-- What all who share the catalogue must agree on: where the warehouse is.
CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- A commit that was decided on, JSON: whoever leads next carries it out, so that it never comes as a surprise.
ALTER TABLE builds ADD COLUMN intent TEXT;

-- Statements that wait for their turn, so that a person sees why.
CREATE TABLE waiting (
    ticket   TEXT   NOT NULL PRIMARY KEY,
    object   TEXT   NOT NULL,
    reason   TEXT   NOT NULL,
    since_ms BIGINT NOT NULL
);
