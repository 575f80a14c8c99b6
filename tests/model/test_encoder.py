import numpy as np
import pytest
import torch
from torch import Tensor

from i2pmae.config import EncoderConfig
from i2pmae.geometry.grouping import Grouping, group
from i2pmae.model import packing as packing_module
from i2pmae.model.encoder import Encoder
from i2pmae.model.masking import carry_through
from i2pmae.model.packing import Packing, pack

RADII = (0.5, 0.9, 1.3)


@pytest.fixture
def make(tiny, seeded):
    def build(**settings) -> Encoder:
        normalized = settings.pop("normalized", True)
        config = tiny.model_copy(update={"drop_path": 0.0} | settings)
        return seeded(Encoder(config, normalized).double())

    return build


@pytest.fixture
def grouping(clouds, tiny) -> Grouping:
    return group(clouds, tiny.n_centers, tiny.group_sizes)


@pytest.fixture
def masks(grouping, tiny) -> list[Tensor]:
    """One, two and four visible tokens at the coarsest level."""
    masked = torch.ones(3, 8, dtype=torch.bool)
    for row, visible in zip(masked, ([5], [0, 7], [1, 2, 4, 6]), strict=True):
        row[visible] = False
    return carry_through(masked, grouping.neighbor_indices, tiny.n_centers)


@pytest.fixture
def packings(masks, tiny) -> list[Packing]:
    return pack(masks, tiny.group_sizes, 4)


def unpacked(outputs: list[Tensor], packings: list[Packing]) -> list[Tensor]:
    zero = torch.zeros((), dtype=torch.float64)
    return [p.unpack(tokens, zero) for p, tokens in zip(packings, outputs, strict=True)]


