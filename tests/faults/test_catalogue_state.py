"""Every fault of disk, process and state that was thought of has a test, or a reason to have none.

A row is one fault; its cases are what has to be told apart in it.
"""

from __future__ import annotations

import pytest

from faults.catalogue import NotShown, Row, problems, rows_of_tests

_HANGS = "test_c14_a_program_that_hangs_is_ended_with_all_of_its_group"
_NO_SERVER = NotShown("the status is a file; nothing listens")

_TORTURE = "test_d01_d04_d05_c07_one_call_that_fails_costs_a_retry_at_most"
_FULL = "test_d01_d03_a_full_disk_defers_the_task_and_it_finishes_when_space_is_back"
_LINKS = "test_d10_of_links_at_the_destination_the_name_alone_is_replaced"
_NO_FILES = "test_d10_folders_and_pipes_at_the_destination_are_refused_and_the_rest_goes_on"
_LOCKED = "test_a_folder_without_permission_fails_its_task_at_once_and_no_other"
_CUT = "test_a_power_cut_while_files_are_published_leaves_none_or_whole_ones"
_NO_NAME = "test_a_url_without_a_usable_name_asks_for_one"
_HUP = "test_c04_a_hup_after_the_configuration_changed_changes_nothing"
_STORM = "test_c05_a_storm_of_hups_from_the_first_moment_to_the_last_harms_nothing"
_DIES = "test_c07_a_worker_that_dies_is_replaced_told_and_its_task_fails_for_a_retry"
_CLOCK = "test_p15_retries_stalls_and_new_jobs_take_their_time_while_the_clock_is_set"
_NO_ROOM = "test_without_room_for_the_database_no_job_is_lost"
_REFUSED = "test_p22_a_database_that_the_disk_refuses_ends_the_daemon_and_nothing_is_lost"
_UNNAMED = "test_s07_a_database_that_loses_its_name_ends_the_daemon_before_it_accepts_more"

