"""Every row of the catalogue of hostile archives has its tests, case by case."""

from __future__ import annotations

import pytest

from faults.catalogue import Row, problems, rows_of_tests

_NAME = "test_a01_a_name_that_could_lead_elsewhere_refuses_the_archive"
_LINK = "test_a02_links_are_never_made"
_KIND = "test_a03_what_is_no_file_folder_or_link_is_refused"
_MODE = "test_a03_of_a_mode_only_whether_it_can_be_run_is_kept"
_BROKEN = "test_a05_an_archive_that_is_not_whole_is_refused_and_nothing_is_seen"
_BROKEN_7Z = "test_a05_a_7z_that_is_not_whole_is_refused_and_nothing_is_seen"
_MEET = "test_a06_names_that_are_one_or_differ_in_case_only_are_refused"

ROWS = {
    "A01": Row(
        "names that lead elsewhere",
        {
            name: f"{_NAME}[{name}]"
            for name in ("../x", "/abs", "a/../../x", "..\\x", "c:\\x", "../root-evil/x")
        }
        | {"7z: no name": "test_a01_a_name_in_a_7z_that_is_none_is_refused"},
    ),
    "A02": Row(
        "links",
        {
            name: f"{_LINK}[{name}]"
            for name in (
                "symlink, then a file through it",
                "hard link to a symlink",
                "absolute link",
                "long path of CVE-2025-4517",
                "chain of links",
                "symlink in a zip",
            )
        }
        | {
            f"7z: {name}": f"test_a02_links_in_a_7z_are_never_made_and_can_be_left_out[{name}]"
            for name in ("symlink", "of Windows", "junction")
        }
        | {"7z: behind a link": "test_a02_a_file_behind_a_link_in_a_7z_is_a_plain_one"},
    ),
    "A03": Row(
        "kinds, modes and sizes",
        {
            "pipe": f"{_KIND}[pipe]",
            "device": f"{_KIND}[char device]",
            "setuid": _MODE,
            "ten terabytes": (
                "test_a03_a_header_of_ten_terabytes_is_refused_before_a_byte_is_written"
            ),
            "ten terabytes of holes": "test_a03_a_sparse_file_of_ten_terabytes_is_refused",
            "a folder of mode 0000": _MODE,
            "7z: devices, pipes": "test_a03_devices_and_pipes_in_a_7z_are_refused",
            "7z: setuid": "test_a03_of_a_mode_in_a_7z_only_whether_it_can_be_run_is_kept",
            "7z: ten terabytes": (
                "test_a03_a_7z_of_ten_terabytes_is_refused_before_a_byte_is_written"
            ),
            "7z: orders to remove": "test_a03_orders_to_remove_files_are_refused",
        },
    ),
    "A04": Row(
        "bombs",
        {
            "by ratio": "test_a04_a_bomb_by_ratio_is_stopped_by_what_comes_out",
            "by overlap": "test_a04_members_that_share_their_bytes_are_refused",
            "nested": "test_a04_an_archive_within_an_archive_stays_one",
            "many entries": "test_a04_a_zip_is_counted_before_its_table_fills_the_memory",
            "headers that lie": ("test_a04_a_zip_header_that_lies_about_the_length_is_found_out"),
            "7z: by ratio": "test_a04_a_7z_bomb_by_ratio_is_refused_before_it_is_unpacked",
            "7z: by overlap": "test_a04_streams_of_a_7z_that_share_bytes_are_refused",
            "7z: many entries": (
                "test_a04_an_archive_of_half_a_million_empty_members_takes_little_memory"
            ),
            "7z: lengths that lie": "test_a04_a_7z_that_holds_more_than_it_says_is_stopped_there",
            "7z: numbers that lie": "test_a04_nothing_is_made_of_what_is_counted_only",
            "7z: between coders": "test_a04_what_comes_out_between_two_coders_is_bounded_too",
        },
    ),
    "A05": Row(
        "broken archives",
        {
            "truncated": f"{_BROKEN}[cut in a file]",
            "bad CRC": f"{_BROKEN}[zip: bad CRC]",
            "encrypted": f"{_BROKEN}[zip: encrypted]",
            "trailing data": f"{_BROKEN}[more behind its end]",
            "7z: truncated": "test_a05_every_cut_of_a_7z_is_refused",
            "7z: bad CRC": f"{_BROKEN_7Z}[bad CRC of a member]",
            "7z: encrypted": "test_a05_what_is_encrypted_or_packed_otherwise_is_refused_by_name",
            "7z: trailing data": f"{_BROKEN_7Z}[more behind its end]",
            "7z: any table": "test_a05_any_table_of_a_7z_is_one_or_a_failure_in_bounded_memory",
        },
    ),
    "A06": Row(
        "names that meet",
        {
            "twice": _MEET,
            "in another case": _MEET,
            "a file where a folder is": "test_a06_a_file_where_a_folder_is_is_refused",
        },
    ),
    "A07": Row(
        "readers that are led astray",
        {
            "a loop": "test_a07_a_negative_length_does_not_lead_backwards",
            "headers without end": "test_a07_headers_without_end_are_refused",
            "7z: coders in a circle": "test_a07_coders_that_lead_round_in_a_circle_are_refused",
            "7z: a table in a table": "test_a07_a_packed_table_in_a_packed_table_is_refused",
            "7z: a dictionary": "test_a07_a_7z_whose_dictionary_takes_much_memory_is_refused",
            "7z: time": "test_a07_time_is_limited_while_a_7z_is_read",
        },
    ),
    "A08": Row(
        "a kill in the middle",
        {"": "test_a08_a_kill_while_an_archive_is_extracted_leaves_nothing_half_visible"},
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_case_of_a_row_has_a_test_that_bears_its_id(row):
    assert problems(row, ROWS[row].cases) == []


def test_the_table_is_complete_and_no_test_bears_the_id_of_another_row():
    assert list(ROWS) == [f"A{number:02}" for number in range(1, 9)]
    assert sum(len(row.cases) for row in ROWS.values()) >= 32
    assert {row.upper() for row in rows_of_tests() if row[0] == "a"} <= set(ROWS)
