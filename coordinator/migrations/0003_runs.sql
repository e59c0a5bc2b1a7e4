-- Runs of schedules: one for each corpus and logical time, for ever, so that none is made twice.
CREATE TABLE runs (
    corpus      TEXT   NOT NULL,
    logical_ms  BIGINT NOT NULL,
    state       TEXT   NOT NULL,
    cause       TEXT   NOT NULL,
    attempts    BIGINT NOT NULL,
    due_ms      BIGINT NOT NULL,
    started_ms  BIGINT,
    finished_ms BIGINT,
    note        TEXT,
    PRIMARY KEY (corpus, logical_ms)
);
CREATE INDEX runs_by_state ON runs (state);
