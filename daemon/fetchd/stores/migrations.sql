-- From each version of the schema to the next, told by the version that it leads to.

-- name: 2
-- A task may be held against a sums file.
ALTER TABLE task ADD COLUMN sums TEXT NOT NULL DEFAULT '';

-- name: 3
-- Whether a destination is taken is asked for every task, however many runs it had before.
CREATE INDEX task_open ON task (path, root, run) WHERE state < 3;
-- What is known of a file is forgotten some time after nothing names it any more.
ALTER TABLE file ADD COLUMN published_at REAL NOT NULL DEFAULT 0;
UPDATE file SET published_at = strftime('%s', 'now');
