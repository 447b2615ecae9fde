-- name: add_job
INSERT INTO job (name, revision, document, raw) VALUES (?, ?, ?, ?)
ON CONFLICT (name, revision) DO UPDATE SET document = excluded.document, raw = excluded.raw
RETURNING id;

-- name: add_run
INSERT INTO run (id, job, file, state, accepted_at, scheduled_for) VALUES (?, ?, ?, ?, ?, ?);

-- name: add_group
INSERT INTO task_group (run, document, expanding, offset_bytes, prefix_sha256, lines)
VALUES (?, ?, ?, ?, ?, ?);

-- name: move_position
-- It could be read: what it failed for before counts no more.
UPDATE task_group SET expanding = ?, offset_bytes = ?, prefix_sha256 = ?, lines = ?,
    failures = 0, due = 0, begun = 0, crashes = 0
WHERE id = ?;

-- name: change_reading
UPDATE task_group SET failures = ?, due = ?, begun = ?, crashes = ? WHERE id = ?;

-- name: has_dest
-- What never has an origin never comes to its destination.
SELECT 1 FROM task WHERE path = ? AND root = ? AND run = ? AND origin <> '' LIMIT 1;

-- name: add_task
INSERT INTO task
    (run, grp, root, path, sources, digests, sums, size_bytes, origin, state, due, detail, reason)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?);

-- name: add_task_with_values
-- A column more for each of very many rows would cost all of them a fortieth of their time.
INSERT INTO task
    (run, grp, root, path, sources, digests, sums, size_bytes, origin, state, due, detail, reason,
     step_values)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?);

-- name: place_of_task
SELECT root, run FROM task WHERE id = ?;

-- name: is_wanted
SELECT 1 FROM task WHERE path = ? AND root = ? AND state < 3 LIMIT 1;

-- name: name_later
UPDATE task SET state = 0, due = ?, detail = 'same_dest', reason = ''
WHERE id = ? AND state < 3 AND key IS NULL;

-- name: name_task
-- A path is given once; what it was before stays the task's key.
UPDATE task SET key = path, path = ?, state = 0, due = 0, detail = '', reason = ''
WHERE id = ? AND state < 3 AND key IS NULL;

-- name: start_task
UPDATE task SET state = 1 WHERE id = ? AND state = 0;

-- name: wait_task
UPDATE task SET state = 0, origin = ?, history = ?, due = ?, detail = ?, reason = '', result = NULL
WHERE id = ? AND state < 3;

-- name: intend_task
UPDATE task SET state = 2, result = ?, history = ? WHERE id = ? AND state < 3;

-- name: succeed_published
UPDATE task SET state = 3, detail = ?, reason = '' WHERE id = ?;

-- name: succeed_unchanged
UPDATE task SET state = 3, detail = ?, reason = '', result = ? WHERE id = ?;

-- name: keep_file
INSERT OR REPLACE INTO file
    (root, path, url, size_bytes, mtime_ns, inode, digests, etag, last_modified, date,
     published_at, verified)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: fail_task
UPDATE task SET state = 4, detail = ?, reason = ?, history = ?, result = NULL
WHERE id = ? AND state < 3;

-- name: end_rest
-- A task that is being published (2) is left to the publisher.
UPDATE task SET state = ?, detail = ?, reason = '' WHERE run = ? AND grp = ? AND state IN (0, 1);

-- name: end_list
UPDATE task_group SET expanding = 0 WHERE id = ?;

-- name: start_run
UPDATE run SET state = ?, started_at = coalesce(started_at, ?) WHERE id = ?;

-- name: end_run
UPDATE run SET state = ?, finished_at = ? WHERE id = ?;

-- name: cancel_run
-- While finished_at is NULL, the state 'cancelled' says how the run is going to end.
UPDATE run SET state = 'cancelled' WHERE id = ? AND finished_at IS NULL;

-- name: pause_run
UPDATE run SET state = 'paused'
WHERE id = ? AND finished_at IS NULL AND state IN ('queued', 'running');

-- name: resume_run
UPDATE run SET state = CASE WHEN started_at IS NULL THEN 'queued' ELSE 'running' END
WHERE id = ? AND finished_at IS NULL AND state = 'paused';

-- name: file_run
UPDATE run SET filed = 1 WHERE id = ? AND finished_at IS NOT NULL;

-- name: keep_seen
INSERT OR REPLACE INTO seen (job, grp, needed, fingerprint) VALUES (?, ?, ?, ?);

-- name: keep_success
INSERT OR REPLACE INTO success (job, grp, run) VALUES (?, ?, ?);

-- name: last_success
SELECT run FROM success WHERE job = ? AND grp = ?;

-- name: prune_success
DELETE FROM success WHERE run = ?;

-- name: seen
SELECT grp, needed, fingerprint FROM seen WHERE job = ?;

