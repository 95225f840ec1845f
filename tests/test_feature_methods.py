"""Methods that read features: values by hand, gradients, invariances, published faults."""

import math
from dataclasses import fields, replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.testing import assert_close

from distilling import Made, batch, losses_of, match
from dukd.core.registry import known
from dukd.methods import (
    AT,
    CRD,
    DUKD,
    FAKD,
    FSP,
    LSFD,
    RKD,
    SRKD,
    VID,
    FitNet,
    Frequency,
    Method,
)
from dukd.methods.at import energy
from dukd.methods.base import needs_teacher
from dukd.methods.crd import contrast, places
from dukd.methods.fakd import affinity, affinity_distance
from dukd.methods.features import Adapter, FeatureMethod, in_own_units, unit
from dukd.methods.fsp import flows
from dukd.methods.haar import band_distance, haar
from dukd.methods.lsfd import attention, local
from dukd.methods.rkd import cosines, distances, items, relative
from dukd.methods.srkd import Statistic, over_channels
from dukd.methods.vid import gaussian, laplace
from dukd.networks import EDSRConfig, Network, SMFANetConfig, SwinIRConfig
from dukd.networks.base import staged
from dukd.training.distiller import Distiller
from dukd.training.observe import observe

METHODS: tuple[FeatureMethod, ...] = (
    AT(),
    CRD(),
    FAKD(),
    FAKD(pool=3),
    FitNet(),
    FitNet(relative=False, depths=(0.5, 1.0)),
    Frequency(),
    FSP(),
    LSFD(),
    LSFD(sharpness=0.0),
    RKD(),
    RKD(cells=3),
    SRKD(),
    SRKD(statistic="power_mean"),
    SRKD(statistic="max"),
    VID(),
    VID(distribution="laplace"),
)
NO_WEIGHTS = {"sharpness", "temperature"}
LEARNS_NOTHING_FROM_ITSELF = tuple(m for m in METHODS if not isinstance(m, (CRD, VID)))


def label(method: FeatureMethod) -> str:
    """Its name, and what is not as usual."""
    usual = type(method)()
    changed = [
        f"{f.name}={v}"
        for f in fields(method)
        if (v := getattr(method, f.name)) != getattr(usual, f.name)
    ]
    return "-".join([method.name, *changed])


every_method = pytest.mark.parametrize("method", METHODS, ids=label)


@pytest.fixture
def student() -> Network:
    return EDSRConfig(scale=2, width=8, blocks=3).build()


@pytest.fixture
def teacher() -> Network:
    return EDSRConfig(scale=2, width=12, blocks=5).build().frozen()


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, 16, 16), torch.rand(2, 3, 32, 32)


def maps(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int) -> Tensor:
    """A random orthogonal matrix, float64."""
    return torch.linalg.qr(maps(size, size, seed=7)).Q


def own_terms(method: FeatureMethod) -> set[str]:
    """Names of the losses that the method adds to those on the output."""
    features = [maps(2, 4, 6, 6, seed=i) for i in range(len(method.depths))]
    seen = Made(maps(2, 3, 12, 12), features)
    return set(match(method, extras_for(method, 4, 4), seen, seen))


def extras_for(method: FeatureMethod, width: int, target: int) -> nn.Module:
    pupil = EDSRConfig(scale=2, width=width, blocks=1).build()
    master = EDSRConfig(scale=2, width=target, blocks=1).build()
    return method.state(pupil, master).double()


# Every method.


@every_method
def test_every_term_teaches_every_stage_before_it(
    method: FeatureMethod, student: Network, teacher: Network, pair: tuple[Tensor, Tensor]
) -> None:
    """methods.md D16: a loss rebuilt with `torch.tensor` has no gradient; the log falls anyway."""
    extras = method.state(student, teacher)
    for loss in losses_of(method, student, teacher, pair, extras).values():
        assert loss.shape == ()
        assert torch.isfinite(loss)
        gradient = torch.autograd.grad(
            loss, staged(student).stages[0].parameters(), retain_graph=True
        )
        assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradient)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("method", [m for m in METHODS if not isinstance(m, CRD)], ids=label)
