-- The state of fetchd, version 7. The way here from an older one is in migrations.sql.
-- Times are Unix seconds. Paths are bytes, because names need not be UTF-8.

CREATE TABLE job (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL,
    revision TEXT NOT NULL,
    document TEXT NOT NULL,             -- the job without its groups, as JSON
    raw      BLOB NOT NULL,             -- the job file's bytes; empty for lists
    UNIQUE (name, revision)
);

CREATE TABLE run (
    id            INTEGER PRIMARY KEY,
    job           INTEGER NOT NULL REFERENCES job (id),
    file          BLOB NOT NULL,        -- name in the drop folder, empty where there is none
    state         TEXT NOT NULL,
    accepted_at   REAL NOT NULL,
    scheduled_for REAL NOT NULL,
    started_at    REAL,
    finished_at   REAL,
    filed         INTEGER NOT NULL DEFAULT 0    -- 2: it is being pruned
);
CREATE INDEX run_of_job ON run (job, id);
CREATE INDEX run_open ON run (id) WHERE finished_at IS NULL;
CREATE INDEX run_unfiled ON run (id) WHERE finished_at IS NOT NULL AND filed = 0;

CREATE TABLE task_group (
    id            INTEGER PRIMARY KEY,
    run           INTEGER NOT NULL REFERENCES run (id),
    document      TEXT NOT NULL,        -- the group as JSON, without its literal items
    expanding     INTEGER NOT NULL,     -- 1: more tasks come from its list
    offset_bytes  INTEGER,              -- how far the list was read, NULL: not yet
    prefix_sha256 TEXT,
    lines         INTEGER,
    failures      INTEGER NOT NULL DEFAULT 0,   -- in a row, to read what comes next of it
    due           REAL NOT NULL DEFAULT 0,      -- and not before, 0 = at once
    read_before   INTEGER,              -- it is read anew: it has what it has up to this task's id
    begun         INTEGER NOT NULL DEFAULT 0,   -- 1: somebody looks at what comes next of it
    crashes       INTEGER NOT NULL DEFAULT 0    -- lives that ended meanwhile, in a row
);
CREATE INDEX group_of_run ON task_group (run, id);

CREATE TABLE task (
    id      INTEGER PRIMARY KEY,
    run     INTEGER NOT NULL,
    grp     INTEGER NOT NULL REFERENCES task_group (id),
    root    TEXT NOT NULL,
    path    BLOB NOT NULL,
    sources TEXT NOT NULL,              -- URLs, one a line
    digests TEXT NOT NULL,              -- algorithm:hex, separated by spaces
    origin  TEXT NOT NULL,              -- of the next source: the task's lane; empty: never had one
    state   INTEGER NOT NULL,           -- see STATES in queries.py
    due     REAL NOT NULL,              -- not before; 0 = at once
    detail  TEXT NOT NULL DEFAULT '',   -- how it succeeded, the code of its failure, or its wait
    reason  TEXT NOT NULL DEFAULT '',
    history TEXT,                       -- JSON; NULL: no attempt has failed
    result  TEXT,                       -- JSON: the publish intent, later what was published
    sums    TEXT NOT NULL DEFAULT '',   -- URLs of its sums file, one a line
    size_bytes INTEGER,                 -- what it has to weigh, NULL: its item does not say
    step_values TEXT,                   -- JSON: what its steps use of its item, NULL: nothing
    key     BLOB                        -- its path until its server named its file, NULL: path
);
CREATE INDEX task_ready ON task (grp, origin, due, id) WHERE state = 0;
CREATE INDEX task_unfinished ON task (id) WHERE state IN (1, 2);
CREATE INDEX task_failed ON task (run, id) WHERE state = 4;
CREATE INDEX task_of_run ON task (run);
CREATE INDEX task_dest ON task (path, root, run);
CREATE INDEX task_open ON task (path, root, run) WHERE state < 3;
CREATE INDEX task_key ON task (key, run) WHERE key IS NOT NULL;

CREATE TABLE file (                     -- the last file published at each destination
    root          TEXT NOT NULL,
    path          BLOB NOT NULL,
    url           TEXT NOT NULL,
    size_bytes    INTEGER NOT NULL,
    mtime_ns      INTEGER NOT NULL,
    inode         INTEGER NOT NULL,
    digests       TEXT NOT NULL,
    etag          TEXT,
    last_modified TEXT,
    date          TEXT,
    published_at  REAL NOT NULL DEFAULT 0,
    verified      TEXT NOT NULL DEFAULT 'none',
    PRIMARY KEY (root, path)
) WITHOUT ROWID;

CREATE TABLE origin (                   -- what was learned of each, and whether it is shut
    origin   TEXT PRIMARY KEY,
    seen_at  REAL NOT NULL,
    document TEXT NOT NULL              -- the rest of its record, as JSON
) WITHOUT ROWID;
CREATE INDEX origin_seen ON origin (seen_at);

CREATE TABLE seen (                     -- with which file of another group a group last succeeded
    job         TEXT NOT NULL,
    grp         TEXT NOT NULL,
    needed      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    PRIMARY KEY (job, grp, needed)
) WITHOUT ROWID;

CREATE TABLE success (                  -- in which run a group, whose files others ask for, ended well
    job TEXT NOT NULL,
    grp TEXT NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (job, grp)
) WITHOUT ROWID;
CREATE INDEX success_of_run ON success (run);

CREATE TABLE kept_job (                     -- the jobs whose files stay in the drop folder
    name     TEXT PRIMARY KEY,
    job      INTEGER NOT NULL REFERENCES job (id),      -- the revision in force
    file     BLOB NOT NULL,             -- name in the drop folder
    stamp    TEXT NOT NULL,             -- which version of the file that is
    last     REAL NOT NULL,             -- the moment of its schedule that was dealt with last
    paused   INTEGER NOT NULL DEFAULT 0,
    backlog  TEXT NOT NULL DEFAULT '',  -- earlier moments that are to have a run, by spaces
    defaults BLOB NOT NULL DEFAULT x''  -- of the file's category, as they were
) WITHOUT ROWID;
CREATE INDEX kept_of_job ON kept_job (job);
