"""Every selector against plain counting, scikit-learn and SciPy, unit by unit."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, ttest_ind
from sklearn.metrics import average_precision_score, roc_auc_score

from sparcom_jax.errors import InputError
from sparcom_jax.select import counts as counts_module
from sparcom_jax.select.auroc import auroc
from sparcom_jax.select.average_precision import average_precision
from sparcom_jax.select.difference import difference
from sparcom_jax.select.halves import in_half
from sparcom_jax.select.lape import BAR, LOWEST
from sparcom_jax.select.sample import STRATUM_ROWS, Sample
from sparcom_jax.select.select import select
from sparcom_jax.select.settings import SelectSettings
from sparcom_jax.store.run import Run
from sparcom_jax.store.statistics import NORM_SUM, POSITIVE_COUNT
from sparcom_jax.store.units import open_units
from sparcom_jax.units.unit_set import UnitSet
from tests.synthetic import DENSE, MIXED, ROWS_PER_WRITE, make_run, random_values, write_attribution

LABELS = [0] * 31 + [1] * 25 + [2] * 27
ALL = SelectSettings(half="all", size=7, expert_size=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("selectors") / "run", LABELS, groups=MIXED, seed=5)


def sample_of(run: Run, *, control_length: bool) -> Sample:
    return Sample.of(run, np.ones(len(run.category), bool), control_length=control_length)


def counts_of(run: Run, group: str = "mlp") -> np.ndarray:
    counts = run.count(group).read().result()
    return counts.reshape(len(counts), -1)


def one_of(run: Run, settings: SelectSettings) -> UnitSet:
    (units,) = select(run, settings)
    return units


def test_strata_hold_neighbours_in_length(run: Run) -> None:
    sample = sample_of(run, control_length=True)
    strata = [part[part >= 0] for part in sample.strata]
    assert sorted(np.concatenate(strata)) == list(range(len(LABELS)))
    assert len(strata) == round(len(LABELS) / STRATUM_ROWS) > 1
    assert max(map(len, strata)) - min(map(len, strata)) <= 1
    for first, second in itertools.pairwise(strata):
        assert sample.tokens[first].max() <= sample.tokens[second].min()
    assert sample_of(run, control_length=False).strata.shape == (1, len(LABELS))


def test_auroc_is_scikit_learns(run: Run) -> None:
    counts = counts_of(run)
    score, z = auroc(counts, sample_of(run, control_length=False))
    frequency = counts / run.token_count[:, None]
    for category, unit in itertools.product(range(3), range(counts.shape[1])):
        expected = roc_auc_score(np.array(LABELS) == category, frequency[:, unit])
        assert score[category, unit] == pytest.approx(expected, abs=1e-6)
        assert (z[category, unit] > 0) == (expected > 0.5)


def test_auroc_within_strata_counts_pairs_and_knows_its_deviation(run: Run) -> None:
    """The deviation against labels that are in fact shuffled within strata."""
    sample, counts = sample_of(run, control_length=True), counts_of(run)
    frequency = counts / run.token_count[:, None]
    random = np.random.default_rng(0)
    for category, unit in ((0, 0), (1, 5), (2, 18)):
        values = np.where(frequency[:, unit] < 0.3, 0, np.where(frequency[:, unit] > 0.7, 1, frequency[:, unit]))
        tied = np.round(values * run.token_count).astype(np.uint16)[:, None]
        score, z = auroc(tied, sample)

        def sums(labels: np.ndarray, values: np.ndarray = values, category: int = category) -> tuple[float, int]:
            above, pairs = 0.0, 0
            for part in sample.strata:
                for i, j in itertools.product(part[part >= 0], repeat=2):
                    if labels[i] == category != labels[j]:
                        above += float(values[i] > values[j]) + 0.5 * float(values[i] == values[j])
                        pairs += 1
            return above, pairs

        above, pairs = sums(sample.labels)
        assert score[category, 0] == pytest.approx(above / pairs, abs=1e-6)
        shuffled = []
        for _ in range(400):
            labels = sample.labels.copy()
            for part in sample.strata:
                members = part[part >= 0]
                labels[members] = random.permutation(labels[members])
            shuffled.append(sums(labels)[0])
        assert z[category, 0] == pytest.approx((above - np.mean(shuffled)) / np.std(shuffled), abs=0.25)


def test_a_unit_that_follows_length_alone_is_not_a_categorys(tmp_path_factory: pytest.TempPathFactory) -> None:
    labels, tokens = [0] * 120 + [1] * 120, [*range(50, 170), *range(90, 210)]
    run = make_run(tmp_path_factory.mktemp("length") / "run", labels, token_count=tokens, categories=("CLS", "QA"))
    longer = np.rint(np.array(tokens) ** 2 / 210).astype(np.uint16)[:, None]  # p grows with T
    for measure, neutral in ((auroc, 0.5), (difference, 0.0), (average_precision, 0.5)):
        free = measure(longer, sample_of(run, control_length=False))[0]
        held = measure(longer, sample_of(run, control_length=True))[0]
        assert free[1, 0] > neutral + 0.1
        assert abs(held[1, 0] - neutral) < (free[1, 0] - neutral) / 3


def test_average_precision_is_scikit_learns(run: Run) -> None:
    counts = counts_of(run) // 8  # many ties
    tokens = run.token_count[:, None]
    score = average_precision(counts, sample_of(run, control_length=False))[0]
    for category, unit in itertools.product(range(3), range(counts.shape[1])):
        frequency = (counts / tokens)[:, unit]
        expected = average_precision_score(np.array(LABELS) == category, frequency)
        assert score[category, unit] == pytest.approx(expected, abs=1e-6)


def test_difference_is_welchs_test(run: Run) -> None:
    counts = counts_of(run)
    frequency = counts / run.token_count[:, None]
    score, t, freedom = difference(counts, sample_of(run, control_length=False))
    for category in range(3):
        one = np.array(LABELS) == category
        expected = ttest_ind(frequency[one], frequency[~one], equal_var=False)
        np.testing.assert_allclose(score[category], frequency[one].mean(0) - frequency[~one].mean(0), atol=1e-6)
        np.testing.assert_allclose(t[category], expected.statistic, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(freedom[category], expected.df, rtol=1e-3)


def test_difference_at_equal_length_is_that_of_least_squares(run: Run) -> None:
    counts, sample = counts_of(run), sample_of(run, control_length=True)
    frequency = counts / run.token_count[:, None]
    score, _, _ = difference(counts, sample)
    for category in range(3):
        one = (sample.labels == category).astype(float)
        design = np.stack([one, np.ones_like(one), np.log(sample.tokens)], axis=1)
        fitted, *_ = np.linalg.lstsq(design, frequency, rcond=None)
        np.testing.assert_allclose(score[category], fitted[0], atol=1e-5)


def test_lape_follows_its_papers_code(run: Run) -> None:
    """Written as one would from the paper's code: over units, then languages."""
    units = one_of(run, SelectSettings(selector="lape", half="all"))
    names = ["mlp", "shared", "routed", "expert"]
    assert list(units.groups) == names
    labels = np.array(LABELS)
    probability = np.concatenate([
        np.stack([counts_of(run, name)[labels == c].sum(0) / run.token_count[labels == c].sum() for c in range(3)], 1)
        for name in names
    ])  # fmt: skip
    flat = np.sort(probability.reshape(-1))
    bar = flat[round(len(flat) * BAR) - 1]
    entropy = []
    for one in probability:
        share = one / one.sum() if one.sum() else one
        h = -sum(s * math.log(s) for s in share if s > 0)
        entropy.append(h if (one > bar).any() else math.inf)
    lowest = np.argsort(entropy, kind="stable")[: round(len(entropy) * LOWEST)]
    expected = np.zeros((3, len(entropy)), bool)
    for unit in lowest:
        expected[:, unit] = probability[unit] > bar
    assert expected.any()
    found = np.concatenate([units.mask[name].reshape(3, -1) for name in names], axis=1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("selector", ["esft_gate", "esft_token"])
@pytest.mark.parametrize("by_layers", [False, True])
def test_esft_is_plain_counting(run: Run, selector: str, by_layers: bool) -> None:
    settings = SelectSettings(selector=selector, half="all", layer_share=0.45, by_layers=by_layers)
    units = one_of(run, settings)
    sums = run.read("routed/gate_sum" if selector == "esft_gate" else "routed/selected_count").astype(float)
    if selector == "esft_token":
        sums /= 2
    for category in range(3):
        rows = [i for i, c in enumerate(LABELS) if c == category]
        relevance = sum(sums[i] / run.token_count[i] for i in rows) / len(rows)
        if by_layers:
            relevance = relevance / relevance.sum(axis=0)
        np.testing.assert_allclose(units.score["expert"][category], relevance, rtol=1e-5)
        for layer, values in enumerate(relevance):
            chosen, total = set(), 0.0
            for expert in sorted(range(len(values)), key=lambda e: -values[e]):
                if total >= 0.45:
                    break
                chosen.add(expert)
                total += values[expert]
            assert set(np.flatnonzero(units.mask["expert"][category, layer])) == chosen


def test_risk_difference_counts_tokens(run: Run) -> None:
    units = one_of(run, SelectSettings(selector="risk_difference", half="all", size=1))
    selected, labels, tokens = run.read("routed/selected_count").astype(float), np.array(LABELS), run.token_count
    for category in range(3):
        one = labels == category
        expected = selected[one].sum(0) / tokens[one].sum() - selected[~one].sum(0) / tokens[~one].sum()
        np.testing.assert_allclose(units.score["expert"][category], expected, atol=1e-6)
        assert np.flatnonzero(units.mask["expert"][category]) == [np.argmax(expected)]


def test_reap_is_what_an_expert_adds_where_it_is_used(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, groups=MIXED, seed=5)
    settings = SelectSettings(selector="reap", half="all", size=3)
    with pytest.raises(InputError, match=r"no routed/norm_sum, which selector reap reads; capture with value_statist"):
        select(run, settings)
    selected, labels = run.read("routed/selected_count").astype(float), np.array(LABELS)
    sums = (selected * np.random.default_rng(0).random(selected.shape)).astype(np.float32)
    run.store.create_array(NORM_SUM.array(run.groups["routed"], len(LABELS), ROWS_PER_WRITE)).write(sums).result()
    units = one_of(run, settings)
    for category in range(3):
        one = labels == category
        expected = sums[one].astype(float).sum(0) / selected[one].sum(0)
        np.testing.assert_allclose(units.score["expert"][category], expected, rtol=1e-5)
        highest = np.argsort(-expected, axis=None)[:3]
        assert set(np.flatnonzero(units.mask["expert"][category])) == set(highest)


def test_attribution_is_of_the_half_that_chooses_less_the_mean_of_the_others(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, groups=MIXED, seed=5)
    settings = SelectSettings(selector="attribution", size=4, expert_size=1)
    with pytest.raises(InputError, match=r"attribution/gradient: the run has no attribution by method gradient"):
        select(run, settings)
    values = random_values(run)
    made = write_attribution(run, values, "integrated")
    units = one_of(run, replace(settings, method="integrated"))
    rows = np.isin([row["id"] for row in run.instructions], units.origin["half"])
    assert 0 < rows.sum() < len(rows)
    for group, of_group in values.items():
        means = [of_group[rows & (run.category == category)].mean(axis=0) for category in range(3)]
        for category, own in enumerate(means):
            others = np.mean([one for other, one in enumerate(means) if other != category], axis=0)
            np.testing.assert_allclose(units.score[group][category], own - others, atol=1e-7)
    assert (units.counts(["mlp", "shared", "routed"]) == 4).all()
    assert (units.counts(["expert"]) == 1).all()
    assert units.origin["attribution"] == made.record()


def test_attribution_of_some_instructions_chooses_by_those_of_the_half(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, groups=MIXED, seed=5)
    values = random_values(run)
    made = write_attribution(run, values, per_category=9)
    assert made.rows.tolist() == [*range(9), *range(31, 40), *range(56, 65)]
    units = one_of(run, SelectSettings(selector="attribution", size=4, expert_size=1))
    rows = np.isin([row["id"] for row in run.instructions], units.origin["half"])
    rows[[row for row in range(len(rows)) if row not in made.rows]] = False
    for group, of_group in values.items():
        means = [of_group[rows & (run.category == category)].mean(axis=0) for category in range(3)]
        for category, own in enumerate(means):
            others = np.mean([one for other, one in enumerate(means) if other != category], axis=0)
            np.testing.assert_allclose(units.score[group][category], own - others, atol=1e-7)
    write_attribution(run, values, "integrated", per_category=1)
    message = r"no instructions of .* that choose are attributed; run attribute for more \(per_category\)"
    for seed in range(3):
        first = SelectSettings(selector="attribution", size=4, expert_size=1, method="integrated", seed=seed)
        halves = [in_half(run, half, seed)[[0, 31, 56]] for half in ("first", "second")]
        half = "second" if halves[0].all() else "first"  # one that lacks one of the three that are attributed
        with pytest.raises(InputError, match=message):
            select(run, replace(first, half=half))


def test_sizes_and_ties(run: Run) -> None:
    for settings, neurons, experts in (
        (ALL, 7, 2),
        (SelectSettings(half="all", share=0.1), math.ceil(0.1 * (19 + 2 * 10 + 2 * 3 * 13)), 1),
    ):
        units = one_of(run, settings)
        assert (units.counts(["mlp", "shared", "routed"]) == neurons).all()
        assert (units.counts(["expert"]) == experts).all()
        names = ["mlp", "shared", "routed"]
        score = np.concatenate([units.score[name].reshape(3, -1) for name in names], axis=1)
        mask = np.concatenate([units.mask[name].reshape(3, -1) for name in names], axis=1)
        for one, chosen in zip(score, mask, strict=True):
            assert set(np.flatnonzero(chosen)) == set(np.lexsort((np.arange(len(one)), -one))[:neurons])


def test_q_values_are_over_units_and_categories(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Against Benjamini and Hochberg's rule as it is written: the largest k with p_(k) <= k q / m."""
    labels = [0] * 30 + [1] * 30
    run = make_run(tmp_path_factory.mktemp("q") / "run", labels, categories=("CLS", "QA"), seed=2)
    counts = run.count("mlp").read().result()
    counts[:30, 1, :6] = run.token_count[:30, None]  # what tells CLS from QA
    run.store.create_array(POSITIVE_COUNT.array(run.groups["mlp"], 60, ROWS_PER_WRITE)).write(counts).result()
    units = one_of(run, SelectSettings(half="all", q=0.05))
    _, z = auroc(counts.reshape(60, -1), sample_of(run, control_length=True))
    p_value = norm.sf(z.astype(float))
    ordered = np.sort(p_value.reshape(-1))
    below = [k for k, p in enumerate(ordered, 1) if p <= k * 0.05 / len(ordered)]
    expected = (p_value <= ordered[max(below) - 1]) & (z > 0)
    np.testing.assert_array_equal(units.mask["mlp"].reshape(2, -1), expected)
    assert expected.sum() >= 6
    assert units.mask["mlp"][0, 1, :6].all()
    assert units.origin["q"] == 0.05


def test_several_selectors_share_a_pass_and_blocks_change_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SelectSettings(selector="auroc,difference,average_precision", half="all", size=5, expert_size=1)
    together = select(run, settings)
    assert [units.name for units in together] == ["auroc", "difference", "average_precision"]
    monkeypatch.setattr(counts_module, "READ_BYTES", 2 * len(LABELS) * 5)
    monkeypatch.setattr(counts_module, "TILE_VALUES", 3 * len(LABELS))
    for units, again in zip(together, select(run, settings), strict=True):
        for group in units.groups:
            np.testing.assert_array_equal(units.mask[group], again.mask[group])
            np.testing.assert_allclose(units.score[group], again.score[group], atol=1e-6)


@pytest.mark.parametrize("half", ["first", "second"])
def test_units_know_the_half_that_chose_them_and_depend_on_no_other_row(run: Run, half: str) -> None:
    settings = SelectSettings(half=half, size=5, expert_size=1, seed=3)
    units = one_of(run, settings)
    assert open_units(run, "auroc").origin["half"] == units.origin["half"]
    names = [row["id"] for row in run.instructions]
    rows = [names.index(name) for name in units.origin["half"]]
    other = one_of(
        run, SelectSettings(half={"first": "second", "second": "first"}[half], size=5, expert_size=1, seed=3)
    )
    assert not {*units.origin["half"]} & {*other.origin["half"]}
    assert {*units.origin["half"]} | {*other.origin["half"]} == {*names}
    for category, size in enumerate((31, 25, 27)):
        assert sum(LABELS[row] == category for row in rows) in (size // 2, size - size // 2)
    assert abs(np.mean(run.token_count[rows]) - np.mean(run.token_count)) < 2
    tokens, counts = run.token_count[rows], counts_of(run)[rows]
    part = Sample(np.array(rows), np.array(LABELS)[rows], tokens.astype(np.int64), 3, control_length=True)
    np.testing.assert_allclose(units.score["mlp"].reshape(3, -1), auroc(counts, part)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"selector": "best"}, "selector 'best' is not known; known: auroc"),
        ({"selector": "auroc,auroc"}, "names one twice"),
        ({"half": "third"}, "half 'third' is not known"),
        ({"share": 1.5}, r"share must be within \(0, 1\]"),
        ({"size": -1}, "size must not be negative"),
        ({"size": 3, "share": 0.1}, "size and share both say how many"),
        ({"expert_size": 3, "q": 0.1}, "q and expert_size both say how many"),
        ({"selector": "lape", "q": 0.1}, "q 0.1 has no effect with selector lape"),
        ({"selector": "auroc,lape", "q": 0.1}, "needs p-values, which selector lape does not have"),
        ({"selector": "lape", "control_length": False}, "control_length False has no effect with selector lape"),
        ({"selector": "auroc", "method": "integrated"}, "method integrated has no effect with selector auroc"),
        ({"selector": "auroc", "rho": 0.2}, "rho 0.2 has no effect with selector auroc"),
        ({"size": 100}, r"selector auroc admits \d+ of 117 mlp, shared, routed units for CLS, but 100 are asked for"),
        ({"selector": "esft_gate", "size": 7}, r"admits 6 of 6 expert units for CLS, but 7 .* give a smaller size"),
        ({"expert_size": 6}, r"admits \d of 6 expert units for .* give a smaller expert_size"),
    ],
)
def test_what_is_refused(run: Run, fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(run, SelectSettings(**({"size": 2} if not {"size", "share", "q"} & {*fields} else {}) | fields))  # type: ignore[arg-type]


def test_what_a_run_does_not_have_is_refused(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("lacking")
    dense = make_run(root / "dense", LABELS, groups=DENSE)
    with pytest.raises(InputError, match="selector esft_token scores experts, and the model has none"):
        select(dense, SelectSettings(selector="esft_token"))
    few = make_run(root / "few", [0] * 20 + [1] * 3)
    with pytest.raises(InputError, match=r"too few instructions to halve: QA 3, SUM 0; 4 of each"):
        select(few, ALL.__class__(size=2))
    apart = make_run(root / "apart", [0] * 48 + [1] * 48, token_count=[9] * 48 + [99] * 48, categories=("CLS", "QA"))
    with pytest.raises(InputError, match="no instruction of another category is of similar length as those of CLS, QA"):
        select(apart, SelectSettings(size=2))
    assert one_of(apart, SelectSettings(size=2, control_length=False)).counts(["mlp"]).tolist() == [2, 2]
    with pytest.raises(InputError, match="name 'mine' is for one selector"):
        select(run, SelectSettings(selector="auroc,lape"), name="mine")