def test_gradients_are_right(method: FeatureMethod) -> None:
    """But for CRD's, whose normalizer is a constant; `test_deviations.py` has it."""
    theirs = Made(
        maps(2, 3, 8, 8, seed=9), [maps(2, 5, 4, 4, seed=20 + i) for i in range(len(method.depths))]
    )
    extras = extras_for(method, 3, 5)
    sr = maps(2, 3, 8, 8, seed=1)

    def total(*features: Tensor) -> Tensor:
        return torch.stack(
            list(match(method, extras, Made(sr, list(features)), theirs).values())
        ).sum()

    ours = [maps(2, 3, 4, 4, seed=10 + i).requires_grad_() for i in range(len(method.depths))]
    assert gradcheck(total, ours, fast_mode=True)  # along random directions: a tenth of the time


@pytest.mark.parametrize("method", LEARNS_NOTHING_FROM_ITSELF, ids=label)
def test_nothing_is_learnt_from_oneself(
    method: FeatureMethod, teacher: Network, pair: tuple[Tensor, Tensor]
) -> None:
    losses = losses_of(method, teacher, teacher, pair, method.state(teacher, teacher))

    assert all(losses[name] < 1e-10 for name in own_terms(method))


@every_method
def test_features_of_zeros_are_safe(method: FeatureMethod) -> None:
    """Dead units are common early on: the losses and their gradients stay finite."""
    ours = [torch.zeros(2, 3, 6, 6, dtype=torch.float64, requires_grad=True) for _ in method.depths]
    theirs = [torch.zeros(2, 5, 6, 6, dtype=torch.float64) for _ in method.depths]
    images = torch.zeros(2, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    terms = match(
        method, extras_for(method, 3, 5), Made(images, ours), Made(images.detach(), theirs)
    )

    total = torch.stack(list(terms.values())).sum()
    gradients = torch.autograd.grad(total, [*ours, images], allow_unused=True)
    assert torch.isfinite(total)
    assert all(g is None or g.isfinite().all() for g in gradients)


@every_method
def test_one_forward_pass_each(
    method: FeatureMethod, student: Network, teacher: Network, pair: tuple[Tensor, Tensor]
) -> None:
    calls: list[Network] = []
    for network in (student, teacher):
        staged(network).stages[0].register_forward_hook(lambda module, *_: calls.append(module))
    losses_of(method, student, teacher, pair, method.state(student, teacher))

    assert calls == [staged(teacher).stages[0], staged(student).stages[0]]


@every_method
def test_half_precision_decides_nothing(
    method: FeatureMethod, student: Network, teacher: Network, pair: tuple[Tensor, Tensor]
) -> None:
    """Under autocast the networks give bfloat16, but affinities and statistics are of float32."""
    extras = method.state(student, teacher)
    exact = losses_of(method, student, teacher, pair, extras)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = losses_of(method, student, teacher, pair, extras)

    assert all(loss.dtype == torch.float32 for loss in half.values())
    # bfloat16 keeps 8 bits, and Huber and squared distances double the relative error.
    assert_close(half, exact, rtol=0.15, atol=2e-3)


@every_method
def test_networks_that_pad_differently_meet_at_the_common_size(
    method: FeatureMethod, student: Network
) -> None:
    """SMFANet pads to multiples of 8: 16 x 16 features against EDSR's 11 x 13."""
    teacher = SMFANetConfig(scale=2, width=12, blocks=2).build().frozen()
    pair = torch.rand(2, 3, 11, 13), torch.rand(2, 3, 22, 26)
    losses = losses_of(method, student, teacher, pair, method.state(student, teacher))

    assert all(loss.isfinite() for loss in losses.values())


@every_method
def test_without_weights_there_is_no_teacher(
    method: FeatureMethod, student: Network, pair: tuple[Tensor, Tensor]
) -> None:
    weights = {
        f.name: 0.0
        for f in fields(method)
        if f.type is float and f.name not in NO_WEIGHTS | {"reconstruction"}
    }
    plain = replace(method, **weights)
    losses = Distiller(plain, student)(*pair)

    assert not needs_teacher(plain, 2)
    assert not plain.read
    assert set(losses) == {"reconstruction"}


@every_method
def test_a_weight_is_a_factor(
    method: FeatureMethod, student: Network, teacher: Network, pair: tuple[Tensor, Tensor]
) -> None:
    extras = method.state(student, teacher)
    names = [f.name for f in fields(method) if f.type is float and f.name not in NO_WEIGHTS]
    once = losses_of(method, student, teacher, pair, extras)
    twice = losses_of(
        replace(method, **{n: 2 * getattr(method, n) for n in names}),
        student,
        teacher,
        pair,
        extras,
    )

    assert_close(twice, {name: 2 * loss for name, loss in once.items()})


@every_method
def test_combines_with_upcycled_inputs(
    method: FeatureMethod, student: Network, teacher: Network, pair: tuple[Tensor, Tensor]
) -> None:
    extras = method.state(student, teacher)
    losses = losses_of(DUKD(base=method), student, teacher, pair, extras, seed=1)
    alone = losses_of(method, student, teacher, pair, extras)

    # The pair travels with upcycled images in one batch, whose convolutions may round differently.
    assert_close({name: losses[name] for name in alone}, alone, rtol=1e-3, atol=1e-6)
    assert {"zoom_in_imitation", "zoom_out_imitation"} <= set(losses)


def test_methods_are_known_and_their_abstract_part_is_not() -> None:
    names = {"at", "crd", "fakd", "fitnet", "frequency", "fsp", "lsfd", "rkd", "srkd", "vid"}

    assert names <= set(known(Method))
    assert FeatureMethod not in known(Method).values()


@every_method
@pytest.mark.parametrize("depths", [(), (0.5, -0.1), (1.1, 1.0)])
def test_depths_are_fractions(method: FeatureMethod, depths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="fraction"):
        replace(method, depths=depths)


@pytest.mark.parametrize(
    "method", [m for m in METHODS if isinstance(m, (FitNet, FSP, LSFD))], ids=label
)
def test_adapters_are_made_where_widths_differ(
    method: FeatureMethod, student: Network, teacher: Network
) -> None:
    assert isinstance(method.state(student, teacher), Adapter)
    assert not list(method.state(teacher, teacher).parameters())


@pytest.mark.parametrize("method", [AT(), FAKD(), RKD(), SRKD(), Frequency()], ids=label)
def test_nothing_trains_beside_the_student(
    method: FeatureMethod, student: Network, teacher: Network
) -> None:
    assert not list(method.state(student, teacher).parameters())


@pytest.mark.parametrize(
    "method",
    [
        FitNet(),
        FSP(),
        SRKD(),
        VID(),
        VID(distribution="laplace"),
        LSFD(),
        AT(),
        CRD(),
        FAKD(),
        RKD(),
    ],
    ids=label,
)
def test_the_range_inside_a_network_does_not_matter(method: FeatureMethod) -> None:
    """EDSR computes in [0, 255], SwinIR in [0, 1]; a weight has to mean the same for both."""
    ours, theirs = (
        [maps(2, 5, 6, 6, seed=s + i) for i in range(len(method.depths))] for s in (0, 50)
    )
    sr, extras = maps(2, 3, 12, 12), extras_for(method, 5, 5)
    here = match(method, extras, Made(sr, ours), Made(-sr, theirs))
    there = match(
        method, extras, Made(sr, [255 * f for f in ours]), Made(-sr, [7 * f for f in theirs])
    )

    assert_close(
        there, here, rtol=1e-6, atol=1e-9
    )  # the guard against division by zero shows at 1e-8


# What they share.


def test_own_units() -> None:
    """3 and 4 have a root mean square of sqrt(12.5)."""
    x = torch.tensor([3.0, 4.0], dtype=torch.float64)

    (measured,) = in_own_units([x], relative=True)
    assert_close(measured, x / math.sqrt(12.5), rtol=1e-8, atol=0)
    assert_close(in_own_units([x], relative=False), [x], rtol=0, atol=0)


def test_unit_vectors() -> None:
    x = torch.tensor([[[3.0, 0.0], [4.0, 0.0]]], dtype=torch.float64)

    assert_close(
        unit(x), torch.tensor([[[0.6, 0.0], [0.8, 0.0]]], dtype=torch.float64), rtol=1e-8, atol=0
    )


# FitNet.


def test_hint_is_the_mean_square_per_depth() -> None:
    """Differences of 1 at one depth and of 3 at the other: (1 + 9) / 2."""
    method = FitNet(hint=2.0, relative=False, depths=(0.5, 1.0))
    zero = torch.zeros(1, 2, 3, 3)
    ours, theirs = Made(zero, [zero, zero]), Made(zero, [zero + 1, zero - 3])

    assert_close(match(method, nn.Identity(), ours, theirs)["hint"], torch.tensor(10.0))


def test_hint_sees_more_than_the_mean_over_channels() -> None:
    """methods.md D18: the published "Fitnet" compares channel means, which are equal here."""
    ours = torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1)

    assert_close(ours.mean(1), (-ours).mean(1))
    assert (
        match(FitNet(hint=1.0), nn.Identity(), Made(ours, [ours]), Made(ours, [-ours]))["hint"] > 1
    )


