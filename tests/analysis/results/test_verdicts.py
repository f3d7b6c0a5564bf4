"""Verdicts from made-up shares whose truth is known, and how rare they are on noise."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.results.effects import NUMBERS, Statistics, estimates, partial_estimates
from steerscope.analysis.results.stats import holm, prediction_p
from steerscope.analysis.results.verdicts import LEAST, TOLD, VERDICTS, Basis, leave_one_out, rank, wrong_way

Values = NDArray[np.float64]
NOISE, MEANING = ("isotropic",) * 12, ("concepts",) * 12

# By name: the real share, then mean and spread of the shares of noise and of other concepts.
CASES = {
    "specific": (0.6, (0.1, 0.03), (0.1, 0.03)),
    "concept": (0.6, (0.1, 0.03), (0.6, 0.1)),
    "shared": (0.62, (0.6, 0.1), (0.6, 0.1)),
    "less": (0.1, (0.6, 0.05), (0.6, 0.05)),
    "against": (-0.5, (0.0, 0.03), (0.0, 0.03)),
    "small": (0.01, (0.0, 0.004), (0.0, 0.004)),
    "untested": (0.2, (0.1, 0.3), (0.1, 0.3)),
}


def shared_out(count: int, about: tuple[float, float], generator: np.random.Generator) -> Values:
    """So many shares with exactly this mean and spread."""
    mean, size = about
    if count < 2:
        return np.full(count, mean)
    off: Values = generator.normal(size=count)
    off -= off.mean()
    return np.asarray(mean + size * off / off.std(ddof=1))


def drawn(cases: Sequence[Any], noise: int = 12, meaning: int = 12, seed: int = 0) -> Values:
    """[vector, item]"""
    generator = np.random.default_rng(seed)
    columns = [
        np.concatenate([[real], shared_out(noise, first, generator), shared_out(meaning, second, generator)])
        for real, first, second in cases
    ]
    return np.stack(columns, axis=1)


def made(
    shares: Values, families: Sequence[str], sign: float = 1.0, unclear: Sequence[int] = (), prompts: int = 10
) -> tuple[Basis, Values, Values]:
    """A basis and effects with these shares of the vectors' own wholes; the metric of the real one has `sign`."""
    generator = np.random.default_rng(1)
    wobble, jitter = generator.normal(size=prompts), generator.normal(size=(*shares.shape, prompts))
    wobble, jitter = wobble - wobble.mean(), jitter - jitter.mean(axis=-1, keepdims=True)
    whole = np.tile(2 + 0.3 * wobble, (len(shares), 1))
    own = shares[:, :, None] * whole[:, None] + 0.01 * jitter
    for vector in unclear:
        whole[vector] = wobble + 0.1
    total = 3 * sign * whole[0]
    return Basis(np.arange(prompts), total, whole, ("", *families)), 3 * sign * own[0], own


def judge(
    shares: Values, families: Sequence[str] = NOISE + MEANING, options: Statistics | None = None, **how: Any
) -> dict[str, Any]:
    tests = how.pop("tests", None)
    return estimates(*made(shares, families, **how), options or Statistics(), tests)


def test_each_verdict_is_given_where_it_is_true() -> None:
    found = judge(drawn(list(CASES.values())))
    assert list(CASES) == list(VERDICTS) and found["verdict"].tolist() == list(CASES)
    assert set(found) == set(NUMBERS)
    np.testing.assert_allclose(found["share"], [real for real, *_ in CASES.values()], atol=1e-9)
    np.testing.assert_allclose(found["share"], found["own_share"], atol=1e-9)
    np.testing.assert_allclose(found["noise_share"], [mean for _, (mean, _), _ in CASES.values()], atol=1e-9)
    np.testing.assert_allclose(found["concepts_share"], [mean for *_, (mean, _) in CASES.values()], atol=1e-9)
    np.testing.assert_allclose(found["reference"], found["noise_share"] * 6)  # of the total
    assert (found["reference_low"] <= found["reference"]).all() and (found["concepts"] <= found["concepts_high"]).all()


