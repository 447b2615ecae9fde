-- The state that fetchd 0.1.0 left at schema version 1, in the middle of two runs.
PRAGMA application_id = 1718903652;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
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
    PRIMARY KEY (root, path)
) WITHOUT ROWID;
INSERT INTO "file" VALUES('mirrors',X'746F6F6C732F612E7A6970','https://one.example/tools/a.zip',10,77,2,'sha256:abababababababababababababababababababababababababababababababab','"e"','Mon','Tue');
CREATE TABLE job (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL,
    revision TEXT NOT NULL,
    document TEXT NOT NULL,             -- the job without its groups, as JSON
    raw      BLOB NOT NULL,             -- the job file's bytes; empty for lists
    UNIQUE (name, revision)
);
INSERT INTO "job" VALUES(1,'tools','r1','{"description": "build tools", "priority": 1, "timezone": "Europe/Berlin", "dest": "", "variables": {"v": "1"}, "concurrency": null, "max_total_bytes": 99}',X'626173653A202E2E2E0A');
INSERT INTO "job" VALUES(2,'crawl','r2','{"description": "", "priority": 2, "timezone": null, "dest": "", "variables": {}, "concurrency": null, "max_total_bytes": null}',X'');
CREATE TABLE run (
    id            INTEGER PRIMARY KEY,
    job           INTEGER NOT NULL REFERENCES job (id),
    file          BLOB NOT NULL,        -- name in the drop folder, empty where there is none
    state         TEXT NOT NULL,
    accepted_at   REAL NOT NULL,
    scheduled_for REAL NOT NULL,
    started_at    REAL,
    finished_at   REAL,
    filed         INTEGER NOT NULL DEFAULT 0
);
INSERT INTO "run" VALUES(1,1,X'746F6F6C732E79616D6C','running',1700000000.0,1700000000.0,1700000001.0,NULL,0);
INSERT INTO "run" VALUES(2,2,X'637261776C2E75726C73','queued',1700000000.0,1700000000.0,NULL,NULL,0);
CREATE TABLE task (
    id      INTEGER PRIMARY KEY,
    run     INTEGER NOT NULL,
    grp     INTEGER NOT NULL REFERENCES task_group (id),
    root    TEXT NOT NULL,
    path    BLOB NOT NULL,
    sources TEXT NOT NULL,              -- URLs, one a line
    digests TEXT NOT NULL,              -- algorithm:hex, separated by spaces
    origin  TEXT NOT NULL,              -- of the next source: the task's lane; empty: never had one
    state   INTEGER NOT NULL,           -- see STATES in sqlite.py
    due     REAL NOT NULL,              -- not before; 0 = at once
    detail  TEXT NOT NULL DEFAULT '',   -- how it succeeded, the code of its failure, or its wait
    reason  TEXT NOT NULL DEFAULT '',
    history TEXT,                       -- JSON; NULL: no attempt has failed
    result  TEXT                        -- JSON: the publish intent, later what was published
);
INSERT INTO "task" VALUES(1,1,1,'mirrors',X'746F6F6C732F612E7A6970','https://one.example/tools/a.zip
https://two.example/tools/a.zip','sha256:abababababababababababababababababababababababababababababababab','https://one.example:443',3,0.0,'resumed','',NULL,'[10, "digest", "sha256:abababababababababababababababababababababababababababababababab", "https://one.example/tools/a.zip", "https://cdn.example/a", "\"e\"", "Mon", "Tue", 3, 7, 1.5, 5.5, "p1", 1, 2, false, "mirrors"]');
INSERT INTO "task" VALUES(2,1,1,'mirrors',X'746F6F6C732F622E7A6970','https://one.example/tools/b.zip
https://two.example/tools/b.zip','','https://one.example:443',2,0.0,'','',NULL,'[10, "digest", "sha256:abababababababababababababababababababababababababababababababab", "https://one.example/tools/a.zip", "https://cdn.example/a", "\"e\"", "Mon", "Tue", 3, 7, 1.5, 5.5, "p2", 1, 3, false, "mirrors"]');
INSERT INTO "task" VALUES(3,1,1,'mirrors',X'746F6F6C732F632E7A6970','https://one.example/tools/c.zip
https://two.example/tools/c.zip','sha256:abababababababababababababababababababababababababababababababab','https://two.example:443',0,1700000060.0,'retry','','{"attempts": 1, "source": 1, "round": 0, "barred": [0], "mismatched": [], "causes": [[0, "bad_status", "404"]], "first_failed_at_s": 1700000000.0, "crashes": 0, "crash_bytes": 0}',NULL);
INSERT INTO "task" VALUES(4,1,1,'mirrors',X'636166E92E7A6970','https://one.example/d.zip
https://two.example/d.zip','','https://one.example:443',1,0.0,'','',NULL,NULL);
INSERT INTO "task" VALUES(5,1,2,'default',X'696E6465782E6A736F6E','https://one.example/index.json
https://two.example/index.json','md5:90909090909090909090909090909090','https://one.example:443',0,0.0,'','',NULL,NULL);
INSERT INTO "task" VALUES(6,2,3,'default',X'782E637376','https://one.example/x.csv
https://two.example/x.csv','','https://one.example:443',0,0.0,'','',NULL,NULL);
INSERT INTO "task" VALUES(7,2,3,'default',X'2E2F637261776C2E75726C733A32','','','',4,0.0,'bad_item','crawl.urls:2: no url',NULL,NULL);
CREATE TABLE task_group (
    id            INTEGER PRIMARY KEY,
    run           INTEGER NOT NULL REFERENCES run (id),
    document      TEXT NOT NULL,        -- the group as JSON, without its literal items
    expanding     INTEGER NOT NULL,     -- 1: more tasks come from its list
    offset_bytes  INTEGER,              -- how far the list was read, NULL: not yet
    prefix_sha256 TEXT,
    lines         INTEGER
);
INSERT INTO "task_group" VALUES(1,1,'{"name": "tools", "needs": [], "list": null, "items": [], "template": {"base": ["https://one.example/", "https://two.example/"], "dest": "tools", "filename": null, "checksums": []}, "rules": {"root": "mirrors", "if_exists": "fail", "verify": "length", "size": {"least_bytes": 1, "most_bytes": 9}, "max_bytes": null, "expect_type": null, "headers": [["X-A", "b"]], "retry": {"attempts": 8, "delay_s": 2.0, "max_delay_s": 300.0, "give_up_after_s": 86400.0, "max_retry_after_s": 3600.0}, "timeouts": {"connect_s": 10.0, "stall_s": 30.0, "stall_bytes_per_s": 1024, "attempt_s": null}}}',0,NULL,NULL,NULL);
INSERT INTO "task_group" VALUES(2,1,'{"name": "index", "needs": ["tools"], "list": null, "items": [{"url": "index.json", "filename": null, "checksum": null, "line": null, "column": null}], "template": {"base": [], "dest": "", "filename": null, "checksums": ["md5:900150983cd24fb0d6963f7d28e17f72"]}, "rules": {"root": "default", "if_exists": "update", "verify": "length", "size": null, "max_bytes": null, "expect_type": null, "headers": [], "retry": {"attempts": 8, "delay_s": 2.0, "max_delay_s": 300.0, "give_up_after_s": 86400.0, "max_retry_after_s": 3600.0}, "timeouts": {"connect_s": 10.0, "stall_s": 30.0, "stall_bytes_per_s": 1024, "attempt_s": null}}}',0,NULL,NULL,NULL);
INSERT INTO "task_group" VALUES(3,2,'{"name": "crawl", "needs": [], "list": "/jobs/active/crawl.urls", "items": [], "template": {"base": [], "dest": "", "filename": null, "checksums": []}, "rules": {"root": "default", "if_exists": "update", "verify": "length", "size": null, "max_bytes": null, "expect_type": null, "headers": [], "retry": {"attempts": 8, "delay_s": 2.0, "max_delay_s": 300.0, "give_up_after_s": 86400.0, "max_retry_after_s": 3600.0}, "timeouts": {"connect_s": 10.0, "stall_s": 30.0, "stall_bytes_per_s": 1024, "attempt_s": null}}}',1,60,'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd',2);
CREATE INDEX run_of_job ON run (job, id);
CREATE INDEX run_open ON run (id) WHERE finished_at IS NULL;
CREATE INDEX run_unfiled ON run (id) WHERE finished_at IS NOT NULL AND filed = 0;
CREATE INDEX group_of_run ON task_group (run, id);
CREATE INDEX task_ready ON task (grp, origin, due, id) WHERE state = 0;
CREATE INDEX task_unfinished ON task (id) WHERE state IN (1, 2);
CREATE INDEX task_failed ON task (run, id) WHERE state = 4;
CREATE INDEX task_of_run ON task (run);
CREATE INDEX task_dest ON task (path, root, run);
COMMIT;