def test_a_regressor_undoes_a_linear_map() -> None:
    """methods.md D32: widths may differ; the regressor finds what is linear in the features."""
    student, teacher = (EDSRConfig(scale=2, width=w, blocks=1).build() for w in (4, 2))
    method = FitNet(relative=False)
    extras = method.state(student, teacher)
    weight = torch.randn(2, 4, 1, 1)
    with torch.no_grad():
        extras[0].weight.copy_(weight)
        extras[0].bias.zero_()
    ours = torch.randn(2, 4, 5, 5)
    theirs = torch.nn.functional.conv2d(ours, weight)

    assert match(method, extras, Made(ours, [ours]), Made(ours, [theirs]))["hint"] < 1e-10


# Attention transfer.


def test_energy_of_two_pixels() -> None:
    """Energies 9 + 16 and 0, over the norm 25; two channels or one."""
    x = torch.tensor([[3.0, 0.0], [4.0, 0.0]]).reshape(1, 2, 1, 2)

    assert_close(energy(x), torch.tensor([[1.0, 0.0]]))
    assert_close(energy(5 * x[:, :1]), torch.tensor([[1.0, 0.0]]))


def test_attention_is_half_the_squared_distance() -> None:
    """Energies (1, 0) and (0, 1) differ by 1 at both pixels: 1000 / 2 per depth."""
    x = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    ours, theirs = Made(x, [x, x]), Made(x, [x.flip(-1), x.flip(-1)])

    assert_close(match(AT(), nn.Module(), ours, theirs)["attention"], torch.tensor(1000.0))


