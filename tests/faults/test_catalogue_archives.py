"""Every row of the catalogue of hostile archives has its tests, case by case."""

from __future__ import annotations

import pytest

from faults.catalogue import Row, problems, rows_of_tests

_NAME = "test_a01_a_name_that_could_lead_elsewhere_refuses_the_archive"
_LINK = "test_a02_links_are_never_made"
_KIND = "test_a03_what_is_no_file_folder_or_link_is_refused"
_MODE = "test_a03_of_a_mode_only_whether_it_can_be_run_is_kept"
_BROKEN = "test_a05_an_archive_that_is_not_whole_is_refused_and_nothing_is_seen"
_MEET = "test_a06_names_that_are_one_or_differ_in_case_only_are_refused"

ROWS = {
    "A01": Row(
        "names that lead elsewhere",
        {
            name: f"{_NAME}[{name}]"
            for name in ("../x", "/abs", "a/../../x", "..\\x", "c:\\x", "../root-evil/x")
        },
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
        },
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
        },
    ),
    "A05": Row(
        "broken archives",
        {
            "truncated": f"{_BROKEN}[cut in a file]",
            "bad CRC": f"{_BROKEN}[zip: bad CRC]",
            "encrypted": f"{_BROKEN}[zip: encrypted]",
            "trailing data": f"{_BROKEN}[more behind its end]",
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
