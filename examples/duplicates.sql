-- Duplicates of every kind: how many were planted, how many are found.
--
--   corpusmill generate --posts 20000 --out input
--   corpusmill run duplicates.sql
--
-- Paths are relative to the folder that the command runs in.

CREATE EXTERNAL TABLE IF NOT EXISTS posts STORED AS PARQUET LOCATION 'input/posts/';
CREATE EXTERNAL TABLE IF NOT EXISTS truth STORED AS PARQUET LOCATION 'input/truth/posts/';

-- 1. Copies: the same text, to the byte.
CREATE MATERIALIZED VIEW IF NOT EXISTS exact AS
SELECT * FROM exact_duplicates(TABLE posts, key => 'post_id', columns => ['body'], keep => 'created_at');

-- 2. Edited copies: most of the text is the same. The oldest post stays.
CREATE MATERIALIZED VIEW IF NOT EXISTS near AS
SELECT * FROM near_duplicates(TABLE posts, key => 'post_id', text => 'body', threshold => 0.8, keep => 'created_at');

-- 3. The same with a lower bar: more edits are found, and more that only share a phrase.
CREATE MATERIALIZED VIEW IF NOT EXISTS nearer AS
SELECT * FROM near_duplicates(TABLE posts, key => 'post_id', text => 'body', threshold => 0.6, keep => 'created_at');

-- Planted and found, by kind. A copy is found when it is in the cluster of what it was made from.
SELECT t.kind, count(*) AS planted,
       count(*) FILTER (WHERE e.dup_cluster_id = eo.dup_cluster_id) AS exact,
       count(*) FILTER (WHERE n.dup_cluster_id = nn.dup_cluster_id) AS near_08,
       count(*) FILTER (WHERE m.dup_cluster_id = mo.dup_cluster_id) AS near_06
FROM truth t
JOIN exact  e ON e.post_id = t.post_id JOIN exact  eo ON eo.post_id = t.duplicate_of
JOIN near   n ON n.post_id = t.post_id JOIN near   nn ON nn.post_id = t.duplicate_of
JOIN nearer m ON m.post_id = t.post_id JOIN nearer mo ON mo.post_id = t.duplicate_of
WHERE t.duplicate_of IS NOT NULL
GROUP BY t.kind ORDER BY t.kind;

-- Which edits hide a copy from a threshold of 0.8.
SELECT t.edits, count(*) AS planted, count(*) FILTER (WHERE n.dup_cluster_id = nn.dup_cluster_id) AS found,
       round(avg(shingle_similarity(n.body, nn.body)), 2) AS similarity
FROM truth t JOIN near n ON n.post_id = t.post_id JOIN near nn ON nn.post_id = t.duplicate_of
WHERE t.kind = 'near_copy'
GROUP BY t.edits ORDER BY planted DESC, t.edits LIMIT 12;

-- The largest clusters, and why their members are there.
SELECT dup_cluster_id, count(*) AS rows, round(min(dup_similarity), 2) AS least_similar,
       min(CASE WHEN dup_is_representative THEN left(body, 60) END) AS representative
FROM near GROUP BY dup_cluster_id ORDER BY rows DESC, dup_cluster_id LIMIT 5;

SELECT n.post_id, n.dup_linked_to, round(shingle_similarity(n.body, o.body), 2) AS similarity,
       left(n.body, 40) AS text, left(o.body, 40) AS linked_to
FROM near n JOIN near o ON o.post_id = n.dup_linked_to
WHERE n.body <> o.body ORDER BY similarity, n.post_id LIMIT 5;

-- Pictures: media files of the data set by their perceptual hashes.
SELECT count(*) AS pictures, count(*) FILTER (WHERE media_is_representative) AS clusters,
       max(media_distance) AS furthest
FROM media_duplicates((SELECT filename, p['hash'] AS hash, p['quality'] AS quality
                       FROM (SELECT filename, pdq(content) AS p FROM read_blob('input/media/*'))),
                      key => 'filename', hash => 'hash', quality => 'quality');

-- What is known already: a hash list of some pictures, and which files match it.
CREATE HASH LIST IF NOT EXISTS known_pictures WITH (signal = 'pdq', max_distance = 31, min_quality = 50) AS
SELECT filename AS id, p['hash'] AS hash
FROM (SELECT filename, pdq(content) AS p FROM read_blob('input/media/*')) WHERE p['quality'] >= 50 AND p['hash'] < '8';

SELECT count(*) AS pictures, count(match_id) AS known, count(*) FILTER (WHERE match_id <> filename) AS by_another_file
FROM hash_match((SELECT filename, p['hash'] AS hash, p['quality'] AS quality
                 FROM (SELECT filename, pdq(content) AS p FROM read_blob('input/media/*'))),
                HASHLIST known_pictures, key => 'filename', hash => 'hash', quality => 'quality');

-- Evaluation sets: texts that were planted among the posts, as they are or edited, and posts that hold half of one.
CREATE EXTERNAL TABLE IF NOT EXISTS eval_sets STORED AS PARQUET LOCATION 'input/eval_sets/';
CREATE EXTERNAL TABLE IF NOT EXISTS planted_evals STORED AS PARQUET LOCATION 'input/truth/contamination/';

SELECT count(*) AS planted, count(*) FILTER (WHERE c.contaminated) AS found,
       count(*) FILTER (WHERE c.contaminated_by = p.eval_id) AS named
FROM planted_evals p
JOIN contamination(TABLE posts, TABLE eval_sets, text => 'body', evals_key => 'eval_id', ngram => 5, min_overlap => 0.5) c
  ON c.post_id = p.post_id;