def test_attention_is_squared() -> None:
    """methods.md D32: published code takes differences. Half of a small one is a quarter."""
    x = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    step = torch.tensor([1e-4, -1e-4], dtype=torch.float64)
    full, half = (
        match(AT(), nn.Module(), Made(x, [x]), Made(x, [x + s * step]))["attention"]
        for s in (1.0, 0.5)
    )

    assert_close(full / half, torch.tensor(4.0).double(), rtol=1e-3, atol=0)  # to second order only


def test_energy_ignores_scale_and_rotation_of_each_image() -> None:
    x = maps(2, 5, 4, 4)
    rotated = (
        torch.einsum("ij,njhw->nihw", rotation(5), x)
        * torch.tensor([0.1, 30.0]).double()[:, None, None, None]
    )

    assert_close(energy(rotated), energy(x))


# FSP.


def test_flow_of_two_pixels() -> None:
    """Channels (1, 2) against (3, 5) and (1, 1), averaged over two pixels."""
    a = torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2)
    b = torch.tensor([[3.0, 5.0], [1.0, 1.0]]).reshape(1, 2, 1, 2)

    assert_close(flows([a, b]), [torch.tensor([[[6.5, 1.5]]])])


def test_flow_ignores_where_pixels_are() -> None:
    a, b = maps(2, 3, 4, 4), maps(2, 5, 4, 4, seed=1)
    order = torch.randperm(16)
    shuffled = [x.flatten(2)[..., order].reshape(x.shape) for x in (a, b)]

    assert_close(flows(shuffled), flows([a, b]))


def test_flow_needs_two_ends() -> None:
    """methods.md D17: the published code passes one map, and fails when it is chosen."""
    with pytest.raises(ValueError, match="at least two"):
        FSP(depths=(1.0,))
    assert len(flows([maps(1, 2, 3, 3)] * 4)) == 3


def test_flow_is_averaged_over_pairs() -> None:
    one = torch.ones(1, 1, 2, 2)
    method = FSP(relative=False, flow=3.0)

    # Flows 1 and 1 against 2 and 4: (1 + 9) / 2.
    terms = match(method, nn.Identity(), Made(one, [one] * 3), Made(one, [one, 2 * one, 2 * one]))
    assert_close(terms["flow"], torch.tensor(15.0))


