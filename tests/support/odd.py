"""Values that nobody expects, for fuzz tests: all can be pickled."""

import string
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

INTEGERS = (0, 1, -1, 2, 3, 7, 64, 2**31, -(2**31), 2**63 - 1, 2**63, -(2**63), 2**64, 10**15 + 1, 10**400)
FLOATS = (0.0, -0.0, 0.5, 1.5, -1.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", " ", "0", "-1", "nan", "inf", "²", "٣", "legacy", "dedup-small", "a\nb", "\x00", "\x1b[31m", "\udcff",
         "x" * 5000,
         "9" * 400, "[/b]", "%s", "None", "../..", "/dev/null")  # fmt: skip
OTHERS = (None, True, False, b"", b"\xff", (), [], {}, [1, 2], (0, 0), [[]], {"a": 1}, Path("nowhere.toml"), 1j,
          range(3),
          np.int64(3), np.float32("nan"), np.bool_(True), np.zeros(3), np.array(["a"]), np.int8(-1), object,
          str)  # fmt: skip

values = st.one_of(
    st.sampled_from(INTEGERS), st.sampled_from(FLOATS), st.sampled_from(TEXTS), st.sampled_from(OTHERS),
    st.text(max_size=5), st.lists(st.sampled_from(INTEGERS + TEXTS[:9] + OTHERS[:3]), max_size=3),
)  # fmt: skip
# Texts without digits: nothing that could ask for a long run.
texts = st.one_of(
    st.sampled_from(("", "-1", "0", "nan", "inf", "1e308", "²", "٣", "9" * 400, "x" * 5000, "a\nb", "\x1b[31m",
    "\udcff", ",",
                     "--", "-", "[/b]", "=", "1e-12", "0x1", "1_0", "folder", "file", "file/x")),
    st.text(st.characters(exclude_categories=["Nd", "Cs"], exclude_characters="\x00/"), max_size=8),
    st.text(string.punctuation.replace("/", ""), max_size=4),
)  # fmt: skip
