"""What `outdim doctor` says of this machine."""

from outdim import doctor
from outdim.bench import precision


def test_it_says_what_bfloat16_is_worth(monkeypatch):
    for speedup, advised in ((3.04, True), (0.8, False)):
        monkeypatch.setattr(precision, "bfloat16_speedup", lambda device, s=speedup: s)
        said = doctor.examine()
        assert f"bfloat16 are {speedup:.1f} times as fast as in float32" in said
        assert ("--dtype bfloat16" in said) == advised


def test_the_measurement_is_a_ratio_of_times():
    assert 0.01 < precision.bfloat16_speedup() < 1000
