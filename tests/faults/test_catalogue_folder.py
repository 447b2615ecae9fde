"""Every row of the catalogue of drop folder faults has its tests, case by case, or says why not."""

from __future__ import annotations

import pytest

from faults.catalogue import NotShown, Row, problems, rows_of_tests

_RENAMED = "test_f02_a_renamed_file_is_accepted_in_the_same_turn_and_stands_in_active"
_UNFINISHED = "test_names_of_unfinished_files_are_never_looked_at"
_READER = "test_what_the_reader_refuses_ends_in_failed_with_its_reason"
_BOMB = "test_a_bomb_is_refused_before_it_burns_anything"
_CAP = "test_a_file_above_the_cap_is_rejected_unread"
_MISTAKE = "test_a_mistake_is_told_with_its_place_and_what_to_do"
_SCALAR = "test_a_scalar_is_the_text_that_stands_in_the_file"
_IRREGULAR = "test_what_is_no_regular_file_is_told_once_and_left_alone"
_STRANGE = "test_strange_names_go_the_same_way_as_others"
_BLIND = "test_without_inotify_every_file_is_found_by_scanning"

ROWS = {
    "F01": Row(
        "a file that is being written",
        {
            "no job as it stands": (
                "test_f01_no_byte_prefix_of_a_file_that_is_being_written_ever_runs"
            ),
            "a job as it stands": (
                "test_f01_no_byte_prefix_of_a_realistic_job_ever_runs_though_many_are_right"
            ),
        },
    ),
    "F02": Row(
        "how a file arrives", {"renamed": _RENAMED, "under an unfinished name": _UNFINISHED}
    ),
    "F03": Row(
        "sizes",
        {
            "empty": "test_f03_an_empty_file_is_not_ready_and_told_after_a_minute",
            "one byte above the cap": f"{_CAP}[F03-one-more]",
            "sparse": f"{_CAP}[F03-sparse]",
        },
    ),
    "F04": Row(
        "bombs",
        {
            kind: f"{_BOMB}[F04-{kind}]"
            for kind in ("alias-bomb", "merge-bomb", "recursive", "deep")
        },
    ),
    "F05": Row(
        "keys and types",
        {
            "duplicate": f"{_MISTAKE}[F05 duplicate key]",
            "unknown": f"{_MISTAKE}[F05 unknown key]",
            "wrong type": f"{_MISTAKE}[F05 wrong type: a list for a text]",
        },
    ),
    "F06": Row(
        "what is not plain UTF-8 text",
        {
            "BOM": "test_f06_a_byte_order_mark_is_accepted",
            **{
                kind: f"{_READER}[F06-{kind}]"
                for kind in ("tab", "latin1", "utf16", "nul", "binary")
            },
        },
    ),
    "F07": Row(
        "YAML of another kind",
        {kind: f"{_READER}[F07-{kind}]" for kind in ("tag", "two", "scalar", "list", "empty")},
    ),
    "F08": Row(
        "values that YAML would read as something else",
        {
            kind: f"{_SCALAR}[F08-{kind}]"
            for kind in ("no", "octal", "sexagesimal", "date", "float")
        },
    ),
    "F09": Row(
        "no regular files",
        {
            kind: f"{_IRREGULAR}[F09-{kind}]"
            for kind in ("link-to-job", "link-to-passwd", "fifo", "device", "socket", "directory")
        },
    ),
    "F10": Row(
        "owners and links",
        {
            "unreadable": "test_f10_a_file_that_may_not_be_read_is_told_once_and_taken_when_it_may",
            "open to everybody": (
                "test_a_folder_that_is_open_to_everybody_is_told_at_the_start[F10-everybody]"
            ),
            "hard link": "test_f10_a_hard_link_is_a_file_like_any_other",
        },
    ),
    "F11": Row(
        "changes of a file",
        {
            "edited": "test_f11_a_file_that_changes_while_it_is_read_is_read_again",
            "deleted": "test_f11_a_file_that_is_deleted_after_it_was_accepted_runs_all_the_same",
            "renamed": (
                "test_f11_a_file_that_is_renamed_before_it_is_ready_is_taken_under_its_new_name"
            ),
            "replaced": "test_f11_a_file_that_is_replaced_after_it_was_accepted_is_a_new_drop",
        },
    ),
    "F12": Row(
        "again",
        {
            "the same content": (
                "test_f12_the_same_content_twice_makes_two_runs_one_after_the_other"
            ),
            "the same name": (
                "test_f12_another_file_of_the_same_name_waits_until_the_first_has_ended"
            ),
        },
    ),
    "F13": Row(
        "masses",
        {
            "thousands of files at once": (
                "test_f13_thousands_of_files_at_once_are_accepted_and_keep_no_single_job_waiting"
            ),
            "a million tasks": (
                "test_f13_a_list_of_a_million_urls_is_a_stream_and_a_restart_is_ready_at_once"
            ),
        },
    ),
    "F14": Row(
        "events are lost",
        {
            "overflow": "test_f14_when_the_kernels_queue_overflows_no_file_is_lost_and_it_is_told",
            "no room for a watch": f"{_BLIND}[F14-no-watch]",
        },
    ),
    "F15": Row(
        "the folder itself",
        {
            "deleted and made again": (
                "test_f15_a_folder_that_is_deleted_and_made_again_is_used_again_and_nothing_is_lost"
            ),
            "replaced": (
                "test_f15_a_folder_renamed_over_the_old_one_is_used_and_the_old_one_left_alone"
            ),
            "mounted over": (
                "test_f15_a_folder_that_is_mounted_over_is_used_and_so_is_the_old_one_afterwards"
            ),
            "shut": "test_f15_a_folder_that_may_not_be_read_for_a_while_is_told_once",
        },
    ),
    "F16": Row(
        "other file systems",
        {
            "without events": (
                "test_f16_on_a_network_file_system_nothing_is_watched_and_leases_prove_nothing"
            ),
            "slow listing": "test_f16_a_slow_listing_leaves_the_time_to_work_on_what_it_found",
            "a real network mount": NotShown(
                "needs a kernel module and a server; the kind of the file system is read from a "
                "list of mounts, which the test writes"
            ),
        },
    ),
    "F17": Row(
        "file names",
        {kind: f"{_STRANGE}[F17-{kind}]" for kind in ("255-bytes", "newline", "not-utf8")},
    ),
    "F18": Row(
        "the places of ended files",
        {
            "full": "test_an_end_that_cannot_be_shown_is_told_once_and_shown_later[F18-done-full]",
            "missing": "test_f18_a_subfolder_that_vanishes_is_made_again",
            "really full": NotShown(
                "no move out of jobs/ needs room, since all places are on one file system; what "
                "needs some (reports, error texts) is refused it by injection"
            ),
        },
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_case_of_a_row_has_a_test_that_bears_its_id_or_a_reason(row):
    assert problems(row, ROWS[row].cases) == []


def test_the_table_is_complete_and_no_test_bears_the_id_of_another_row():
    assert list(ROWS) == [f"F{number:02}" for number in range(1, 19)]
    assert sum(len(row.cases) for row in ROWS.values()) >= 60
    assert {row.upper() for row in rows_of_tests() if row[0] == "f"} <= set(ROWS)