-- name: prune_seen
-- With the last run of a job's name goes what its groups have seen, unless the job is kept.
DELETE FROM seen WHERE job = (SELECT name FROM job WHERE id = ?1) AND NOT EXISTS (
    SELECT 1 FROM job AS j JOIN run AS r ON r.job = j.id
    WHERE j.name = (SELECT name FROM job WHERE id = ?1)
) AND NOT EXISTS (
    SELECT 1 FROM kept_job WHERE name = (SELECT name FROM job WHERE id = ?1)
);

-- name: keep_origin
INSERT OR REPLACE INTO origin (origin, seen_at, document) VALUES (?, ?, ?);

-- name: forget_origin
DELETE FROM origin WHERE origin = ?;

-- name: origins
SELECT origin, seen_at, document FROM origin WHERE seen_at > ?;

-- name: forget_origins
DELETE FROM origin WHERE seen_at <= ?;

-- name: find_job
SELECT id, raw FROM job WHERE name = ? AND revision = ?;

-- name: keep_job
INSERT OR REPLACE INTO kept_job (name, job, file, stamp, last, paused, backlog, defaults)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: change_kept
UPDATE kept_job SET stamp = ?, last = ?, paused = ?, backlog = ?, defaults = ?
WHERE name = ?;

-- name: kept_job
SELECT job FROM kept_job WHERE name = ?;

-- name: forget_kept
DELETE FROM kept_job WHERE name = ?;

-- name: all_kept
-- From the few that are kept, not from all that ever ran.
SELECT job.document, job.name, job.revision, kept_job.file, kept_job.stamp, kept_job.last,
       kept_job.paused, kept_job.backlog, kept_job.defaults
FROM kept_job CROSS JOIN job ON job.id = kept_job.job ORDER BY kept_job.name;

-- name: move_run
UPDATE run SET job = ? WHERE id = ?;

-- name: tasks_of_run
SELECT id, grp, path, key, sources, digests, sums, size_bytes, step_values, state, detail
FROM task WHERE run = ?;

-- name: remove_task
DELETE FROM task WHERE id = ?;

-- name: revise_task
UPDATE task SET root = ?, sources = ?, digests = ?, sums = ?, size_bytes = ?, step_values = ?,
    origin = ?,
    state = 0, due = 0, detail = '', reason = '', history = NULL, result = NULL
WHERE id = ?;

-- name: revise_group
UPDATE task_group SET document = ? WHERE id = ?;

-- name: remove_group
DELETE FROM task_group WHERE id = ?;

-- name: next_origin
SELECT min(origin) FROM task WHERE grp = ? AND state = 0 AND origin > ?;

-- name: ready_of_origin
-- Tasks whose destination belongs to an earlier open task of another run are marked as held.
SELECT t.id, t.path, t.sources, t.digests, t.sums, t.size_bytes, t.step_values, t.key, t.due,
       t.detail, t.history,
       EXISTS (
           SELECT 1 FROM task AS e
           WHERE e.path = t.path AND e.root = t.root AND e.run < t.run AND e.state < 3
       ),
       f.url, f.size_bytes, f.mtime_ns, f.inode, f.digests, f.etag, f.last_modified, f.date,
       f.verified
FROM task AS t LEFT JOIN file AS f ON f.root = t.root AND f.path = t.path
WHERE t.grp = ? AND t.origin = ? AND t.state = 0 AND t.due <= ?
ORDER BY t.due, t.id
LIMIT ?;

-- name: next_due
SELECT min(due) FROM task WHERE grp = ? AND origin = ? AND state = 0 AND due > ?;

-- name: limit_waits
UPDATE task SET due = ? WHERE grp = ? AND state = 0 AND due > ?;

-- name: unfinished
SELECT t.grp, t.id, t.run, t.path, t.sources, t.digests, t.sums, t.size_bytes, t.step_values,
       t.key, t.history, t.state, t.result,
       f.url, f.size_bytes, f.mtime_ns, f.inode, f.digests, f.etag, f.last_modified, f.date,
       f.verified
FROM task AS t LEFT JOIN file AS f ON f.root = t.root AND f.path = t.path
WHERE t.state IN (1, 2)
ORDER BY t.id;

-- name: open_runs
SELECT id FROM run WHERE finished_at IS NULL ORDER BY id;

-- name: run
SELECT job.document, job.name, job.revision, run.id, run.file, run.state, run.accepted_at,
       run.scheduled_for, run.started_at, run.finished_at, run.filed
FROM run JOIN job ON job.id = run.job
WHERE run.id = ?;

-- name: last_run
SELECT run.id FROM run JOIN job ON job.id = run.job WHERE job.name = ? AND run.filed < 2
ORDER BY run.id DESC LIMIT 1;

-- name: groups
SELECT id, document, expanding, offset_bytes, prefix_sha256, lines, failures, due, begun, crashes
FROM task_group WHERE run = ? ORDER BY id;

-- name: counts
SELECT grp, state, count(*),
       sum(CASE WHEN state = 3 AND detail <> 'up_to_date' THEN json_extract(result, '$[0]') END)
FROM task WHERE run = ? GROUP BY grp, state;

-- name: reopen_tasks
UPDATE task SET state = 0, due = 0, detail = '', reason = '', history = NULL, result = NULL
WHERE run = ?1 AND state IN (4, 5) AND origin <> ''
  AND (SELECT filed FROM run WHERE id = ?1) < 2;

