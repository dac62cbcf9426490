"""The process of the fuzz tests sees what it is there to see, and the next case finds it alive."""

import pytest
from fuzzing import Worker


@pytest.mark.parametrize(
    "what, fault",
    [
        ("fine", None),
        ("clean", None),
        ("crash", "ends the process with SIGSEGV"),
        ("hang", "computes for more than 5 s"),
        ("status", "ends the process with status 3"),
        ("accident", "an accident: TypeError: '<' not supported between instances of 'int' and 'str'"),
        ("two lines", "not one line: ValueError: one\ntwo"),
        ("no words", "not one line: ValueError: "),
        ("wrong kind", "KeyError: 'name'"),
    ],
)
def test_what_a_case_does_is_told(cases: Worker, what: str, fault: str | None) -> None:
    assert cases.ask("probe", what) == fault
    assert cases.ask("probe", "fine") is None