# RKD.


def right_triangle() -> Tensor:
    """Items at (0, 0), (3, 0), (0, 4): distances 3, 4, 5."""
    return torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)


def test_distances_are_relative_to_their_mean() -> None:
    expected = torch.tensor([[0, 3, 4], [3, 0, 5], [4, 5, 0]]).double() / 4

    assert_close(relative(distances(right_triangle())), expected)


def test_cosines_of_a_right_triangle() -> None:
    angles = cosines(distances(right_triangle()))

    assert_close(angles[0, 1, 2], torch.tensor(0.0).double())
    assert_close(angles[1, 0, 2], torch.tensor(3 / 5).double())
    assert_close(angles[2, 0, 1], torch.tensor(4 / 5).double())
    assert_close(angles[1, 2, 2], torch.tensor(1.0).double())
    assert angles[0, 0, 1] == 0


def test_relations_ignore_isometries_and_scale() -> None:
    x = maps(6, 5)
    moved = 3 * x @ rotation(5) + maps(5, seed=3)

    assert_close(relative(distances(moved)), relative(distances(x)))
    assert_close(cosines(distances(moved)), cosines(distances(x)))


def test_coinciding_items_have_finite_gradients() -> None:
    x = maps(4, 3)
    x[2] = x[1]
    x.requires_grad_()
    (cosines(distances(x)).sum() + relative(distances(x)).square().sum()).backward()

    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_cells_are_pieces_of_the_image() -> None:
    x = torch.arange(2 * 16.0).reshape(2, 1, 4, 4)
    cut = items(x, cells=2)

    assert_close(cut[1], torch.tensor([2.0, 3.0, 6.0, 7.0]))
    assert_close(cut[4], torch.tensor([16.0, 17.0, 20.0, 21.0]))
    assert_close(items(torch.rand(5, 2, 3, 3), cells=1).shape, torch.Size((5, 18)))


def test_too_few_items_are_refused() -> None:
    with pytest.raises(ValueError, match="at least three"):
        items(torch.rand(2, 4, 8, 8), cells=1)
    with pytest.raises(ValueError, match="too few"):
        items(torch.rand(2, 4, 1, 8), cells=2)
    with pytest.raises(ValueError, match="at least one cell"):
        RKD(cells=0)


# SRKD.


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [("mean_power", 4.0), ("power_mean", 5.0), ("max", 3.0), ("min", 1.0)],
)
def test_statistics_of_two_channels(statistic: Statistic, expected: float) -> None:
    x = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1)

    assert_close(over_channels(x, statistic, 2), torch.full((1, 1, 1), expected))


def test_statistics_ignore_the_order_and_the_number_of_channels() -> None:
    x = maps(2, 4, 3, 3)
    for statistic in ("mean_power", "power_mean", "max", "min"):
        repeated = over_channels(x.flip(1).repeat(1, 3, 1, 1), statistic, 2)
        assert_close(repeated, over_channels(x, statistic, 2))


def test_statistics_are_summed_over_depths() -> None:
    """Squares of means 1 and 4 differ by 3, at three depths: 27."""
    one = torch.ones(1, 2, 2, 2)

    terms = match(SRKD(relative=False), nn.Module(), Made(one, [one] * 3), Made(one, [2 * one] * 3))
    assert_close(terms["statistics"], torch.tensor(27.0))


def test_power_is_positive() -> None:
    with pytest.raises(ValueError, match="power"):
        SRKD(power=0)


# VID.


def test_gaussian_is_torchs_up_to_its_constant() -> None:
    x, mean, variance = maps(4), maps(4, seed=1), maps(4, seed=2).exp()
    theirs = (
        -torch.distributions.Normal(mean, variance.sqrt()).log_prob(x) - math.log(2 * math.pi) / 2
    )

    assert_close(gaussian(x, mean=mean, variance=variance), theirs)


def test_laplace_is_torchs_without_a_gaussian_constant() -> None:
    """methods.md D46: PISR's code adds C log(2 pi) / 2, which the Laplace density does not have."""
    x, mean, spread = maps(4), maps(4, seed=1), maps(4, seed=2).exp()

    assert_close(
        laplace(x, mean=mean, spread=spread), -torch.distributions.Laplace(mean, spread).log_prob(x)
    )
    assert laplace(x, mean=x, spread=torch.full_like(x, 0.5)).abs().max() == 0