def test_p_values_are_predictions_over_vectors_by_hand() -> None:
    shares = drawn(list(CASES.values()))
    found = judge(shares)
    np.testing.assert_allclose(found["p_noise"], prediction_p(shares[0], shares[1:13]), rtol=1e-6)
    np.testing.assert_allclose(found["p_concepts"], prediction_p(shares[0], shares[13:]), rtol=1e-6)
    above = shares[0] - shares[1:13].mean(axis=0) >= 0.02
    told = np.where(above & np.isin(found["verdict"], TOLD), np.fmax(found["p_noise"], found["p"]), 1.0)
    np.testing.assert_allclose(found["p_holm"], holm(told), rtol=1e-6)
    assert (found["p_specific"] >= found["p_holm"] - 1e-15).all() and (found["p_holm"] >= found["p_adjusted"]).all()


def test_a_share_at_what_is_needed_is_just_told() -> None:
    cases = list(CASES.values())
    needed = judge(drawn(cases))["needed"][0]
    for factor, verdict in ((0.99, "untested"), (1.01, "concept")):
        real = 0.1 + factor * (needed - 0.1)
        shares = drawn([(real, (0.1, 0.03), (0.1, 0.3)), *cases[1:]])
        assert (judge(shares)["verdict"][0] == verdict) == (verdict == "concept")


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        ((0.6, (0.2, 0.02), (0.2, 0.02)), "specific"),  # though others pass here as well
        ((0.6, (0.2, 0.02), (0.6, 0.02)), "concept"),
        ((0.3, (0.6, 0.02), (0.6, 0.02)), "less"),  # though they pass
        ((0.01, (0.6, 0.02), (0.6, 0.02)), "less"),  # though it is small
        ((-0.01, (0.6, 0.02), (0.6, 0.02)), "small"),  # too small to be against
        ((-0.3, (0.6, 0.02), (0.6, 0.02)), "against"),  # though it is less
        ((-0.3, (-0.3, 0.02), (-0.3, 0.02)), "against"),  # as others are
        ((0.015, (0.0, 0.0005), (0.0, 0.0005)), "small"),  # however far it is beyond them
        ((0.03, (0.02, 0.0002), (0.02, 0.0002)), "untested"),  # beyond them by less than what is of interest
        ((0.6, (0.62, 0.01), (0.1, 0.01)), "shared"),  # beyond concepts alone is not beyond noise
    ],
)
def test_of_what_fits_the_strongest_is_said(case: Any, verdict: str) -> None:
    assert judge(drawn([case, *CASES.values()]))["verdict"][0] == verdict


def test_signs_are_relative_to_the_total() -> None:
    shares = drawn(list(CASES.values()))
    plus, minus = judge(shares), judge(shares, sign=-1.0)
    for name in NUMBERS:
        if name in ("effect", "reference", "concepts"):
            np.testing.assert_allclose(plus[name], -minus[name])
        elif name.endswith(("low", "high")):
            other = name.replace("low", "?").replace("high", "low").replace("?", "high")
            mirrored = minus[other] if name in ("low", "high") else minus[name]
            np.testing.assert_allclose(plus[name], -mirrored)
        elif name == "verdict":
            assert plus[name].tolist() == minus[name].tolist()
        else:
            np.testing.assert_allclose(plus[name], minus[name])


def test_of_a_whole_that_may_be_nothing_no_node_is_anything() -> None:
    found = judge(drawn(list(CASES.values())), unclear=[0])
    assert set(found["verdict"]) == {"untested"}
    assert (found["p_holm"] == 1).all() and (found["p_specific"] == 1).all()


