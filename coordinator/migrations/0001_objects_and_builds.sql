-- Plain SQL that SQLite and PostgreSQL both take: TEXT and BIGINT, times in milliseconds since the epoch.
CREATE TABLE objects (
    space      TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    sql        TEXT   NOT NULL,
    origin     TEXT   NOT NULL,
    base_dir   TEXT   NOT NULL,
    settings   TEXT   NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    PRIMARY KEY (space, name)
);

CREATE TABLE builds (
    id           TEXT   NOT NULL PRIMARY KEY,
    object       TEXT   NOT NULL,
    kind         TEXT   NOT NULL,
    state        TEXT   NOT NULL,
    sql          TEXT   NOT NULL,
    sql_digest   TEXT   NOT NULL,
    fingerprint  TEXT   NOT NULL,
    logical_ms   BIGINT NOT NULL,
    version      BIGINT,
    started_ms   BIGINT NOT NULL,
    finished_ms  BIGINT,
    row_count    BIGINT,
    byte_count   BIGINT,
    digest       TEXT,
    files        TEXT,
    expectations TEXT   NOT NULL,
    error        TEXT
);
CREATE INDEX builds_of_object ON builds (object, started_ms);

CREATE TABLE steps (
    build   TEXT   NOT NULL,
    seq     BIGINT NOT NULL,
    name    TEXT   NOT NULL,
    report  TEXT   NOT NULL,
    PRIMARY KEY (build, seq)
);