def test_variance_starts_at_five(student: Network, teacher: Network) -> None:
    (first, *_) = VID().state(student, teacher)
    spread = torch.nn.functional.softplus(first.raw) + 1e-5

    assert_close(spread, torch.full((12,), 5.0))


def test_gaussian_has_a_variance_per_channel_and_laplace_a_spread_per_pixel(
    student: Network, teacher: Network
) -> None:
    ours = torch.rand(1, 8, 4, 4)
    (bell, *_), (peak, *_) = (
        VID(distribution=d).state(student, teacher) for d in ("gaussian", "laplace")
    )

    assert bell.raw.shape == (12,)
    assert peak.raw(ours).shape == (1, 12, 4, 4)


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
def test_what_is_predictable_is_learnt(distribution: Literal["gaussian", "laplace"]) -> None:
    """Training the predictor alone brings the loss below 0: a good and sure prediction."""
    method = VID(distribution=distribution, depths=(1.0,))
    extras = extras_for(method, 3, 2)
    ours = maps(2, 3, 8, 8)
    seen, wanted = Made(ours, [ours]), Made(ours, [ours[:, :2] - ours[:, 1:]])
    optimizer = torch.optim.Adam(extras.parameters(), 0.03)
    for _ in range(300):
        optimizer.zero_grad()
        loss = match(method, extras, seen, wanted)["information"]
        loss.backward()
        optimizer.step()

    assert loss < -0.5


# FAKD.


def test_affinity_of_three_pixels() -> None:
    """Vectors (1, 0), (0, 2) and (3, 3)."""
    x = torch.tensor([[1.0, 0.0, 3.0], [0.0, 2.0, 3.0]], dtype=torch.float64).reshape(1, 2, 1, 3)
    half = math.sqrt(0.5)
    expected = torch.tensor([[1, 0, half], [0, 1, half], [half, half, 1]], dtype=torch.float64)

    assert_close(
        affinity(x), expected[None], rtol=1e-7, atol=1e-9
    )  # the guard against zeros shows at 1e-8


def test_affinity_is_summed_over_depths() -> None:
    """Alike against opposite pixels: 2 at half of the entries, at three depths, times 10."""
    alike = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    opposite = torch.tensor([1.0, -1.0]).double().reshape(1, 1, 1, 2)

    terms = match(FAKD(), nn.Module(), Made(alike, [alike] * 3), Made(alike, [opposite] * 3))
    assert_close(terms["affinity"], torch.tensor(30.0).double(), rtol=1e-7, atol=0)


def test_affinity_ignores_rotations_of_channels_and_the_length_of_each_vector() -> None:
    x = maps(2, 5, 3, 3)
    rotated = torch.einsum("ij,njhw->nihw", rotation(5), x) * (1 + maps(2, 1, 3, 3).square())

    assert_close(affinity(rotated), affinity(x), rtol=1e-6, atol=1e-7)  # the guard against zeros


def test_matrices_made_a_few_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = maps(5, 3, 4, 6).requires_grad_(), maps(5, 4, 4, 6, seed=1)
    expected = (affinity(ours) - affinity(theirs)).abs().mean()
    (gradient,) = torch.autograd.grad(expected, ours)
    monkeypatch.setattr("dukd.methods.fakd._ENTRIES", 2 * 24**2)  # two images, two, one
    measured = affinity_distance(ours, theirs)

    assert_close(measured, expected)
    assert_close(torch.autograd.grad(measured, ours), (gradient,))


def test_pooling_keeps_what_is_constant_in_its_squares() -> None:
    x = maps(1, 3, 2, 3)

    assert_close(affinity(x.repeat_interleave(4, -1).repeat_interleave(4, -2), pool=4), affinity(x))
    assert affinity(maps(1, 3, 5, 7), pool=2).shape == (1, 12, 12)
    with pytest.raises(ValueError, match="pool"):
        FAKD(pool=0)


