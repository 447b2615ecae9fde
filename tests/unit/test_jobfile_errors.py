# ruff: noqa: E501 -- messages stand here whole, as a person reads them
from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchd.config import Settings
from fetchd.errors import DocumentError
from fetchd.jobfile import job_name, list_job, load, url_job
from fetchd.jobfile.needs import order
from fetchd.model import Job

SETTINGS = Settings()
URL = "url: https://example.org/a\n"


def headlines(text: str | bytes, file: str = "iso.yaml", config: Settings = SETTINGS) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(DocumentError) as caught:
        load(data, file, config)
    return caught.value.headlines()


# What stands in the file, and the one line that a person reads about it.
BAD = {
    "F05 unknown key": (
        "url: https://example.org/a\nchksum: sha256:ab\n",
        "iso.yaml:2:1: chksum: unknown key (did you mean 'checksum'?)",
    ),
    "unknown key in another case": (
        "url: https://example.org/a\nChecksum: sha256:ab\n",
        "iso.yaml:2:1: Checksum: unknown key (did you mean 'checksum'?)",
    ),
    "a known key in another case, which is not missing as well": (
        "URL: https://example.org/a\n",
        "iso.yaml:1:1: URL: unknown key (did you mean 'url'?)",
    ),
    "a mapping for a text or texts": (
        "url: https://example.org/a\nchecksum: { sha256: ab }\n",
        "iso.yaml:2:11: checksum: needs a text or a list of texts",
    ),
    "unknown key without a near one": (
        "url: https://example.org/a\nzzzz: 1\n",
        "iso.yaml:2:1: zzzz: unknown key; known here: url, urls, base, root, dest, filename, checksum, sums, size, verify, expect, if_exists, headers, segments, retry, timeout, wait_for, matrix, from, if, may_fail, steps, version, name, description, priority, timezone, schedule, window, keep, on_remove, vars, limits, publish, tasks, fail_fast, on_success, on_failure",
    ),
    "F05 duplicate key": (
        "url: https://example.org/a\nurl: https://example.org/b\n",
        "iso.yaml:2:1: the key 'url' stands here a second time (it is in line 1 already; remove one of the two)",
    ),
    "F05 wrong type: a list for a text": (
        "url: [https://example.org/a]\n",
        "iso.yaml:1:6: url: needs a text, not a list",
    ),
    "text for a list": (
        "urls: https://example.org/a\n",
        "iso.yaml:1:7: urls: needs a list; write each URL on a line of its own behind '- '",
    ),
    "text for a mapping": (
        "url: https://example.org/a\nretry: 5\n",
        "iso.yaml:2:8: retry: needs a mapping with keys such as attempts, delay, max_delay",
    ),
    "list for tasks": (
        "tasks:\n  - url: https://example.org/a\n",
        "iso.yaml:2:3: tasks: needs a mapping: each task's name, and below it the task's keys",
    ),
    "text for a task": (
        "tasks:\n  a: https://example.org/a\n",
        "iso.yaml:2:6: tasks.a: needs a mapping with keys such as url, urls, base",
    ),
    "a word that is no schedule": (
        'url: https://example.org/a\nschedule: "@daily"\n',
        (
            "iso.yaml:2:11: schedule: '@daily' is no schedule; write daily 03:15, every 6h, or "
            'five fields of cron: "15 3 * * *"'
        ),
    ),
    "half a schedule": (
        "url: https://example.org/a\nschedule: daily\n",
        "iso.yaml:2:11: schedule.cron: 'daily' is half a schedule; write daily 03:15, or every 6h",
    ),
    "a schedule with a time that is none": (
        "url: https://example.org/a\nschedule: daily 3am\n",
        (
            "iso.yaml:2:11: schedule.daily: '3am' is no time of the day; "
            "write hours and minutes: 03:15"
        ),
    ),
    "a schedule of seconds": (
        'url: https://example.org/a\nschedule: "0 15 3 * * *"\n',
        (
            "iso.yaml:2:11: schedule.cron: '0 15 3 * * *' has 6 fields, not five: minute, hour, "
            'day of the month, month, day of the week, as in "15 3 * * *"'
        ),
    ),
    "a schedule that never comes": (
        "url: https://example.org/a\nschedule: 0 0 30 2 *\n",
        "iso.yaml:2:11: schedule.cron: '0 0 30 2 *' is no schedule: Bad day-of-month",
    ),
    "a schedule of two kinds": (
        "url: https://example.org/a\nschedule: {daily: 03:15, every: 3h}\n",
        "iso.yaml:2:11: schedule: needs one of cron, daily and every; daily and every found",
    ),
    "an interval that is no time": (
        "url: https://example.org/a\nschedule: every 100ms\n",
        "iso.yaml:2:11: schedule.every: at least 1s is possible",
    ),
    "jitter that is longer than the interval": (
        "url: https://example.org/a\nschedule: {every: 1h, jitter: 2h}\n",
        "iso.yaml:2:31: schedule.jitter: must be shorter than every, or runs would be left out",
    ),
    "a schedule's key with a typing error": (
        'url: https://example.org/a\nschedule: {crn: "15 3 * * *"}\n',
        "iso.yaml:2:12: schedule.crn: unknown key (did you mean 'cron'?)",
    ),
    "catching up as nobody can": (
        "url: https://example.org/a\nschedule: {daily: 03:15, catch_up: onc}\n",
        (
            "iso.yaml:2:36: schedule.catch_up: 'onc' is not one of none, once, all; "
            "did you mean 'once'?"
        ),
    ),
    "an end that nobody knows": (
        "url: https://example.org/a\non_success: [ x ]\n",
        (
            "iso.yaml:2:15: on_success[0]: 'x' is neither a command nor a webhook of the "
            "configuration; known: none"
        ),
    ),
    "a URL that is to be told": (
        "url: https://example.org/a\non_success: [ https://hooks.example.org/x ]\n",
        (
            "iso.yaml:2:15: on_success[0]: 'https://hooks.example.org/x' is neither a command nor "
            "a webhook of the configuration; known: none (the operator writes the URL there, "
            "under webhooks, and gives it a name)"
        ),
    ),
    "a step with files where there are none": (
        "url: https://example.org/a\non_failure: [ { mode: 0644 } ]\n",
        (
            "iso.yaml:2:15: on_failure[0]: 'mode' is not possible here, where there are no files; "
            "possible: run, webhook, or the name of a command or webhook"
        ),
    ),
    "an end whose command nobody has configured": (
        "url: https://example.org/a\non_failure: [ { run: x } ]\n",
        (
            "iso.yaml:2:22: on_failure[0].run.command: 'x' is not a command of the configuration; "
            "known: none"
        ),
    ),
    "what came of a run, before it has ended": (
        "url: https://example.org/a\nsteps: [ { symlink: '${job.summary}' } ]\n",
        (
            "iso.yaml:2:21: steps[0].symlink.name: ${job.summary} has a meaning only in the options "
            "of on_success and on_failure"
        ),
    ),
    "a task named like an end": (
        "tasks:\n  on_success:\n    url: https://example.org/a\n",
        (
            "iso.yaml:2:3: tasks.on_success: 'on_success' is what is done at the end of a run; give "
            "the task another name"
        ),
    ),
    "a job named like an end": (
        "name: on_failure\nurl: https://example.org/a\n",
        (
            "iso.yaml:1:7: name: 'on_failure' is what is done at the end of a run; give the task "
            "another name: write it below `tasks`"
        ),
    ),
    "a rate that is none": (
        "url: https://example.org/a\nlimits: {rate: 5MiB}\n",
        "iso.yaml:2:16: limits.rate: '5MiB' is not a rate; write a size a second: 5MiB/s",
    ),
    "a timetable whose spans overlap": (
        'url: http://h/a\nlimits: {rate: {"08:00-18:00": 5MiB/s, "17:00-20:00": 1MiB/s}}\n',
        "iso.yaml:2:16: limits.rate: 17:00-20:00 and 08:00-18:00 overlap; each time has one rate",
    ),
    "a timetable of sizes": (
        'url: https://example.org/a\nlimits: {rate: {"8:00-9:00": 5}}\n',
        "iso.yaml:2:16: limits.rate: 8:00-9:00: '5' is not a rate; write a size a second: 5MiB/s",
    ),
    "a name from elsewhere": (
        "url: https://example.org/a\nfilename: {from: page}\n",
        (
            "iso.yaml:2:11: filename: needs a name, or { from: header } for the one that its "
            "server gives"
        ),
    ),
    "the path of a file that its server names": (
        (
            "tasks:\n  a: { url: 'https://example.org/a', filename: { from: header } }\n"
            "  b: { url: 'https://example.org/${needs.a.path}' }\n"
        ),
        (
            "iso.yaml:3:13: tasks.b.url: ${needs.a.path} exists only for a task whose file has a "
            "name in the job file, and that of this one is given by its server"
        ),
    ),
    "a window of hours": (
        'url: https://example.org/a\nwindow: ["22:00-06:00", 8-17]\n',
        (
            "iso.yaml:2:25: window[1]: '8-17' is no part of a window; write a span of every day: "
            "22:00-06:00, or a day: Mon, Tue, Wed, Thu, Fri, Sat, Sun"
        ),
    ),
    "a window of no time": (
        "url: https://example.org/a\nwindow: 08:00-08:00\n",
        (
            "iso.yaml:2:9: window[0]: '08:00-08:00' is no part of a window; write a span of every day: "
            "22:00-06:00, or a day: Mon, Tue, Wed, Thu, Fri, Sat, Sun"
        ),
    ),
    "keeping that is neither": (
        "url: https://example.org/a\nkeep: yes\n",
        "iso.yaml:2:7: keep: 'yes' is not one of true, false",
    ),
    "removal as nobody can": (
        "url: https://example.org/a\nkeep: true\non_remove: stop\n",
        "iso.yaml:3:12: on_remove: 'stop' is not one of drain, cancel",
    ),
    "nothing to fetch": (
        "dest: x\n",
        (
            "iso.yaml:1:1: has no url and no urls; a task without them has steps, which work on "
            "the files of the tasks that it needs"
        ),
    ),
    "a task with nothing to fetch": (
        "tasks:\n  a:\n    dest: x\n  b:\n    url: https://example.org/b\n",
        (
            "iso.yaml:2:3: tasks.a: has no url and no urls; a task without them has steps, which "
            "work on the files of the tasks that it needs"
        ),
    ),
    "steps over nothing": (
        "steps: [ checksum_file ]\n",
        (
            "iso.yaml:1:1: has no url and no urls; a task without them has steps, which work on "
            "the files of the tasks that it needs"
        ),
    ),
    "steps over the files of nobody": (
        "tasks:\n  a:\n    steps: [ checksum_file ]\n  b:\n    url: https://example.org/b\n",
        (
            "iso.yaml:2:3: tasks.a: has no url, so that its steps work on the files of the tasks "
            "that it needs; write which these are: needs"
        ),
    ),
    "a file name where nothing is fetched": (
        (
            "tasks:\n  b: {url: https://example.org/b}\n  a:\n    needs: b\n    filename: x\n"
            "    steps: [ checksum_file ]\n"
        ),
        "iso.yaml:5:5: tasks.a.filename: means nothing for a task without url: it fetches nothing",
    ),
    "one file of what makes many": (
        (
            "tasks:\n  b: {url: https://example.org/b}\n  a:\n    needs: b\n"
            "    steps: [ checksum_file ]\n  c: {url: 'https://example.org/${needs.a.path}'}\n"
        ),
        (
            "iso.yaml:6:12: tasks.c.url: ${needs.a.path} exists only for a task whose steps make "
            "one file of a name that they say, as concat does"
        ),
    ),
    "a file that another task makes already": (
        (
            "tasks:\n  b: {url: https://example.org/all}\n  a:\n    needs: b\n"
            "    steps: [ {concat: all} ]\n"
        ),
        "iso.yaml:5:12: tasks.a.steps: writes 'all', as tasks.b.url in line 2 does",
    ),
    "url and urls": (
        "url: https://example.org/a\nurls: [https://example.org/b]\n",
        "iso.yaml:2:7: urls: stands beside url; a task has one or the other",
    ),
    "empty file": (
        "",
        "iso.yaml: nothing is written here",
    ),
    "a text": (
        "hello\n",
        "iso.yaml:1:1: found a single text, where keys with values are needed (write KEY: VALUE, each in a line of its own, with a space behind the colon)",
    ),
    "a list": (
        "- url: x\n",
        "iso.yaml:1:1: found a list, where keys with values are needed (write KEY: VALUE, each in a line of its own, with a space behind the colon)",
    ),
    "version": (
        "version: 2\nurl: https://example.org/a\n",
        "iso.yaml:1:10: version: '2' is not a version of the job file that is known; write 1",
    ),
    "name": (
        "name: a b\nurl: https://example.org/a\n",
        "iso.yaml:1:7: name: 'a b' is no name; allowed are up to 128 letters, digits, '.', '_' and '-', the first a letter or digit",
    ),
    "priority": (
        "priority: hihg\nurl: https://example.org/a\n",
        "iso.yaml:1:11: priority: 'hihg' is not one of urgent, high, normal, low; did you mean 'high'?",
    ),
    "timezone": (
        "timezone: Europe/Berln\nurl: https://example.org/a\n",
        "iso.yaml:1:11: timezone: 'Europe/Berln' is not a time zone of this machine; did you mean 'Europe/Berlin'?",
    ),
    "empty size range": (
        "size: 5..1\nurl: https://example.org/a\n",
        "iso.yaml:1:7: size: '5..1' is an empty range: the first size is above the second",
    ),
    "no size": (
        "size: 5 apples\nurl: https://example.org/a\n",
        "iso.yaml:1:7: size: '5 apples' is not a size; write a number, alone for bytes, or with KiB, MiB, GiB, TiB or kB, MB, GB, TB: 500MB, 7GiB",
    ),
    "no number of connections": (
        "url: https://example.org/a\nsegments: many\n",
        "iso.yaml:2:11: segments: 'many' is no number of connections; write auto, or 1 to 16",
    ),
    "too many connections": (
        "url: https://example.org/a\nsegments: 17\n",
        "iso.yaml:2:11: segments: '17' is no number of connections; write auto, or 1 to 16",
    ),
    "no magic": (
        "url: https://example.org/a\nexpect: {magic: CD001@32769}\n",
        "iso.yaml:2:17: expect.magic: 'CD001@32769' is no magic; write hex: and two digits for each byte, then @ and the offset unless it is 0: hex:4344303031@32769",
    ),
    "half a byte of magic": (
        "url: https://example.org/a\nexpect:\n  magic:\n    - hex:43\n    - hex:434\n",
        "iso.yaml:4:5: expect.magic: 'hex:434' is no magic; write hex: and two digits for each byte, then @ and the offset unless it is 0: hex:4344303031@32769",
    ),
    "much magic": (
        f"url: https://example.org/a\nexpect: {{magic: hex:{'ab' * 257}}}\n",
        f"iso.yaml:2:17: expect.magic: 'hex:{'ab' * 28}'... has 257 bytes; at most 256 are possible",
    ),
    "distant magic": (
        f"url: https://example.org/a\nexpect: {{magic: hex:ab@{2**60}}}\n",
        f"iso.yaml:2:17: expect.magic: hex:ab@{2**60} lies behind the end of any file; write an offset below 2^60",
    ),
    "many magics": (
        f"url: https://example.org/a\nexpect: {{magic: [{', '.join(['hex:ab'] * 9)}]}}\n",
        "iso.yaml:2:17: expect.magic: has 9 entries; at most 8 are possible",
    ),
    "duration without unit": (
        "url: https://example.org/a\ntimeout:\n  connect: 30\n",
        "iso.yaml:3:12: timeout.connect: '30' is not a duration; write a number with ms, s, m, h or d: 90s, 5m, 1h 30m",
    ),
    "stall rate": (
        "url: https://example.org/a\ntimeout:\n  stall: 30s@fast\n",
        "iso.yaml:3:10: timeout.stall: 'fast' is not a rate; write a size a second: 5MiB/s",
    ),
    "zero attempts": (
        "url: https://example.org/a\nretry: {attempts: 0}\n",
        "iso.yaml:2:19: retry.attempts: '0' is not a whole number from 1 to 999999",
    ),
    "unknown root": (
        "url: https://example.org/a\nroot: defualt\n",
        "iso.yaml:2:7: root: 'defualt' is not a download root of the configuration; known: default (did you mean 'default'?)",
    ),
    "less than the operator asks": (
        "url: https://example.org/a\nverify: none\n",
        "iso.yaml:2:9: verify: 'none' asks for less than the configuration, which has verify: length",
    ),
    "digest without checksum": (
        "url: https://example.org/a\nverify: digest\n",
        "iso.yaml:1:6: url: has no checksum, and verify: digest asks for one",
    ),
    "secret header": (
        "url: https://example.org/a\nheaders:\n  authorization: Bearer x\n",
        "iso.yaml:3:3: headers.authorization: authorization may not stand in a job file: no secrets here; the operator's configuration is the place for them",
    ),
    "own header": (
        "url: https://example.org/a\nheaders:\n  Host: x\n",
        "iso.yaml:3:3: headers.Host: Host is set by fetchd itself",
    ),
    "header with a line break": (
        'url: https://example.org/a\nheaders:\n  X-A: "a\\nb"\n',
        "iso.yaml:3:8: headers.X-A: a header's value has only printable ASCII characters",
    ),
    "variable in a header": (
        "url: https://example.org/a\nheaders:\n  X-A: ${run.id}\n",
        "iso.yaml:3:8: headers.X-A: variables are not replaced in headers",
    ),
    "unknown variable": (
        "vars: {series: 1}\nurl: https://example.org/${sries}\n",
        "iso.yaml:2:6: url: unknown variable ${sries} (did you mean ${series}?)",
    ),
    "reserved variable": (
        "vars: {url: 1}\nurl: https://example.org/a\n",
        "iso.yaml:1:8: vars.url: 'url' means something else in ${...}; choose another name",
    ),
    "variable before its value": (
        "vars:\n  a: ${b}\n  b: x\nurl: https://example.org/${a}\n",
        "iso.yaml:2:6: vars.a: ${b} is written below; a variable knows those above it",
    ),
    "open variable": (
        "url: https://example.org/${a\n",
        "iso.yaml:1:6: url: '${' is not closed; write ${name}, or $${ for a literal ${",
    ),
    "format of a date": (
        "url: https://example.org/${run.date-1d:%Y%q}\n",
        "iso.yaml:1:6: url: '%q' is nothing of a date; known: %Y %y %m %d %H %M %S %j %G %V %u %B %b %A %a %%",
    ),
    "reckoning with what is no date": (
        "vars: {series: 24.04}\nurl: https://example.org/${series-1d}\n",
        "iso.yaml:2:6: url: ${series} is '24.04', which is no date such as 2026-11-23",
    ),
    "variable that looks like a reckoning": (
        "vars: {x-1d: a}\nurl: https://example.org/a\n",
        "iso.yaml:1:8: vars.x-1d: ${x-1d} would mean another date; choose another name",
    ),
    "value of a matrix that is no list": (
        "matrix: {arch: amd64}\nurl: https://example.org/${arch}\n",
        "iso.yaml:1:16: matrix.arch: 'amd64' is no range; write A..B with numbers or dates: 1..19, 01..12, 2026-01-01..2026-01-31, run.date-6d..run.date, or a list of values",
    ),
    "matrix that is a list": (
        "matrix: [arch]\nurl: https://example.org/${arch}\n",
        "iso.yaml:1:9: matrix: needs a mapping of names and their values: { arch: [amd64, arm64] }",
    ),
    "range of letters": (
        "matrix: {x: a..c}\nurl: https://example.org/${x}\n",
        "iso.yaml:1:13: matrix.x: 'a..c' is no range; write A..B with numbers or dates: 1..19, 01..12, 2026-01-01..2026-01-31, run.date-6d..run.date",
    ),
    "range that is empty": (
        "matrix: {x: 9..1}\nurl: https://example.org/${x}\n",
        "iso.yaml:1:13: matrix.x: '9..1' is empty: the first is behind the last",
    ),
    "range of no days": (
        "matrix: {x: 2026-02-27..2026-02-30}\nurl: https://example.org/${x}\n",
        "iso.yaml:1:13: matrix.x: '2026-02-27..2026-02-30' is no range; write A..B with numbers or dates: 1..19, 01..12, 2026-01-01..2026-01-31, run.date-6d..run.date",
    ),
    "range with an unknown variable": (
        "matrix: {x: '1..${most}'}\nurl: https://example.org/${x}\n",
        "iso.yaml:1:13: matrix.x: unknown variable ${most}; known here: run.id, run.date, job.name, url, url.path, job.dest, task.name",
    ),
    "value given twice": (
        "matrix: {x: [a, b, a]}\nurl: https://example.org/${x}\n",
        "iso.yaml:1:13: matrix.x: has 'a' twice",
    ),
    "no values": (
        "matrix: {x: []}\nurl: https://example.org/${x}\n",
        "iso.yaml:1:13: matrix.x: has no values",
    ),
    "too many combinations": (
        "matrix: {x: 1..10000, y: 1..10000}\nurl: https://example.org/${x}/${y}\n",
        "iso.yaml:1:9: matrix: has 100000000 combinations; at most 10000000 are possible",
    ),
    "unknown name of a matrix": (
        "matrix: {arch: [a, b]}\nurl: https://example.org/${arhc}\n",
        "iso.yaml:2:6: url: unknown variable ${arhc} (did you mean ${arch}?)",
    ),
    "name in vars and matrix": (
        "vars: {arch: x}\nmatrix: {arch: [a, b]}\nurl: https://example.org/${arch}\n",
        "iso.yaml:2:10: matrix.arch: 'arch' is in vars, too; choose another name",
    ),
    "exclude of an unknown name": (
        "matrix: {arch: [a, b], exclude: [{arhc: a}]}\nurl: https://example.org/${arch}\n",
        "iso.yaml:1:34: matrix.exclude[0]: 'arhc' is no name of the matrix (did you mean 'arch'?)",
    ),
    "exclude of an unknown value": (
        "matrix: {arch: [a, b], exclude: [{arch: c}]}\nurl: https://example.org/${arch}\n",
        "iso.yaml:1:33: matrix.exclude: arch is never 'c'; its values: a, b",
    ),
    "include of half a combination": (
        "matrix: {x: [a], y: [b], include: [{x: c}]}\nurl: https://example.org/${x}${y}\n",
        "iso.yaml:1:36: matrix.include[0]: says nothing of 'y'; write all names of the matrix",
    ),
    "include that is no list of combinations": (
        "matrix: {x: [a], include: [c]}\nurl: https://example.org/${x}\n",
        "iso.yaml:1:27: matrix.include: needs a list of combinations: [{ arch: arm64 }]",
    ),
    "combinations that write one file": (
        "matrix: {x: [a, b], y: 1..1000000}\nurl: https://example.org/${x}/${y}\n",
        "iso.yaml:2:6: url: writes '1' for (x: a, y: 1) and for (x: b, y: 1); put what differs into filename or dest",
    ),
    "bad path of a combination": (
        "matrix: {x: [a, ..]}\nurl: https://example.org/${x}/f\ndest: ${x}\n",
        "iso.yaml:3:7: dest: '..' has the component '..'",
    ),
    "one checksum for all combinations": (
        "matrix: {x: 1..3}\nurl: https://example.org/${x}\nchecksum: md5:900150983cd24fb0d6963f7d28e17f72\n",
        "iso.yaml:3:11: checksum: one checksum cannot hold for 3 files; write each behind its URL",
    ),
    "path of a matrix": (
        "tasks:\n  a:\n    matrix: {x: [c]}\n    url: https://example.org/${x}\n  b:\n    url: https://example.org/c/${needs.a.path}\n",
        "iso.yaml:6:10: tasks.b.url: ${needs.a.path} exists only for a task with one file, and 'a' has several",
    ),
    "neither true nor false": (
        "url: https://example.org/a\nmay_fail: yes\n",
        "iso.yaml:2:11: may_fail: 'yes' is neither true nor false",
    ),
    "condition without a name": (
        "url: https://example.org/a\nif: needs.x.changed\n",
        "iso.yaml:2:5: if: 'needs.x.changed' is no condition; write ${name}, not ${name}, ${name} == text or ${name} != text",
    ),
    "condition on an unknown name": (
        "vars: {arch: x}\nurl: https://example.org/a\nif: ${arhc} == x\n",
        "iso.yaml:3:5: if: unknown variable ${arhc} (did you mean ${arch}?)",
    ),
    "condition on an unknown name of each": (
        "matrix: {arch: [x, y]}\nurl: https://example.org/${arch}\nif: ${arch} == ${arhc}\n",
        "iso.yaml:3:5: if: unknown variable ${arhc} (did you mean ${arch}?)",
    ),
    "condition on an unknown task": (
        "tasks:\n  a:\n    url: https://example.org/a\n  b:\n    url: https://example.org/b\n    if: ${needs.aa.changed}\n",
        "iso.yaml:6:9: tasks.b.if: unknown variable ${needs.aa.changed} (did you mean ${needs.a.changed}?)",
    ),
    "condition on several files": (
        "tasks:\n  a:\n    urls: [https://example.org/a, https://example.org/c]\n  b:\n    url: https://example.org/b\n    if: ${needs.a.changed}\n",
        "iso.yaml:6:9: tasks.b.if: ${needs.a.changed} exists only for a task with one file, and 'a' has several",
    ),
    "condition on itself": (
        "tasks:\n  a:\n    url: https://example.org/a\n    if: ${needs.a.changed}\n",
        "iso.yaml:2:3: tasks.a: the needs go in a circle: a -> a",
    ),
    "condition on all and on each": (
        "tasks:\n  a:\n    url: https://example.org/a\n  b:\n    matrix: {x: [c, d]}\n    url: https://example.org/${x}\n    if: ${needs.a.changed} == ${x}\n",
        "iso.yaml:7:9: tasks.b.if: compares a file that is one for all with what each task has for itself; write either",
    ),
    "change asked for outside a condition": (
        "tasks:\n  a:\n    url: https://example.org/a\n  b:\n    url: https://example.org/${needs.a.changed}\n",
        "iso.yaml:5:10: tasks.b.url: ${needs.a.changed} has a meaning only in if",
    ),
    "from without a format": (
        "from: {file: list}\nurl: ${item.url}\n",
        "iso.yaml:1:7: from: needs format: one of lines, csv, json, jsonl, sums, html, metalink",
    ),
    "from without a file": (
        "from: {format: lines}\nurl: ${item}\n",
        "iso.yaml:1:7: from: needs file: the path of the manifest",
    ),
    "unknown format": (
        "from: {file: list, format: jsn}\nurl: ${item.url}\n",
        "iso.yaml:1:28: from.format: 'jsn' is not one of lines, csv, json, jsonl, sums, html, metalink; did you mean 'json'?",
    ),
    "unknown key of from": (
        "from: {file: list, format: lines, item: x}\n",
        "iso.yaml:1:35: from.item: unknown key (did you mean 'items'?)",
    ),
    "option of another format": (
        "from: {file: list, format: lines, items: x}\n",
        "iso.yaml:1:35: from.items: means nothing for format lines",
    ),
    "path that is none": (
        "from: {file: list, format: json, items: 'packages[0]'}\nurl: ${item.url}\n",
        "iso.yaml:1:41: from.items: 'packages[0]' is no path; write names with dots, and [*] for the entries of a list: packages[*], data.files[*]",
    ),
    "items without a URL": (
        "tasks:\n  a:\n    from: {file: list, format: json}\n",
        "iso.yaml:2:3: tasks.a: has no url; write which field of an item it is: ${item.url}",
    ),
    "manifest outside the root": (
        "from: {file: ../list, format: lines}\n",
        "iso.yaml:1:14: from.file: '../list' has the component '..'",
    ),
    "manifest of several files": (
        "tasks:\n  a:\n    urls: [https://example.org/a, https://example.org/c]\n  b:\n    from: {file: '${needs.a.path}', format: lines}\n",
        "iso.yaml:5:18: tasks.b.from.file: ${needs.a.path} exists only for a task with one file, and 'a' has several",
    ),
    "field that the format does not have": (
        "from: {file: list, format: sums}\ndest: ${item.size}\n",
        "iso.yaml:2:7: dest: unknown variable ${item.size} (did you mean ${item.digest}?)",
    ),
    "unknown name beside fields": (
        "from: {file: list, format: json}\nurl: ${item.url}\nfilename: ${itme.name}\n",
        "iso.yaml:3:11: filename: unknown variable ${itme.name} (did you mean ${task.name}?)",
    ),
    "field without a manifest": (
        "url: https://example.org/${item.url}\n",
        "iso.yaml:1:6: url: ${item.url} has no meaning here",
    ),
    "unknown root of a manifest": (
        "from: {file: list, format: lines, root: x}\n",
        "iso.yaml:1:41: from.root: 'x' is not a download root of the configuration; known: default",
    ),
    "manifest and matrix": (
        "from: {file: list, format: lines}\nmatrix: {x: [a]}\n",
        "iso.yaml:1:7: from: stands beside a matrix; a task has one or the other",
    ),
    "delimiter of two": (
        "from: {file: list, format: csv, delimiter: '::'}\nurl: ${item.url}\n",
        "iso.yaml:1:44: from.delimiter: '::' is no delimiter; write one character, or tab",
    ),
    "path of a fan-out": (
        "tasks:\n  a:\n    from: {file: list, format: lines}\n  b:\n    url: https://example.org/${needs.a.path}\n",
        "iso.yaml:5:10: tasks.b.url: ${needs.a.path} exists only for a task with one file, and 'a' has several",
    ),
    "unknown algorithm": (
        "url: https://example.org/a\nchecksum: sha265:abcd\n",
        "iso.yaml:2:11: checksum: unknown checksum algorithm 'sha265' (did you mean sha256?); known: sha256, sha512, sha1, md5, sha384, sha224, blake2b, blake2s, sha3-256, sha3-512, crc32c, xxh64",
    ),
    "a sums file that cannot be asked for": (
        "url: https://example.org/a\nsums: ftp://example.org/SUMS\n",
        "iso.yaml:2:7: sums: the scheme 'ftp' is not fetched; allowed: http, https, file",
    ),
    "a sums file of the item that cannot be asked for": (
        "url: https://example.org/a\nsums: S U\n",
        "iso.yaml:2:7: sums: the URL has the character ' ' at position 22; write it percent-encoded: %20",
    ),
    "several sums files": (
        "url: https://example.org/a\nsums: [SUMS]\n",
        "iso.yaml:2:7: sums: needs a text, not a list",
    ),
    "short checksum": (
        "url: https://example.org/a\nchecksum: sha256:abcd\n",
        "iso.yaml:2:11: checksum: a sha256 checksum has 64 hex digits, this one has 4",
    ),
    "short checksum in a line": (
        "urls:\n  - https://example.org/a sha256:abcd\n",
        "iso.yaml:2:5: urls[0]: a sha256 checksum has 64 hex digits, this one has 4",
    ),
    "scheme": (
        "url: ftp://example.org/a\n",
        "iso.yaml:1:6: url: the scheme 'ftp' is not fetched; allowed: http, https, file",
    ),
    "URL without a name": (
        "url: https://example.org/\n",
        "iso.yaml:1:6: url: the URL's last segment is empty; give a filename",
    ),
    "password in URL": (
        "url: https://u:p@example.org/a\n",
        "iso.yaml:1:6: url: user name and password may not stand in a URL",
    ),
    "dest leaves the root": (
        "url: https://example.org/a\ndest: ../x\n",
        "iso.yaml:2:7: dest: '../x' has the component '..'",
    ),
    "absolute dest": (
        "url: https://example.org/a\ndest: /etc\n",
        "iso.yaml:2:7: dest: '/etc' is absolute; write a path below the root",
    ),
    "file name leaves dest": (
        "url: https://example.org/a\nfilename: a/../b\n",
        "iso.yaml:2:11: filename: 'a/../b' has the component '..'",
    ),
    "hidden folder": (
        "url: https://example.org/a\ndest: .fetchd\n",
        "iso.yaml:2:7: dest: '.fetchd' has the component '.fetchd', which is fetchd's own",
    ),
    "unknown need": (
        "tasks:\n  iso:\n    url: https://example.org/a\n  b:\n    url: https://example.org/b\n    needs: [ios]\n",
        "iso.yaml:6:13: tasks.b.needs[0]: 'ios' is no task of this job (did you mean 'iso'?)",
    ),
    "circle": (
        "tasks:\n  a:\n    url: https://example.org/a\n    needs: [c]\n  b:\n    url: https://example.org/b\n    needs: [a]\n  c:\n    url: https://example.org/c\n    needs: b\n",
        "iso.yaml:4:12: tasks.a.needs: the needs go in a circle: a -> c -> b -> a",
    ),
    "circle of one": (
        "tasks:\n  a:\n    url: https://example.org/${needs.a.path}\n",
        "iso.yaml:2:3: tasks.a: the needs go in a circle: a -> a",
    ),
    "path of several files": (
        "tasks:\n  a:\n    urls: [https://example.org/a, https://example.org/b]\n  b:\n    url: https://example.org/c/${needs.a.path}\n",
        "iso.yaml:5:10: tasks.b.url: ${needs.a.path} exists only for a task with one file, and 'a' has several",
    ),
    "path of an unknown task": (
        "tasks:\n  a:\n    url: https://example.org/a\n  b:\n    url: https://example.org/c/${needs.aa.path}\n",
        "iso.yaml:5:10: tasks.b.url: unknown variable ${needs.aa.path} (did you mean ${needs.a.path}?)",
    ),
    "needs at the top": (
        "needs: [a]\nurl: https://example.org/a\n",
        "iso.yaml:1:1: needs: belongs in a task under tasks",
    ),
    "one destination, two tasks": (
        "tasks:\n  a:\n    url: https://example.org/x\n  b:\n    url: https://example.net/x\n",
        "iso.yaml:5:10: tasks.b.url: writes 'x', as tasks.a.url in line 3 does",
    ),
    "one destination, two lines": (
        "urls:\n  - https://example.org/x\n  - https://example.net/y x\n",
        "iso.yaml:3:5: urls[1]: writes 'x', as urls[0] in line 2 does",
    ),
    "file, then folder": (
        "urls:\n  - https://example.org/x\n  - https://example.net/y x/y\n",
        "iso.yaml:3:5: urls[1]: writes into the folder 'x', which is a file for urls[0] in line 2",
    ),
    "folder, then file": (
        "urls:\n  - https://example.net/y x/y/z\n  - https://example.org/x\n",
        "iso.yaml:3:5: urls[1]: writes the file 'x', which is a folder for urls[0] in line 2",
    ),
    "one checksum for two": (
        "checksum: md5:900150983cd24fb0d6963f7d28e17f72\nurls:\n  - https://example.org/x\n  - https://example.net/y\n",
        "iso.yaml:1:11: checksum: one checksum cannot hold for 2 files; write each behind its URL",
    ),
    "bad task name": (
        "tasks:\n  a b:\n    url: https://example.org/x\n",
        "iso.yaml:2:3: tasks.a b: 'a b' is no name; allowed are up to 128 letters, digits, '.', '_' and '-', the first a letter or digit",
    ),
    "job key in a task": (
        "tasks:\n  a:\n    limits: {file: 1}\n    url: https://example.org/x\n",
        "iso.yaml:3:5: tasks.a.limits: belongs at the top of the file, not in a task",
    ),
    "no tasks": (
        "tasks: {}\n",
        "iso.yaml:1:8: tasks: names no task",
    ),
    "base with a query": (
        "base: https://example.org/?a\nurl: x\n",
        "iso.yaml:1:7: base: 'https://example.org/?a' has a query or a fragment; a base is a folder",
    ),
    "anchor": (
        "a: &x 1\nb: *x\n",
        "iso.yaml:1:4: & at the beginning of a value means an anchor; these are not read (repeat the value; in a job file keys at the top hold for all tasks, vars: names texts; or quote it)",
    ),
    "tab": (
        "url:\thttps://example.org/a\n\tdest: x\n",
        "iso.yaml:2:1: a tab indents this line; YAML takes blanks only (put two blanks in its place)",
    ),
    "tag": (
        "url: !x https://example.org/a\n",
        'iso.yaml:1:6: ! at the beginning of a value means a tag; tags are not read (write: url: "!x https://example.org/a")',
    ),
    "variable in brackets": (
        "dest: [${run.date}]\nurl: https://example.org/a\n",
        'iso.yaml:1:8: inside [ ] and { } a text with ${...} needs quotes (write: dest: ["${run.date}"])',
    ),
    "checksum as file name": (
        "vars: {s: 'sha256:abcd'}\nurls:\n  - https://example.org/a ${s}\n",
        "iso.yaml:3:5: urls[0]: the file name 'sha256:abcd' looks like a checksum",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_told_with_its_place_and_what_to_do(name: str) -> None:
    text, expected = BAD[name]

    assert headlines(text)[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: no\n", "iso.yaml:2:10: version: 'no' is not a version of the job file that is known; write 1"),
        ("retry: {attempts: 1e3}\n", "iso.yaml:2:19: retry.attempts: '1e3' is not a whole number from 1 to 999999"),
        ("retry: {attempts: 1_000}\n", "iso.yaml:2:19: retry.attempts: '1_000' is not a whole number from 1 to 999999"),
        ("retry: {attempts: 8.0}\n", "iso.yaml:2:19: retry.attempts: '8.0' is not a whole number from 1 to 999999"),
        (
            "timeout: {connect: 1:30}\n",
            ("iso.yaml:2:20: timeout.connect: '1:30' is not a duration; write a number with "
            "ms, s, m, h or d: 90s, 5m, 1h 30m"),
        ),
        ("verify: no\n", "iso.yaml:2:9: verify: 'no' is not one of digest, length, none; did you mean 'none'?"),
    ],
)  # fmt: skip
def test_f08_what_yaml_would_convert_is_read_as_written(text: str, expected: str) -> None:
    assert headlines(URL + text) == [expected]


def test_all_errors_of_a_file_are_told_at_once_and_none_that_only_follows() -> None:
    text = (
        "bsae: https://example.org/\n"  # so the relative URL below is no further error
        "dest: ../x\n"
        "retry: {attempts: x, dealy: 5s}\n"
        "vars: {v: [1], w: '${v}'}\n"  # nor is ${w}
        "tasks:\n"
        "  a: {url: a.iso, checksum: md5:00}\n"
        "  b: {url: 'https://example.org/${w}', needs: [c, d]}\n"
        "  c: 5\n"
        "  d: {url: 'ftp://example.org/d', filename: x}\n"
    )

    assert headlines(text) == [
        "iso.yaml:1:1: bsae: unknown key (did you mean 'base'?)",
        "iso.yaml:2:7: dest: '../x' has the component '..'",
        "iso.yaml:3:19: retry.attempts: 'x' is not a whole number from 1 to 999999",
        "iso.yaml:3:22: retry.dealy: unknown key (did you mean 'delay'?)",
        "iso.yaml:4:11: vars.v: needs a text, not a list",
        "iso.yaml:6:29: tasks.a.checksum: a md5 checksum has 32 hex digits, this one has 2",
        "iso.yaml:8:6: tasks.c: needs a mapping with keys such as url, urls, base",
    ]


def test_each_bad_line_of_urls_is_told() -> None:
    text = (
        "urls:\n"
        "  - https://example.org/a\n"
        "  - b\n"
        "  - ftp://example.org/c\n"
        "  - a b c d\n"
        "  -\n"
        "  - {url: https://example.org/d}\n"
    )

    assert headlines(text) == [
        "iso.yaml:3:5: urls[1]: 'b' is not an absolute URL; write http://... or https://...",
        "iso.yaml:4:5: urls[2]: the scheme 'ftp' is not fetched; allowed: http, https, file",
        (
            "iso.yaml:5:5: urls[3]: the line has 4 fields; write URL [filename] [algorithm:hex], "
            "with a TAB between the fields if a name has spaces"
        ),
        "iso.yaml:6:4: urls[4]: needs a line: URL [filename] [algorithm:hex]",
        "iso.yaml:7:5: urls[5]: needs a line: URL [filename] [algorithm:hex]",
    ]


def test_an_error_shows_the_line_and_a_caret() -> None:
    with pytest.raises(DocumentError) as caught:
        load(URL.encode() + b"dest: isos\nchksum: x\n", "iso.yaml", SETTINGS)

    assert str(caught.value) == (
        "iso.yaml:3:1: chksum: unknown key (did you mean 'checksum'?)\n    chksum: x\n    ^"
    )


def test_a_mistake_above_the_tasks_is_told_once() -> None:
    text = "dest: /x\ntasks:\n" + "".join(
        f"  t{n}: {{url: https://example.org/{n}}}\n" for n in range(5)
    )

    assert headlines(text) == ["iso.yaml:1:7: dest: '/x' is absolute; write a path below the root"]


@pytest.mark.parametrize(
    "text",
    ["urls:\n" + "  - a\n" * 5000, URL + "".join(f"k{n}: v\n" for n in range(5000))],
)
def test_thousands_of_errors_are_cut_off(text: str) -> None:
    found = headlines(text)

    assert len(found) == 101
    assert found[0] == "iso.yaml: more than 100 errors; here are the first"


@pytest.mark.parametrize(
    "name", ["Authorization", "COOKIE", "proxy-authorization", "Host", "Range", "if-range", "a b"]
)
def test_a_header_that_is_secret_or_not_the_jobs_is_refused(name: str) -> None:
    found = headlines(f"{URL}headers: {{ {name}: x }}\n")

    assert len(found) == 1
    assert found[0].startswith(f"iso.yaml:2:12: headers.{name}: ")


def test_what_tasks_inherit_is_bounded() -> None:
    headers = ", ".join(f"X-{n}: v" for n in range(33))
    variables = ", ".join(f"v{n}: v" for n in range(1001))

    assert headlines(f"{URL}headers: {{ {headers} }}\nvars: {{ {variables}, a b: c }}\n") == [
        "iso.yaml:2:10: headers: has 33 entries; at most 32 are possible",
        "iso.yaml:3:7: vars: has 1001 names; at most 1000 are possible",
        (
            f"iso.yaml:3:{len(variables) + 11}: vars.a b: 'a b' is no variable; "
            "use letters, digits, '_' and '-'"
        ),
    ]


def test_variables_cannot_grow_without_end() -> None:
    lines = [f"  v0: {'x' * 60_000}"] + [f"  v{n}: ${{v0}}" for n in range(1, 100)]

    found = headlines(URL + "vars:\n" + "\n".join(lines) + "\n")

    assert found[0] == "iso.yaml:73:8: vars.v70: the variables are too long together"


def test_messages_stay_short_whatever_is_written() -> None:
    long = "x" * 100_000

    for text in (f"{long}: 1\n", f"priority: {long}\n", f"size: {long}\n", f"url: ${{{long}}}\n"):
        assert len(headlines(URL + text if "url" not in text else text)[0]) < 2000


@pytest.mark.parametrize(
    "text",
    [
        f"vars: {{a: {'x' * 60_000}}}\nurls:\n"
        + "".join(f"  - https://example.org/${{a}}/{n}\n" for n in range(3000)),
        f"base: https://example.org/{'x' * 100_000}\nurls:\n"
        + "".join(f"  - {n}\n" for n in range(5000)),
    ],
)
def test_a_small_file_cannot_fill_the_memory(text: str) -> None:
    found = headlines(text)

    assert "the URLs are too long together; write them into *.urls files" in found[-1]


@pytest.mark.parametrize("key", ["dest", "filename", "checksum", "sums", "base", "url", "urls"])
def test_an_open_variable_is_told_at_its_key(key: str) -> None:
    text = "${x" if key != "urls" else "[ '${x' ]"
    other = "" if key in {"url", "urls"} else URL

    found = headlines(f"{other}{key}: {text}\n")

    assert len(found) == 1
    assert found[0].endswith("'${' is not closed; write ${name}, or $${ for a literal ${")


def test_tasks_cannot_multiply_a_list_without_end() -> None:
    urls = "".join(f"  - https://example.org/{n}\n" for n in range(2000))
    text = f"urls:\n{urls}dest: ${{task.name}}\ntasks:\n"

    assert headlines(text + "".join(f"  t{n}:\n" for n in range(2000))) == [
        "iso.yaml:2104:8: tasks.t100: the urls above the tasks, taken by each, are too many"
    ]


def test_what_stands_in_a_circle_is_tried_all_the_same() -> None:
    text = (
        "tasks:\n"
        "  a: {url: 'ftp://example.org/a', needs: b}\n"
        "  b: {url: 'https://example.org/${needs.a.path}'}\n"
    )

    assert headlines(text) == [
        "iso.yaml:2:12: tasks.a.url: the scheme 'ftp' is not fetched; allowed: http, https, file",
        "iso.yaml:2:42: tasks.a.needs: the needs go in a circle: a -> b -> a",
    ]


def test_json_names_the_path_of_keys_and_the_place_of_a_syntax_error() -> None:
    wrong = {"tasks": {"a": {"url": "ftp://example.org/a"}, "b": {"urls": ["x"]}}, "zone": 1}

    assert sorted(headlines(json.dumps(wrong), "x.json")) == [
        "x.json: tasks.a.url: the scheme 'ftp' is not fetched; allowed: http, https, file",
        "x.json: tasks.b.urls[0]: 'x' is not an absolute URL; write http://... or https://...",
        "x.json: zone: unknown key (did you mean 'timezone'?)",
    ]
    assert headlines('{"url": }', "x.json")[0].startswith("x.json:1:9: not JSON: ")


def test_the_operators_floor_and_roots_are_held() -> None:
    strict = Settings.model_validate({"verify": "digest", "roots": {"default": "/d", "nas": "/n"}})

    assert headlines(URL + "root: nass\nverify: length\n", config=strict) == [
        (
            "iso.yaml:2:7: root: 'nass' is not a download root of the configuration; "
            "known: default, nas (did you mean 'nas'?)"
        ),
        (
            "iso.yaml:3:9: verify: 'length' asks for less than the configuration, "
            "which has verify: digest"
        ),
    ]
    assert headlines(URL, config=strict) == [
        "iso.yaml:1:6: url: has no checksum, and verify: digest asks for one"
    ]


def test_a_file_larger_than_allowed_is_refused() -> None:
    small = Settings.model_validate({"intake": {"max_job_bytes": "1KiB"}})

    assert headlines(URL + "#" * 1024, config=small)[0].startswith("iso.yaml: larger than ")


def test_a_file_whose_name_cannot_be_the_jobs_needs_a_name() -> None:
    assert headlines(URL, "my job.yaml") == [
        (
            "my job.yaml:1:1: the file's name 'my job' cannot be the job's (letters, digits, '.', '_', "
            "'-', at most 128, the first a letter or digit); write name: or rename the file"
        )
    ]
    assert load((URL + "name: ok\n").encode(), "my job.yaml", SETTINGS).name == "ok"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("crawl.urls", "crawl"),
        ("my crawl (2).urls", "my-crawl--2-"),
        ("größe.urls", "gr--e"),
        ("\udcff.urls", "list"),
        ("-x.urls", "x"),
        ("a.b.urls", "a.b"),
        ("x" * 200 + ".urls", "x" * 128),
        ("iso.yaml", "iso"),
        ("a.b.json", "a.b"),
    ],
)
def test_the_job_is_named_like_its_file(file: str, expected: str) -> None:
    assert job_name(file) == expected