ROWS = {
    "D01": Row(
        "no space",
        {
            "at the first write": _TORTURE,
            "later": f"{_FULL}[write]",
            "at the sync": f"{_FULL}[fsync]",
        },
    ),
    "D02": Row(
        "no inodes left",
        {"": "test_d02_without_inodes_a_task_waits_and_finishes_when_there_are_some"},
    ),
    "D03": Row("a quota is used up", {"": _FULL}),
    "D04": Row(
        "the disk fails",
        {
            "to write": "test_d04_an_error_of_the_disk_discards_the_part",
            "to read back": "test_d04_a_part_that_cannot_be_read_back_is_discarded",
            "to sync": (
                "test_a_sync_that_fails_below_the_root_costs_a_retry_and_no_wrong_byte[d04-EIO]"
            ),
            "to close": "test_d04_a_part_that_cannot_be_closed_is_an_error_of_the_disk",
        },
    ),
    "D05": Row(
        "short and interrupted writes",
        {"": "test_d05_short_and_interrupted_writes_change_no_byte"},
    ),
    "D06": Row(
        "a file system is read-only",
        {
            "at the start": "test_d06_a_root_that_is_read_only_at_the_start_is_78",
            "later": "test_d06_tasks_of_a_root_that_becomes_read_only_wait_and_others_go_on",
        },
    ),
    "D07": Row(
        "no permission",
        {
            "folder": f"{_LOCKED}[d07-folder]",
            "file": "test_d07_a_file_of_another_user_is_replaced_where_the_folder_allows_it",
            "parts": f"{_LOCKED}[d07-parts]",
        },
    ),
    "D08": Row(
        "the destination's folder goes",
        {
            "removed": "test_d08_known_folders_are_made_again_with_their_root",
            "a link instead": (
                "test_d08_a_folder_that_became_a_symbolic_link_meanwhile_is_not_followed"
            ),
            "renamed": "test_d08_a_known_folder_that_was_moved_away_is_not_used_any_more",
        },
    ),
    "D09": Row(
        "the destination is on another file system",
        {"": "test_d09_a_file_below_another_mount_is_written_and_renamed_there"},
    ),
    "D10": Row(
        "what has the destination is no plain file of its own",
        {
            "folder": _NO_FILES,
            "link": _LINKS,
            "dangling link": _LINKS,
            "pipe": _NO_FILES,
            "hard link": _LINKS,
        },
    ),
    "D11": Row(
        "names at and above the limits",
        {
            "255 bytes": "test_d11_a_component_of_255_bytes_is_fine_and_one_of_256_is_denied",
            "256 bytes": "test_d11_a_component_of_255_bytes_is_fine_and_one_of_256_is_denied",
            "long path": "test_d11_a_path_longer_than_the_kernel_takes_at_once_is_walked",
            "not UTF-8": "test_d11_bytes_that_are_not_utf_8_are_kept_and_shown_escaped",
        },
    ),
    "D12": Row(
        "names that would leave the root or confuse a terminal",
        {
            "newline": f"{_NO_NAME}[D12-newline]",
            "leading dash": "test_d12_a_leading_dash_is_a_letter_like_any_other",
            "dots": f"{_NO_NAME}[D12-dots]",
            "NUL, slash": f"{_NO_NAME}[D12-nul]",
        },
    ),
    "D13": Row(
        "two tasks with one destination",
        {
            "one name": "test_d13_a_destination_that_another_transfer_has_open_is_waited_for",
            "two that fold to one": NotShown(
                "needs a file system that folds case (vfat, a folding ext4), which few kernels of "
                "test machines have; names are compared byte by byte, so nobody waits there"
            ),
        },
    ),
    "D14": Row(
        "the power fails around a publication",
        {
            "before the sync": f"{_CUT}[D14-before-the-file-is-synced]",
            "before the rename": f"{_CUT}[D14-before-the-rename]",
            "before the folder's sync": f"{_CUT}[D14-before-the-folder-is-synced]",
        },
    ),
    "D15": Row(
        "a published file changes later",
        {"": "test_d15_what_was_done_and_is_gone_or_changed_is_not_fetched_again_by_a_restart"},
    ),
    "D16": Row(
        "a handle of a network file system is stale",
        {"": "test_a_sync_that_fails_below_the_root_costs_a_retry_and_no_wrong_byte[d16-ESTALE]"},
    ),
    "D17": Row(
        "a disk that is very slow",
        {"": "test_d17_a_disk_that_syncs_slowly_is_no_stuck_thread"},
    ),
    "C01": Row(
        "killed at random moments",
        {"": "test_c01_c03_fifty_signals_at_random_moments_lose_nothing_and_double_nothing"},
    ),
    "C02": Row(
        "killed at each call that touches the disk",
        {"": "test_c02_a_kill_at_each_call_loses_nothing"},
    ),
    "C03": Row(
        "asked to stop",
        {
            "at random moments": (
                "test_c01_c03_fifty_signals_at_random_moments_lose_nothing_and_double_nothing"
            ),
            "twice": "test_c03_a_second_term_ends_a_stop_at_once_and_nothing_is_lost",
        },
    ),
    "C04": Row(
        "a hup, and the configuration is another now",
        {
            "good": f"{_HUP}[good]",
            "bad syntax": f"{_HUP}[bad-syntax]",
            "bad value": f"{_HUP}[bad-value]",
            "unreadable": f"{_HUP}[unreadable]",
        },
    ),
    "C05": Row(
        "hups", {"a storm of them": _STORM, "during the start": _STORM, "during the stop": _STORM}
    ),
    "C06": Row(
        "other signals",
        {
            "from the keyboard": "test_c06_an_interrupt_from_the_keyboard_is_a_stop_like_term",
            "a broken pipe to a client": _NO_SERVER,
        },
    ),
    "C07": Row(
        "a worker dies of an error nobody foresaw",
        {
            "exception": f"{_DIES}[RuntimeError]",
            "exit": f"{_DIES}[SystemExit]",
            "memory": f"{_DIES}[MemoryError]",
            "recursion": f"{_DIES}[RecursionError]",
        },
    ),
    "C08": Row(
        "a worker is stuck where nothing reaches it",
        {
            "": (
                "test_c08_p14_a_stuck_thread_starves_the_watchdog_and_does_not_hold_the_exit"
                "[fetch-hangs]"
            )
        },
    ),
    "C09": Row(
        "limits of the process",
        {
            "no descriptors": (
                "test_c09_without_descriptors_tasks_are_tried_again_and_none_is_lost"
            ),
            "no threads": "test_c09_a_start_that_gets_no_threads_ends_and_loses_no_job",
        },
    ),
    "C10": Row(
        "no memory left",
        {
            "killed for it": NotShown("to the process it is the kill of C01"),
            "told of it": (
                "test_c10_without_memory_tasks_fail_or_the_daemon_does_and_nothing_is_lost"
            ),
        },
    ),
    "C11": Row(
        "the wall clock jumps",
        {
            "forward": f"{_CLOCK}[C11-forward-5-years]",
            "back": f"{_CLOCK}[C11-back-5-years]",
            "each second": f"{_CLOCK}[C11-stepping]",
        },
    ),
    "C12": Row(
        "the machine is suspended",
        {"": "test_c12_after_a_sleep_of_the_process_timeouts_fire_once_and_nothing_runs_twice"},
    ),
    "C13": Row(
        "two instances",
        {
            "a second one": "test_c13_s11_a_second_daemon_on_the_same_state_is_refused",
            "the lock of a dead one": ("test_c13_a_lock_that_a_killed_daemon_left_holds_up_nobody"),
        },
    ),
    "C14": Row(
        "a step misbehaves",
        {
            "hangs": f"{_HANGS}[sleep 60]",
            "ignores TERM": f"{_HANGS}[trap '' TERM; sleep 60 & wait; sleep 60]",
            "forks away": "test_c14_a_program_that_leaves_somebody_behind_is_not_waited_for",
            "talks without end": "test_c14_a_gigabyte_of_output_is_read_and_forgotten",
        },
    ),
    "C15": Row(
        "a webhook misbehaves",
        {
            "is down": "test_c15_a_service_that_fails_is_told_again_with_the_same_key",
            "is slow": "test_c15_p06_a_service_that_never_answers_is_given_up_in_time",
            "redirects inside": "test_c15_nothing_is_posted_to_where_a_redirect_leads",
        },
    ),
    "C16": Row(
        "nobody reads the log",
        {
            "full": "test_c16_a_log_that_nobody_reads_stops_no_download[unread]",
            "closed": "test_c16_a_log_that_nobody_reads_stops_no_download[closed]",
        },
    ),
    "C17": Row(
        "the service manager's socket",
        {
            how: f"test_c17_whoever_listens_or_does_not_the_daemon_works[{how}]"
            for how in ("missing", "abstract", "unwritable")
        },
    ),
    "C18": Row(
        "clients of a status service misbehave",
        dict.fromkeys(["are many", "send half a request"], _NO_SERVER),
    ),
    "S01": Row(
        "another process locks the database",
        {
            "for a while": "test_s01_a_database_that_is_locked_for_a_while_is_waited_for",
            "for ever": (
                "test_s01_a_database_that_stays_locked_ends_the_daemon_and_nothing_is_lost"
            ),
        },
    ),
    "S02": Row(
        "the database is damaged",
        {
            "zeros": "test_s02_a_damaged_database_is_refused_with_what_to_do[S02-zeros]",
            "garbage": "test_s02_a_damaged_database_is_refused_with_what_to_do[S02-garbage]",
            "a bad page": "test_s02_one_bad_page_is_found_at_the_start_and_refused",
        },
    ),
    "S03": Row(
        "the database's log",
        {
            "missing": (
                "test_s03_without_its_log_the_state_is_an_older_one_and_what_was_dropped_is_done"
            ),
            "another's": "test_s03_with_the_log_of_another_database_no_state_is_made_up",
        },
    ),
    "S04": Row(
        "no space for the database",
        {
            "at a commit": f"{_NO_ROOM}[s04-at-commit]",
            "at a checkpoint": f"{_NO_ROOM}[s04-at-checkpoint]",
            "at the start": f"{_NO_ROOM}[s04-at-open]",
        },
    ),
    "S05": Row(
        "an older schema",
        {
            "is migrated": "test_s05_what_version_1_left_goes_on",
            "and a kill amid": (
                "test_s05_killed_at_any_statement_it_is_of_the_old_version_or_the_new_one"
            ),
        },
    ),
    "S06": Row(
        "a newer schema", {"": "test_s06_a_newer_schema_is_refused_and_both_versions_are_named"}
    ),
    "S07": Row(
        "the database loses its name",
        {"unlinked": f"{_UNNAMED}[unlinked]", "replaced": f"{_UNNAMED}[replaced]"},
    ),
    "S08": Row("the database cannot be synced", {"": f"{_REFUSED}[s08-fsync-EIO]"}),
    "S09": Row(
        "the power fails around a commit",
        {"": "test_s09_p1_p2_four_power_cuts_take_back_nothing_that_was_acknowledged"},
    ),
    "S10": Row(
        "the state folder cannot be written",
        {
            "read-only": "test_s10_a_state_folder_that_is_read_only_is_78_with_its_path",
            "another's": "test_s10_a_state_folder_of_another_user_is_78_with_its_path",
        },
    ),
    "S11": Row(
        "two processes want one database",
        {"": "test_s11_a_copy_of_the_state_cannot_work_in_the_same_drop_folder"},
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_case_of_a_row_has_a_test_that_bears_its_id_or_a_reason(row):
    assert problems(row, ROWS[row].cases) == []


def test_the_table_is_complete_and_no_test_bears_the_id_of_another_row():
    assert list(ROWS) == [
        f"{letter}{number:02}"
        for letter, most in (("D", 17), ("C", 18), ("S", 11))
        for number in range(1, most + 1)
    ]
    assert [
        sum(len(row.cases) for name, row in ROWS.items() if name[0] == letter) for letter in "DCS"
    ] == [40, 42, 20]
    assert {row.upper() for row in rows_of_tests() if row[0] in "dcs"} <= set(ROWS)