def weighted_sum(outputs: list[Tensor]) -> Tensor:
    """A scalar to which every token contributes in its own way."""
    generator = torch.Generator().manual_seed(2)
    return sum((x * torch.randn(x.shape, generator=generator)).sum() for x in outputs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("embed", ["all", "visible"])
@pytest.mark.parametrize("radii", [None, RADII])
def test_agrees_with_the_plain_network(
    training, embed, radii, make, grouping, masks, packings, tiny, twin
):
    encoder = make(radii=radii).train(training)
    other = twin(encoder, "encoder.", n_heads=tiny.n_heads, embed=embed, radii=radii)
    found = unpacked(encoder(grouping, packings, embed), packings)
    expected = other.plain.encode(grouping, masks)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    weighted_sum(found).backward()
    weighted_sum(expected).backward()
    other.compare_gradients()
    if training:
        other.compare_statistics()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("radii", [None, RADII])
def test_all_visible_tokens_need_no_packing(training, radii, make, grouping, tiny):
    encoder = make(radii=radii, normalized=False).train(training)
    masks = [torch.zeros(3, n, dtype=torch.bool) for n in tiny.n_centers]
    expected = encoder(grouping)
    assert [x.shape for x in expected] == [(3, 24, 6), (3, 14, 12), (3, 8, 18)]
    for embed in ("all", "visible"):
        found = encoder(grouping, pack(masks, tiny.group_sizes, 8), embed)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("training", [True, False])
def test_room_for_hidden_tokens_changes_nothing(
    training, make, grouping, masks, packings, tiny, monkeypatch
):
    """On a GPU packings are longer than their visible tokens ask for."""
    encoder = make().train(training)
    state = {k: v.clone() for k, v in encoder.state_dict().items()}
    monkeypatch.setattr(packing_module, "BUCKET", 1000)
    monkeypatch.setattr(packing_module, "ROW_BUCKET", 1000)
    roomy = pack(masks, tiny.group_sizes, 8)
    assert [len(p.chosen) for p in roomy] == [72, 42, 24]
    results = []
    for packed in (packings, roomy):
        encoder.load_state_dict(state)
        encoder.zero_grad()
        found = unpacked(encoder(grouping, packed, "visible"), packed)
        weighted_sum(found).backward()
        gradients = [p.grad.clone() for p in encoder.parameters()]
        results.append(found + gradients + [b.clone() for b in encoder.buffers()])
    for tight, loose in zip(*results, strict=True):
        torch.testing.assert_close(tight, loose)


def scrambled(grouping: Grouping, masks: list[Tensor]) -> Grouping:
    """Other coordinates, centers and members for every hidden group."""
    generator = torch.Generator().manual_seed(9)
    changed = Grouping(*([x.clone() for x in values] for values in grouping))
    for level, masked in enumerate(masks):
        for values in (changed.centers[level], changed.neighborhoods[level]):
            values[masked] = torch.randn(values[masked].shape, generator=generator)
        members = changed.neighbor_indices[level]
        members[masked] = torch.randint(
            members.max() + 1, members[masked].shape, generator=generator
        )
    return changed


@pytest.mark.parametrize(
    ("training", "embed"), [(True, "visible"), (False, "visible"), (False, "all")]
)
def test_hidden_groups_have_no_influence(training, embed, make, grouping, masks, packings):
    encoder = make().train(training)
    before = unpacked(encoder(grouping, packings, embed), packings)
    after = unpacked(encoder(scrambled(grouping, masks), packings, embed), packings)
    for x, y in zip(before, after, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


def test_hidden_groups_count_in_the_statistics_where_all_are_embedded(
    make, grouping, masks, packings
):
    encoder = make().train()
    before = unpacked(encoder(grouping, packings, "all"), packings)
    after = unpacked(encoder(scrambled(grouping, masks), packings, "all"), packings)
    assert (before[0] - after[0]).abs().max() > 0.01


def test_a_center_at_exactly_the_radius_is_out_of_reach(make, tiny):
    line = torch.zeros(1, 24, 3)
    line[0, :, 0] = torch.arange(24.0)
    grouping = group(line, tiny.n_centers, tiny.group_sizes)

    def tokens(radius: float) -> Tensor:
        return make(radii=(radius, 100.0, 100.0)).eval()(grouping)[0]

    assert torch.equal(tokens(1.0), tokens(0.5))
    assert not torch.allclose(tokens(1.0), tokens(1.001))


def test_clouds_do_not_see_each_other_in_evaluation(make, grouping, masks, tiny):
    encoder = make(radii=RADII).eval()
    packed = pack(masks, tiny.group_sizes, 4)
    whole = unpacked(encoder(grouping, packed), packed)
    for b in range(3):
        alone = Grouping(*([x[b : b + 1] for x in values] for values in grouping))
        packed = pack([masked[b : b + 1] for masked in masks], tiny.group_sizes, 4)
        for ours, theirs in zip(unpacked(encoder(alone, packed), packed), whole, strict=True):
            torch.testing.assert_close(ours[0], theirs[b])


def test_stochastic_depth_grows_over_all_levels(make):
    rates = [block.drop_path.rate for level in make(drop_path=0.3).blocks for block in level]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_initial_weights():
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(depths=(1, 1, 1)), normalized=True)
    for name, weight in encoder.named_parameters():
        if weight.ndim == 2:
            assert weight.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith("bias"):
            assert not weight.any(), name
        else:
            assert weight.eq(1).all(), name


def test_tokens_equal_the_release(parity, golden_step):
    step = golden_step("A")
    masks = np.load(parity / "pretrain_forward.npz")
    golden = np.load(parity / "pretrain_forward_tokens_B.npz")
    for level, (packing, tokens) in enumerate(zip(step.packings, step.encoded, strict=True)):
        expected = golden[f"B_maskA_ref_enc_level{level}"][masks[f"maskA_ref_enc_valid{level}"]]
        found = tokens[packing.filled]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def test_tokens_without_a_mask_at_the_top_equal_the_release(parity, released):
    golden = np.load(parity / "encoder.npz")
    config = released.config
    grouping = group(torch.from_numpy(golden["points"]), config.n_centers, config.group_sizes)
    shown = torch.zeros(4, 64, dtype=torch.bool)
    masks = carry_through(shown, grouping.neighbor_indices, config.n_centers)
    for level, masked in enumerate(masks):
        np.testing.assert_array_equal(masked, golden[f"pretrain_masked_level{level}"])
    packings = pack(masks, config.group_sizes, 64)
    encoded = released.encoder(grouping, packings)
    np.testing.assert_allclose(encoded[2], golden["pretrain_tokens_B"], rtol=1e-5, atol=2e-5)
    visible = packings[0].filled[0]
    expected = golden["pretrain_level0_tokens_B_cloud0"][~masks[0][0].numpy()]
    np.testing.assert_allclose(encoded[0][0][visible], expected, rtol=1e-5, atol=2e-5)


def test_weights_before_training_that_are_torchs_own():
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(depths=(1, 1, 1), init="torch"))
    first = encoder.embeddings[0].point_in.weight
    assert first.abs().max().item() == pytest.approx(3**-0.5, rel=0.05)  # uniform in +-1/sqrt(3)
