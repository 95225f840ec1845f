import math

from dukd.runs.bars import Bar, bars


def test_bars_begin_at_zero_and_the_longest_fills_the_column() -> None:
    """From -1 to 3: zero lies at a quarter; 3 takes three quarters, -1 the first quarter."""
    table = bars([Bar("a", 3.0, strong=True), Bar("b", -1.0)], label="loss", unit="dB")

    assert '<rect x="250.0" y="0" width="750.0"' in table
    assert '<rect x="0.0" y="0" width="250.0"' in table
    assert table.count('class="strong"') == 1
    assert "<td>3.00 dB</td>" in table
    assert "<td>\u22121.00 dB</td>" in table


def test_names_stay_text_and_odd_values_are_left_out() -> None:
    table = bars([Bar("<b>", 0.0), Bar("nan", math.nan)], label="<i>")

    assert "&lt;b&gt;" in table
    assert "&lt;i&gt;" in table
    assert "nan" not in table
    assert bars([Bar("a", math.inf)], label="x") == '<p class="none">No values of x.</p>'