def test_references_that_do_nothing_themselves_are_left_out() -> None:
    shares = drawn(list(CASES.values()))
    without = judge(shares)
    wild = np.full((2, shares.shape[1]), 40.0)
    more = np.concatenate([shares[:13], wild, shares[13:]])
    families = (*NOISE, "isotropic", "covariance", *MEANING)
    found = judge(more, families, unclear=[13, 14])
    assert found["verdict"].tolist() == without["verdict"].tolist()
    np.testing.assert_allclose(found["noise_share"], without["noise_share"], atol=0.01)
    counted = judge(more, families)  # where they count, nothing can be told from them
    assert not set(counted["verdict"]) & set(TOLD)


def test_with_noise_alone_a_claim_says_no_more_than_noise_allows() -> None:
    found = judge(drawn(list(CASES.values()))[:13], NOISE)
    assert found["verdict"].tolist()[:3] == ["concept", "concept", "shared"]
    assert (
        np.isnan(found["p_concepts"]).all() and np.isnan(found["concepts"]).all() and (found["p_specific"] == 1).all()
    )


@pytest.mark.parametrize("family", ["concepts", "given"])
def test_with_meaning_alone_what_is_beyond_it_is_specific_and_there_is_no_concept(family: str) -> None:
    shares = drawn(list(CASES.values()))
    found = judge(np.concatenate([shares[:1], shares[13:]]), (family,) * 12)
    assert found["verdict"].tolist() == ["specific", "shared", "shared", "less", "against", "small", "untested"]
    assert np.isnan(found["p_noise"]).all() and np.isnan(found["reference"]).all()


@pytest.mark.parametrize("count", [0, 1, LEAST - 1, LEAST])
def test_few_references_say_nothing(count: int) -> None:
    shares = drawn([(0.6, (0.1, 0.001), (0.1, 0.001))], noise=count, meaning=0)
    found = judge(shares, ("isotropic",) * count)
    assert found["share"][0] == pytest.approx(0.6)
    assert found["verdict"].tolist() == ["concept" if count == LEAST else "untested"]


def test_all_that_could_have_been_chosen_count() -> None:
    cases = [(0.25, (0.1, 0.03), (0.1, 0.03)), *list(CASES.values())[1:]]
    shares = drawn(cases)
    few, many = judge(shares), judge(shares, tests=1000)
    assert few["verdict"][0] == "specific" and many["verdict"][0] not in TOLD
    assert many["needed"][0] > few["needed"][0]
    np.testing.assert_allclose(judge(shares, tests=14)["p_holm"][1], few["p_holm"][1] * 14 / 7, rtol=1e-6)
    assert judge(shares, tests=3)["p_holm"].tolist() == few["p_holm"].tolist()  # there are seven


def one_outlier(vectors: int, items: int) -> Values:
    """Each item has one reference far from the others, and a real vector farther."""
    shares = drawn([(0.9, (0.1, 0.001), (0.1, 0.001))] * items, noise=vectors, meaning=0)
    for item in range(items):
        shares[1 + item % vectors, item] = 0.2
    return shares


@pytest.mark.parametrize(("vectors", "rate", "verdict"), [(10, 0.1, "concept"), (9, 1 / 9, "untested")])
def test_nothing_is_said_where_references_are_told_from_each_other_more_than_twice_as_often(
    vectors: int, rate: float, verdict: str
) -> None:
    shares = one_outlier(vectors, 10)
    basis, values, own = made(shares, ("isotropic",) * vectors)
    assert leave_one_out(basis.shares(own), basis, 0.05) == {"noise": pytest.approx(rate), "concepts": None}
    assert set(estimates(basis, values, own, Statistics())["verdict"]) == {verdict}


def test_how_often_references_are_told_from_the_others_is_counted_by_hand() -> None:
    shares = np.random.default_rng(3).normal(0.2, 0.1, (21, 5))
    basis, _, own = made(shares, ("covariance",) * 8 + ("given",) * 12)
    found = leave_one_out(basis.shares(own), basis, 0.3)
    for kind, rows in (("noise", range(1, 9)), ("concepts", range(9, 21))):
        told = [
            prediction_p(shares[n, i], np.array([shares[m, i] for m in rows if m != n])) < 0.3
            for n in rows
            for i in range(5)
        ]
        assert found[kind] == pytest.approx(np.mean(told)) and 0 < np.mean(told) < 1


