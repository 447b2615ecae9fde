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

-- name: 4
-- What was proved of a file is told by its digests or by the task that published it. Of other files
-- nothing is known, so that a job that asks for proof fetches them once more.
ALTER TABLE file ADD COLUMN verified TEXT NOT NULL DEFAULT 'none';
UPDATE file SET verified = CASE WHEN digests <> '' THEN 'digest' ELSE coalesce(
    (
        SELECT json_extract(t.result, '$[1]') FROM task AS t
        WHERE t.path = file.path AND t.root = file.root AND t.state = 3
            AND t.detail <> 'up_to_date' AND json_extract(t.result, '$[14]') = file.inode
        ORDER BY t.run DESC LIMIT 1
    ),
    'none'
) END;

-- name: 5
-- What was learned of origins, and which of them are shut.
CREATE TABLE origin (
    origin   TEXT PRIMARY KEY,
    seen_at  REAL NOT NULL,
    document TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX origin_seen ON origin (seen_at);

-- name: 6
-- An item may say what its file weighs.
ALTER TABLE task ADD COLUMN size_bytes INTEGER;
-- With which file of another group a group last succeeded.
CREATE TABLE seen (
    job         TEXT NOT NULL,
    grp         TEXT NOT NULL,
    needed      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    PRIMARY KEY (job, grp, needed)
) WITHOUT ROWID;
-- Jobs that outlive their runs, or are paused.
CREATE TABLE kept_job (
    name     TEXT PRIMARY KEY,
    job      INTEGER NOT NULL REFERENCES job (id),
    file     BLOB NOT NULL,
    stamp    TEXT NOT NULL,
    last     REAL NOT NULL,
    paused   INTEGER NOT NULL DEFAULT 0,
    backlog  TEXT NOT NULL DEFAULT '',
    defaults BLOB NOT NULL DEFAULT x''
) WITHOUT ROWID;
CREATE INDEX kept_of_job ON kept_job (job);

-- name: 7
-- How it stands with the next piece of a group's items.
ALTER TABLE task_group ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task_group ADD COLUMN due REAL NOT NULL DEFAULT 0;
-- Up to which task what is read may be there already, as of an earlier reading.
ALTER TABLE task_group ADD COLUMN read_before INTEGER;
-- Steps may use values of a matrix and fields of an item.
ALTER TABLE task ADD COLUMN step_values TEXT;
-- Whether somebody looks at it, and how often the daemon crashed meanwhile.
ALTER TABLE task_group ADD COLUMN begun INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task_group ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
-- A server may name the file of a task.
ALTER TABLE task ADD COLUMN key BLOB;
CREATE INDEX task_key ON task (key, run) WHERE key IS NOT NULL;
-- In which run a group has succeeded last, whose files others ask for.
CREATE TABLE success (
    job TEXT NOT NULL,
    grp TEXT NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (job, grp)
) WITHOUT ROWID;
CREATE INDEX success_of_run ON success (run);