def test_a_list_of_any_name_is_a_job() -> None:
    job = list_job("my list.urls", "/jobs/active/my list.urls", "ab" * 32, SETTINGS)

    assert (job.name, job.revision, job.groups[0].name) == ("my-list", "ab" * 32, "my-list")


def test_arguments_are_tried_like_lines() -> None:
    with pytest.raises(DocumentError) as caught:
        url_job(["md5:00", "ftp://example.org/a", "md5:00", "b"], SETTINGS, name="get", dest="")

    assert sorted(caught.value.headlines()) == [
        "arguments: the checksum md5:00 stands before any URL",
        "arguments: urls[0]: the scheme 'ftp' is not fetched; allowed: http, https, file",
        "arguments: urls[1]: 'b' is not an absolute URL; write http://... or https://...",
    ]


# ---------------------------------------------------------------- needs


def test_long_circles_are_shortened() -> None:
    text = "tasks:\n" + "".join(
        f"  t{n}: {{url: https://example.org/{n}, needs: t{(n + 1) % 50}}}\n" for n in range(50)
    )

    assert headlines(text) == [
        (
            "iso.yaml:2:43: tasks.t0.needs: the needs go in a circle: "
            "t0 -> t1 -> t2 -> t3 -> ... -> t48 -> t49 -> t0"
        )
    ]