-- name: make_anew
UPDATE task SET state = 0, due = 0, detail = '', reason = '', history = NULL, result = NULL
WHERE run = ? AND grp = ? AND state = 3;

-- name: unread
-- Tasks that say that a list, or the rest of it, could not be read, and the groups of these.
SELECT t.id, t.grp, g.document FROM task AS t INDEXED BY task_failed
JOIN task_group AS g ON g.id = t.grp
WHERE t.run = ?1 AND t.state = 4 AND t.origin = '' AND (t.path = x'' OR t.detail = 'bad_manifest')
  AND (SELECT filed FROM run WHERE id = ?1) < 2;

-- name: read_anew
UPDATE task_group SET expanding = 1, offset_bytes = NULL, prefix_sha256 = NULL, lines = NULL,
    read_before = (SELECT max(id) FROM task)
WHERE id = ?;

-- name: read_before
SELECT read_before FROM task_group WHERE id = ?;

-- name: was_read
-- Its server may have named a file meanwhile.
SELECT 1 FROM task WHERE path = ?1 AND root = ?2 AND run = ?3 AND grp = ?4 AND id <= ?5
UNION ALL
SELECT 1 FROM task WHERE key = ?1 AND key IS NOT NULL AND run = ?3 AND grp = ?4 AND id <= ?5
LIMIT 1;

-- name: reopen_ends
-- What a run does at its end is decided upon anew when it ends again.
UPDATE task_group SET expanding = 1
WHERE run = ? AND json_extract(document, '$.end') IS NOT NULL
RETURNING document;

-- name: forget_end
DELETE FROM task WHERE path = ? AND root = ? AND run = ?;

-- name: reopen_run
UPDATE run SET state = 'running', finished_at = NULL, filed = 0 WHERE id = ?;

-- name: unfiled_runs
SELECT id FROM run WHERE finished_at IS NOT NULL AND filed = 0 ORDER BY id;

-- name: files
SELECT id, grp, path, state, detail, reason, sources, history, result
FROM task WHERE run = ? AND id > ? ORDER BY id LIMIT ?;

-- name: failures
-- Without statistics the planner would rather look at every task of the run.
SELECT id, grp, path, state, detail, reason, sources, history, result
FROM task INDEXED BY task_failed WHERE run = ? AND state = 4 ORDER BY id LIMIT ?;

-- name: dest_state
-- An open task of whatever run goes before the newest one.
SELECT coalesce(
    (SELECT state FROM task WHERE path = ?1 AND root = ?2 AND state < 3 LIMIT 1),
    (SELECT state FROM task WHERE path = ?1 AND root = ?2 ORDER BY run DESC, id DESC LIMIT 1)
);

-- name: knows
SELECT EXISTS (SELECT 1 FROM task WHERE path = ?1 AND root = ?2)
    OR EXISTS (SELECT 1 FROM file WHERE root = ?2 AND path = ?1);

-- name: old_runs
-- The newest run stays, so that no id is given twice; and one of whose groups files are still asked
-- for, as long as there are newer runs of its job, or that is kept.
SELECT id, job FROM run
WHERE NOT EXISTS (
    SELECT 1 FROM success AS s WHERE s.run = run.id AND (
        EXISTS (SELECT 1 FROM kept_job WHERE name = s.job)
        OR EXISTS (
            SELECT 1 FROM job AS j JOIN run AS r ON r.job = j.id
            WHERE j.name = s.job AND r.id > run.id
        )
    )
) AND finished_at IS NOT NULL AND id < (SELECT max(id) FROM run) AND (
    filed = 2
    OR filed = 1 AND (
        finished_at < ? OR id <= (SELECT id FROM run ORDER BY id DESC LIMIT 1 OFFSET ?)
    )
)
ORDER BY id LIMIT ?;

-- name: begin_pruning
UPDATE run SET filed = 2 WHERE id = ?;

-- name: prune_tasks
DELETE FROM task WHERE id IN (SELECT id FROM task WHERE run = ? LIMIT ?);

-- name: prune_groups
DELETE FROM task_group WHERE run = ?;

-- name: prune_run
DELETE FROM run WHERE id = ?;

-- name: prune_job
DELETE FROM job WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM run WHERE job = ?1)
AND NOT EXISTS (SELECT 1 FROM kept_job WHERE job = ?1);

-- name: next_files
SELECT root, path, published_at FROM file WHERE (root, path) > (?, ?) ORDER BY root, path LIMIT ?;

-- name: prune_file
DELETE FROM file WHERE root = ?1 AND path = ?2
AND NOT EXISTS (SELECT 1 FROM task WHERE path = ?2 AND root = ?1);

-- name: origin
SELECT origin, seen_at, document FROM origin WHERE origin = ?;

-- name: file
SELECT url, size_bytes, mtime_ns, inode, digests, etag, last_modified, date, verified
FROM file WHERE root = ? AND path = ?;

-- name: last_due
SELECT last FROM kept_job WHERE name = ?;
