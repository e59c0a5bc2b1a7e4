-- Posts and moderators' votes become a corpus that a classifier trains on.
--
--   corpusmill generate --posts 20000 --out input
--   corpusmill run moderation.sql
--
-- `make demo` does both, and then runs train.py. Paths are relative to the folder that the command runs in.

-- 1. Sources: a folder of files is a table.
CREATE EXTERNAL TABLE IF NOT EXISTS posts            STORED AS PARQUET LOCATION 'input/posts/';
CREATE EXTERNAL TABLE IF NOT EXISTS votes            STORED AS PARQUET LOCATION 'input/votes/';
CREATE EXTERNAL TABLE IF NOT EXISTS policy_map       STORED AS PARQUET LOCATION 'input/policy_map/';
CREATE EXTERNAL TABLE IF NOT EXISTS erasure_requests STORED AS PARQUET LOCATION 'input/erasure_requests/';

CREATE TOKENIZER IF NOT EXISTS wordpiece WITH (uri = 'input/tokenizer.json', max_length = 128);

-- 2. Clean: one Unicode form, no invisible characters, no personal data.
CREATE OR REPLACE VIEW clean AS
SELECT post_id, user_id, created_at,
       pii_redact(normalize_text(body, 'NFKC'), 'email,phone,ip,credit_card') AS body,
       lang_id(body)['lang'] AS lang
FROM posts;

-- 3. Labels: each vote as the newest policy would call it, then the majority. A tie goes to the first by name, and its
--    low agreement sends it to quarantine below.
CREATE OR REPLACE VIEW decisions AS
SELECT v.post_id, m.to_decision AS decision, count(*) AS votes
FROM votes v
JOIN policy_map m ON m.from_policy = v.policy_version AND m.from_decision = v.decision
GROUP BY v.post_id, m.to_decision;

CREATE OR REPLACE VIEW labels AS
SELECT post_id, decision AS label, votes, total, CAST(votes AS DOUBLE) / total AS agreement
FROM (SELECT *, sum(votes) OVER (PARTITION BY post_id) AS total,
             row_number() OVER (PARTITION BY post_id ORDER BY votes DESC, decision) AS place
      FROM decisions)
WHERE place = 1;

CREATE OR REPLACE VIEW labelled AS
SELECT c.*, l.label, l.agreement,
       CASE l.label WHEN 'ok' THEN 0 WHEN 'spam' THEN 1 WHEN 'scam' THEN 2 WHEN 'harassment' THEN 3 WHEN 'hate' THEN 4 END
           AS label_id
FROM clean c LEFT JOIN labels l ON l.post_id = c.post_id;

-- 4. Duplicates are marked, not removed: what is dropped below is counted under a name.
CREATE MATERIALIZED VIEW IF NOT EXISTS deduplicated AS
SELECT * FROM exact_duplicates(TABLE labelled, key => 'post_id', columns => ['body'], keep => 'agreement DESC, created_at');

-- 5. Train, valid and test: one user, and one cluster of duplicates, is in one of them only.
CREATE OR REPLACE VIEW divided AS
SELECT * FROM assign_split(TABLE deduplicated, key => 'post_id', groups => ['user_id', 'dup_cluster_id'],
                           ratios => 'train=0.8,valid=0.1,test=0.1', salt => 'v1');

-- 6. The corpus, behind its gates.
CREATE OR REFRESH CORPUS mod_text (
  PRIMARY KEY (post_id),
  CONSTRAINT has_label      EXPECT (label IS NOT NULL)       ON VIOLATION DROP ROW,
  CONSTRAINT representative EXPECT (dup_is_representative)   ON VIOLATION DROP ROW,
  CONSTRAINT not_erased     EXPECT (NOT erased)              ON VIOLATION DROP ROW,
  CONSTRAINT agreed         EXPECT (agreement >= 0.6)        ON VIOLATION QUARANTINE ROW,
  CONSTRAINT not_empty      EXPECT (tokens BETWEEN 3 AND 128) ON VIOLATION QUARANTINE ROW,
  CONSTRAINT enough_rows    EXPECT CORPUS (count(*) >= 500) ON VIOLATION FAIL BUILD,
  CONSTRAINT hate_share     EXPECT CORPUS (avg(CASE WHEN label = 'hate' THEN 1.0 ELSE 0.0 END) BETWEEN 0.01 AND 0.20)
                                                             ON VIOLATION FAIL BUILD,
  CONSTRAINT no_leak        EXPECT CORPUS (leakage('user_id', 'dup_cluster_id') = 0) ON VIOLATION FAIL BUILD,
  CONSTRAINT drift          EXPECT CORPUS (psi('label', previous()) < 0.2)           ON VIOLATION WARN
)
PARTITIONED BY (split)
WITH (shards = 4)
AS
SELECT post_id, user_id, created_at, split, lang, label, label_id, agreement, dup_cluster_id, dup_is_representative,
       e.requested IS NOT NULL AS erased,
       token_count(body, 'wordpiece') AS tokens,
       tokenize(body, 'wordpiece') AS input_ids
FROM divided d
LEFT JOIN (SELECT DISTINCT user_id AS requested FROM erasure_requests) e ON e.requested = d.user_id;

-- 7. Look at it.
SELECT split, label, count(*) AS rows, round(avg(tokens), 1) AS tokens, count(DISTINCT lang) AS languages
FROM mod_text GROUP BY split, label ORDER BY split, label;