def test_weights_are_those_of_the_published_code(
    student: Network, teacher: Network, pair: tuple[Tensor, Tensor]
) -> None:
    """10, 0.5 and 0.5, and unlike there the first one teaches (methods.md D16)."""
    method = FAKD()
    losses = losses_of(method, student, teacher, pair, method.state(student, teacher))
    lr, hr = pair

    assert (method.affinity, method.reconstruction, method.imitation) == (10.0, 0.5, 0.5)
    assert_close(losses["reconstruction"], 0.5 * (student(lr) - hr).abs().mean())
    assert_close(losses["imitation"], 0.5 * (student(lr) - teacher(lr)).abs().mean())
    assert losses["affinity"].requires_grad


def test_the_last_depth_is_read_before_the_global_skip(
    student: Network, pair: tuple[Tensor, Tensor]
) -> None:
    """methods.md D19, D31: `res += x` in place changes a kept feature; here it stays as it was."""
    lr, _ = pair
    x = staged(student).head(lr)
    for stage in staged(student).stages:
        x = stage(x)
    (last,) = student.observe(lr, (1.0,)).features

    assert_close(last, x, rtol=0, atol=0)


# LSFD.


def test_local_features_are_what_the_window_does_not_share() -> None:
    """A lone 9 in zeros: its 3 x 3 mean is 1."""
    x = torch.zeros(1, 1, 5, 5)
    x[..., 2, 2] = 9.0
    measured = local(x, 3)

    assert measured[0, 0, 2, 2] == 8
    assert measured[0, 0, 1, 1] == -1
    assert measured[0, 0, 0, 4] == 0


def test_local_features_ignore_what_is_constant() -> None:
    x = maps(1, 2, 6, 6)

    assert_close(local(x + 100, 5), local(x, 5))


def test_attention_follows_the_difference_of_the_outputs() -> None:
    """Differences 1 and 3 in two halves: weights 0.5 and 1.5; squared 0.2 and 1.8."""
    ours = torch.zeros(1, 3, 4, 8)
    theirs = torch.cat([ours[..., :4] + 1, ours[..., 4:] - 3], -1)
    plain = attention(ours, theirs, size=(2, 4), sharpness=1.0)
    sharp = attention(ours, theirs, size=(2, 4), sharpness=2.0)

    assert_close(plain[0, 0, 0], torch.tensor([0.5, 0.5, 1.5, 1.5]))
    assert_close(sharp[0, 0, 0], torch.tensor([0.2, 0.2, 1.8, 1.8]))
    assert_close(attention(ours, theirs, size=(2, 4), sharpness=0.0), torch.ones(1, 1, 2, 4))


def test_attention_carries_no_gradient() -> None:
    ours = torch.rand(1, 3, 4, 4, requires_grad=True)

    assert not attention(ours, torch.rand(1, 3, 4, 4), size=(2, 2), sharpness=1.0).requires_grad


def test_attention_weighs_each_pixel() -> None:
    """Outputs and features differ in one corner, of attention 16; three quarters are local."""
    method = LSFD(local=1.0, relative=False, window=3, sharpness=1.0, depths=(1.0,))
    zero = torch.zeros(1, 1, 4, 4)
    bump = zero.clone()
    bump[..., 0, 0] = 1.0
    attended = match(method, nn.Identity(), Made(zero, [zero]), Made(bump, [bump]))["local"]
    assert_close(attended, torch.tensor(16 * 0.75**2 / 16))  # a mean over 16 pixels


def test_window_is_odd() -> None:
    for window in (1, 4):
        with pytest.raises(ValueError, match="odd window"):
            LSFD(window=window)
    with pytest.raises(ValueError, match="sharpness"):
        LSFD(sharpness=-1.0)


# CRD.


def test_contrast_of_two_pairs() -> None:
    """One negative each; at temperature 1 r is 2 e / (e + 1) for alike, 2 / (e + 1) for others."""
    eye = torch.eye(2, dtype=torch.float64)
    alike, other = 2 * math.e / (math.e + 1), 2 / (math.e + 1)
    one_way = -math.log(alike / (alike + 1)) - math.log(1 - other / (other + 1))
    expected = 2 * one_way

    assert_close(contrast(eye, eye, temperature=1.0), torch.tensor(expected, dtype=torch.float64))


def test_contrast_ignores_rotations_and_the_order_of_pairs() -> None:
    ours, theirs = unit(maps(6, 4)), unit(maps(6, 4, seed=1))
    order = torch.randperm(6)
    turn = rotation(4)

    assert_close(
        contrast((ours @ turn)[order], (theirs @ turn)[order], temperature=0.07),
        contrast(ours, theirs, temperature=0.07),
    )


