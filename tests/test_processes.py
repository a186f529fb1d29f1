"""What tests start ends with them: programs that hang are killed, and whatever they have started."""

import re
import sys
import time

import psutil
import pytest

from tests.processes import run_forked, run_program


HANGS = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
    "print('grandchild', child.pid, file=sys.stderr, flush=True)\n"
    "time.sleep(60)\n"
)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_program_that_hangs_is_killed_with_its_children_in_other_sessions():
    with pytest.raises(pytest.fail.Exception, match="still ran after 3 s and was killed; it said: grand") as failure:
        run_program([sys.executable, "-c", HANGS], seconds=3)
    assert not is_running(int(re.search("grandchild ([0-9]+)", str(failure.value))[1]))


def test_a_program_that_ends_gives_its_status_and_its_words():
    done = run_program([sys.executable, "-c", "import sys; print('out'); sys.exit('err')"])
    assert (done.returncode, done.stdout, done.stderr) == (1, "out\n", "err\n")


def test_a_forked_task_gives_its_exit_code_or_is_killed():
    assert run_forked(sys.exit, 3) == 3
    with pytest.raises(pytest.fail.Exception, match="sleep still ran after 1 s and was killed"):
        run_forked(time.sleep, 60, seconds=1)
