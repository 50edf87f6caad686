"""What `outdim doctor` says of this machine."""

import torch
from outdim import doctor
from outdim.bench import precision


def test_it_says_what_bfloat16_is_worth(monkeypatch):
    for speedup, advised in ((3.04, True), (0.8, False)):
        monkeypatch.setattr(precision, "bfloat16_speedup", lambda device, s=speedup: s)
        said = doctor.examine()
        assert f"bfloat16 are {speedup:.1f} times as fast as in float32" in said
        assert ("--dtype bfloat16" in said) == advised


def test_it_says_where_other_programs_take_the_cores(monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda device: 1.0)
    for load, threads, warned in ((8.0, 2, True), (0.0, 1, False), (8.0, 1, False)):
        monkeypatch.setattr(doctor.os, "getloadavg", lambda at=load: (at, at, at))
        monkeypatch.setattr(doctor.os, "cpu_count", lambda: 2)
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        assert ("wait for each other" in doctor.examine()) == warned


def test_the_measurement_is_a_ratio_of_times():
    assert 0.01 < precision.bfloat16_speedup() < 1000