def test_what_varies_by_rounding_alone_is_told_from_nothing() -> None:
    shares = drawn([(1.0, (1.0, 1e-8), (1.0, 1e-8))])
    basis, values, own = made(shares, NOISE + MEANING)
    assert leave_one_out(shares, basis, 0.05) == {"noise": 0.0, "concepts": 0.0}
    own = shares[:, :, None] * basis.own[:, None]
    assert estimates(basis, 3 * own[0], own, Statistics())["verdict"].tolist() == ["shared"]


@pytest.mark.parametrize("way", [1, -1])
def test_the_rank_by_hand(way: int) -> None:
    shares = np.random.default_rng(4).standard_t(2, size=(9, 4)) * 0.1 + 0.3
    members = np.array([1, 2, 4, 5, 7, 8])
    every = shares[[0, *members]]
    best = []
    for n in range(7):
        row = []
        for i in range(4):
            others = np.delete(every[:, i], n)
            off = way * (every[n, i] - others.mean())
            t = off / (others.std(ddof=1) * np.sqrt(1 + 1 / 6))
            counts = off >= 0.02 and (way < 0 or every[n, i] >= 0.02)
            row.append(t if counts else -np.inf)
        best.append(row)
    expected = [
        (1 + sum(max(best[n]) >= best[0][i] for n in range(1, 7))) / 7 if np.isfinite(best[0][i]) else 1.0
        for i in range(4)
    ]
    np.testing.assert_allclose(rank(shares, members, 0.02, way), expected)
    assert (rank(shares, members[:3], 0.02, way) == 1.0).all()


@pytest.mark.parametrize("tails", [2, 30])
def test_one_more_of_the_references_is_rarely_told_from_them_whatever_the_tails(tails: int) -> None:
    """Shares of 22 nodes, each vector with a size of its own: how many tables name any node."""
    generator, named, tables = np.random.default_rng(5), 0, 200
    for _ in range(tables):
        sizes = generator.chisquare(tails, size=(29, 1)) / tails
        shares = 0.1 + 0.05 * generator.normal(size=(29, 22)) / np.sqrt(sizes)
        named += bool(set(judge(shares, ("isotropic",) * 16 + MEANING)["verdict"]) & set(TOLD))
    assert named / tables < 1 / 17 + 0.03


@pytest.mark.parametrize("kind", ["specific", "concept"])
def test_planted_carriers_are_told_among_many_that_are_not(kind: str) -> None:
    generator, found, false = np.random.default_rng(6), 0, 0
    for _ in range(40):
        shares = generator.normal(0.1, 0.03, (25, 60))
        shares[0, :4] += 0.4
        if kind == "concept":
            shares[13:, :4] += 0.4
        verdict = judge(shares)["verdict"]
        found += int((verdict[:4] == kind).sum())
        false += bool(set(verdict[4:]) & set(TOLD))
    assert found / 160 > 0.9 and false / 40 < 0.15


def test_where_every_prompt_has_every_item_parts_are_the_whole() -> None:
    basis, values, own = made(drawn(list(CASES.values())), NOISE + MEANING)
    whole, parts = (f(basis, values, own, Statistics(), 9) for f in (estimates, partial_estimates))
    assert (parts.pop("prompts") == 10).all()
    for name, column in whole.items():
        if name == "verdict":
            assert parts[name].tolist() == column.tolist()
        else:
            np.testing.assert_allclose(parts[name], column, rtol=1e-6, atol=1e-12)


def test_items_that_some_prompts_lack_are_judged_on_those_that_have_them() -> None:
    basis, values, own = made(drawn(list(CASES.values())), NOISE + MEANING)
    values[2:4, 7:], own[:, 2:4, 7:] = np.nan, np.nan
    found = partial_estimates(basis, values, own, Statistics())
    assert found["prompts"].tolist() == [10, 10, 7, 7, 10, 10, 10]
    some = estimates(basis.where(np.arange(10) < 7), values[2:4, :7], own[:, 2:4, :7], Statistics())
    for name in ("effect", "low", "high", "share", "noise_share", "p", "p_noise", "p_concepts"):
        np.testing.assert_allclose(found[name][2:4], some[name])
    assert found["verdict"].tolist() == list(CASES)