@settings(derandomize=True, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefx"), max_size=4), max_size=6
    )
)
def test_every_task_is_behind_its_needs_or_there_is_a_circle(needs: dict[str, list[str]]) -> None:
    names, cycles = order(needs)

    for position, name in enumerate(names):
        assert set(needs[name]) & set(needs) <= set(names[:position])
    for cycle in cycles:
        assert cycle[0] == cycle[-1]
        assert all(after in needs[name] for name, after in itertools.pairwise(cycle))
    assert bool(cycles) == (len(names) < len(needs))


def test_a_very_long_chain_has_an_order() -> None:
    needs = {str(n): [str(n + 1)] for n in range(50_000)}

    names, cycles = order(needs)

    assert (names[0], names[-1], len(names), cycles) == ("49999", "0", 50_000, [])


# ---------------------------------------------------------------- anything


def outcome(data: bytes, file: str) -> Job | DocumentError:
    try:
        return load(data, file, SETTINGS)
    except DocumentError as exc:
        return exc


def holds(data: bytes, file: str) -> None:
    found = outcome(data, file)

    if isinstance(found, DocumentError):
        assert found.problems
        assert all(line.startswith(file) for line in found.headlines())
    else:
        assert found.groups


@settings(derandomize=True, max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(["x.yaml", "x.json"]))
def test_any_bytes_are_a_job_or_an_error(data: bytes, file: str) -> None:
    holds(data, file)


KEYS = st.sampled_from(
    [
        *("url", "urls", "base", "dest", "filename", "checksum", "sums", "headers", "retry"),
        "tasks",
        *("vars", "needs", "limits", "expect", "timeout", "size", "verify", "name", "x-a"),
        *("attempts", "type", "a", "b", "schedule", "urll"),
    ]
)
VALUES = st.sampled_from(
    [
        *("https://example.org/a", "b", "${a}", "${needs.a.path}", "${", "5", "", "none", "../x"),
        *("1KiB..2KiB", "5s", f"https://example.org/c sha256:{'ab' * 32}", "md5:00", "a b"),
    ]
)
TREES = st.recursive(
    VALUES | st.none() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


@settings(derandomize=True, max_examples=200)
@given(st.dictionaries(KEYS, TREES, max_size=6))
def test_any_keys_are_a_job_or_an_error(keys: dict[str, object]) -> None:
    for file in ("x.json", "x.yaml"):
        holds(json.dumps(keys).encode(), file)
        holds(json.dumps({"url": "https://example.org/a"} | keys).encode(), file)