def test_contrast_falls_with_what_is_told_apart() -> None:
    apart = torch.eye(8, dtype=torch.float64)
    same = torch.ones(8, 8, dtype=torch.float64) / math.sqrt(8)

    assert contrast(apart, apart, temperature=0.07) < 2
    # All alike: r is 1, so log 8 for the positive and 7 log(8 / 7) for the negatives, both ways.
    blind = 2 * (math.log(8) + 7 * math.log(8 / 7))
    assert_close(contrast(same, same, temperature=0.07), torch.tensor(blind, dtype=torch.float64))


def test_a_small_temperature_does_not_overflow() -> None:
    x = unit(maps(6, 4).float()).requires_grad_()
    contrast(x, -x.detach(), temperature=1e-3).backward()

    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_places_are_means_of_cells() -> None:
    x = torch.arange(32.0).reshape(1, 2, 4, 4)

    assert_close(places(x, cells=2)[:2], torch.tensor([[2.5, 18.5], [4.5, 20.5]]))


def test_a_single_place_is_refused() -> None:
    with pytest.raises(ValueError, match="single"):
        contrast(torch.ones(1, 4), torch.ones(1, 4), temperature=0.07)
    with pytest.raises(ValueError, match="temperature"):
        CRD(temperature=0.0)
    with pytest.raises(ValueError, match="cells"):
        CRD(cells=0)


# Frequency.


def test_bands_of_four_pixels() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0]]).reshape(1, 1, 2, 2)

    assert [band.item() for band in haar(x)] == [5.5, -1.5, -2.5, 0.5]


def test_bands_keep_the_energy() -> None:
    x = maps(2, 3, 6, 8)

    assert_close(sum(band.square().sum() for band in haar(x)), x.square().sum())
    assert haar(maps(1, 1, 5, 7))[0].shape == (1, 1, 3, 4)


def test_a_constant_difference_is_in_the_approximation_alone() -> None:
    """One gray level becomes 2 per level of the transform."""
    x = maps(1, 3, 8, 8)

    assert_close(band_distance(x + 0.1, x, (1.0, 1.0, 1.0)), torch.tensor(0.4).double())
    assert_close(band_distance(x + 0.1, x, (0.0, 1.0, 1.0)), torch.tensor(0.0).double())


def test_the_finest_weight_is_for_the_finest_details() -> None:
    """A checkerboard of +1 and -1 is a detail across both directions, of 2, at level 1 only."""
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]

    assert band_distance(board, torch.zeros_like(board), (5.0, 3.0, 1.0)) == 2
    assert band_distance(board, torch.zeros_like(board), (5.0, 3.0, 0.0)) == 0


def test_similarity_ignores_rotations_of_channels() -> None:
    method = Frequency(bands=0.0)
    ours, theirs, sr = maps(1, 4, 6, 6), maps(1, 3, 6, 6, seed=1), maps(1, 3, 12, 12)
    rotated = torch.einsum("ij,njhw->nihw", rotation(4), ours)
    here, there = (
        match(method, nn.Module(), Made(sr, [f] * 3), Made(sr, [theirs] * 3))["similarity"]
        for f in (ours, rotated)
    )

    assert_close(there, here)


def test_bands_alone_read_no_features() -> None:
    assert not Frequency(similarity=0.0).read
    assert needs_teacher(Frequency(similarity=0.0), 2)
    with pytest.raises(ValueError, match="band_weights"):
        Frequency(band_weights=(1.0,))


def test_what_a_network_has_padded_is_not_compared() -> None:
    """A student that pads 6 x 10 to 8 x 16 is compared on 6 x 10, as the attention of LSFD is."""
    student = SwinIRConfig(scale=2, width=8, depths=(2,), heads=(2,), window=8).build()
    teacher = EDSRConfig(scale=2, width=8, blocks=2).build().frozen()
    pair = torch.rand(1, 3, 6, 10), torch.rand(1, 3, 12, 20)
    (seen,) = observe(AT(), student, teacher, batch(*pair))

    assert {f.shape[-2:] for features in seen.features() for f in features} == {(6, 10)}
    assert seen.student.features[0].shape[-2:] == (8, 16)