def rival(missing: bool) -> list[str]:
    """A real vector that stands out at one item, and a reference that stands out more at another."""
    shares = drawn([(0.25, (0.1, 0.02), (0.1, 0.02)), (0.1, (0.1, 0.02), (0.1, 0.02))])
    shares[5, 1] = 0.9
    basis, values, own = made(shares, NOISE + MEANING)
    if missing:
        values[1, 8:], own[:, 1, 8:] = np.nan, np.nan
    named: list[str] = partial_estimates(basis, values, own, Statistics(alpha=0.06))["verdict"].tolist()
    return named


def test_a_reference_that_stands_out_more_at_another_item_forbids_a_claim() -> None:
    assert rival(missing=False)[0] not in TOLD


def test_it_forbids_it_where_some_prompts_lack_the_other_item_too() -> None:
    assert rival(missing=True)[0] not in TOLD


def test_wrong_way_is_the_share_of_prompts_against_the_mean() -> None:
    values = np.array([[1.0, 2.0, -1.0, 3.0], [-1.0, -2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert wrong_way(values).tolist() == [0.25, 0.25, 0.0]


def test_fewer_vectors_and_some_prompts_of_a_basis() -> None:
    basis, _, own = made(drawn(list(CASES.values())), NOISE + MEANING, unclear=[3])
    assert basis.members(True).tolist() == [1, 2, *range(4, 13)] and basis.members(False).tolist() == [*range(13, 25)]
    few = basis.first(6)
    assert few.families == ("", *NOISE[:5]) and few.members(True).tolist() == [1, 2, 4, 5]
    assert few.members(False).tolist() == []
    kept = basis.where(np.arange(10) % 2 == 0)
    assert kept.groups.tolist() == [0, 2, 4, 6, 8] and kept.own.shape == (25, 5)
    weights = np.arange(10.0) / 45
    expected = (own @ weights) / (basis.own @ weights)[:, None]
    assert np.isnan(basis.shares(own, weights)[3]).all()
    np.testing.assert_allclose(np.delete(basis.shares(own, weights), 3, 0), np.delete(expected, 3, 0))


def test_prompts_of_one_group_say_nothing() -> None:
    basis, values, own = made(drawn(list(CASES.values())), NOISE + MEANING)
    found = estimates(replace(basis, groups=np.zeros(10, dtype=int)), values, own, Statistics())
    assert set(found["verdict"]) == {"untested"} and np.isnan(found["low"]).all() and (found["p"] == 1).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [({"smallest": 1.1}, "smallest=1.1"), ({"smallest": -0.1}, "smallest=-0.1"), ({"alpha": 0.0}, "alpha=0.0")],
)
def test_options_out_of_range_are_refused(options: dict[str, float], match: str) -> None:
    with pytest.raises(BadArgument, match=match):
        Statistics(**options)


def test_references_at_the_real_vectors_own_large_nodes_alone_would_break_the_rank() -> None:
    """Why references run at all nodes: all vectors are alike, yet one that chooses the nodes is told too often."""
    generator, references, items, tries = np.random.default_rng(0), 9, 60, 600
    told = np.zeros(2)
    for _ in range(tries):
        shares = 0.1 * generator.standard_t(4, (1 + references, items))
        members = np.arange(1, 1 + references)
        chosen = shares[0] >= np.quantile(shares[0], 0.9)
        for way, own in enumerate((shares, shares[:, chosen])):
            told[way] += (rank(own, members, 0.02, 1) <= 1 / (1 + references) + 1e-9).any()
    everywhere, at_own = told / tries
    assert everywhere < 0.13  # stated: one in ten
    assert at_own > 0.3
