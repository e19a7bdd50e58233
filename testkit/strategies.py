"""Hypothesis strategies: text and JSON that somebody may send."""

from __future__ import annotations

from hypothesis import strategies as st

# What someone may send where text is expected: control characters, bidirectional overrides, joiners, astral planes.
any_text = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x00\x1b\n\x85\u2028\u202e\u200d😊"))

json_scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text

json_values = st.recursive(
    json_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3), max_leaves=5
)
