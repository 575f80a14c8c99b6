import numpy as np
import pytest
import torch
from torch import Tensor

from i2pmae.geometry.grouping import Grouping, group
from i2pmae.model.decoder import Decoder, interpolate
from i2pmae.model.masking import carry_through
from i2pmae.model.packing import Packing, pack


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_interpolate(queries: Tensor, centers: Tensor, values: Tensor) -> Tensor:
    found = torch.empty(*queries.shape[:2], values.shape[2], dtype=values.dtype)
    for b, cloud in enumerate(queries):
        for q, query in enumerate(cloud):
            squares = ((query - centers[b]) ** 2).sum(dim=1)
            nearest = sorted(range(len(squares)), key=lambda i: squares[i])[:3]
            weights = torch.stack([1 / (squares[i] + 1e-8) for i in nearest])
            rows = torch.stack([values[b, i] for i in nearest])
            found[b, q] = (rows * weights[:, None] / weights.sum()).sum(dim=0)
    return found


def test_interpolation_agrees_with_the_slow_version():
    queries, centers, values = noise(2, 9, 3), noise(2, 6, 3, seed=1), noise(2, 6, 4, seed=2)
    found = interpolate(queries, centers, values)
    torch.testing.assert_close(found, slow_interpolate(queries, centers, values))


def test_interpolation_by_hand():
    centers = torch.tensor([[[0.0, 0, 0], [3, 0, 0], [0, 2, 0], [50, 0, 0]]])
    values = torch.tensor([[[1.0], [10], [100], [1e6]]])
    # From (1, 0, 0) the squared distances are 1, 4 and 5: weights 20, 5 and 4 of 29.
    found = interpolate(torch.tensor([[[1.0, 0, 0]]]), centers, values)
    assert found.item() == pytest.approx((20 * 1 + 5 * 10 + 4 * 100) / 29, rel=1e-6)


def test_interpolation_stays_between_the_values_where_centers_coincide():
    """Far from the origin |a|^2 + |b|^2 - 2ab would even be negative."""
    centers = torch.tensor([[[9.0, 9, 9], [9, 9, 9], [9, 9, 9.001], [9.1, 9, 9]]])
    values = torch.tensor([[[1.0], [3.0], [7.0], [900.0]]])
    found = interpolate(centers, centers, values)
    assert found[0, :2].flatten().tolist() == pytest.approx([2, 2], abs=0.1)
    assert found.min() >= 1
    assert found.max() <= 900
    constant = interpolate(noise(1, 20, 3), centers.double(), torch.full((1, 4, 2), 0.3).double())
    torch.testing.assert_close(constant, torch.full_like(constant, 0.3))


@pytest.mark.parametrize("n_centers", [1, 2])
def test_interpolation_between_fewer_than_three_centers(n_centers):
    queries, centers, values = noise(1, 4, 3), noise(1, n_centers, 3), noise(1, n_centers, 2)
    found = interpolate(queries, centers, values)
    torch.testing.assert_close(found, slow_interpolate(queries, centers, values))


def test_interpolation_keeps_the_precision_of_the_values():
    centers, values = noise(1, 6, 3).float(), noise(1, 6, 2)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        found = interpolate(noise(1, 4, 3, seed=1).float(), centers, values.to(dtype))
        assert found.dtype == dtype


def encoded_clouds(
    clouds: Tensor, n_centers: tuple[int, ...], widths: tuple[int, ...]
) -> tuple[Grouping, list[Tensor], list[Packing], list[Tensor]]:
    """Groups, masks with 1, 2 and 4 visible tokens at the top, packings, random packed tokens."""
    sizes = (3,) * len(n_centers)
    grouping = group(clouds, n_centers, sizes)
    masked = torch.ones(3, n_centers[-1], dtype=torch.bool)
    for row, visible in zip(masked, ([5], [0, 7], [1, 2, 4, 6]), strict=True):
        row[visible] = False
    masks = carry_through(masked, grouping.neighbor_indices, n_centers)
    packings = pack(masks, sizes, 4)
    tokens = [noise(3, p.filled.shape[1], c, seed=c) for p, c in zip(packings, widths, strict=True)]
    # In float64, as the slow versions compute.
    exact = grouping._replace(centers=[centers.double() for centers in grouping.centers])
    return exact, masks, packings, tokens


@pytest.mark.parametrize("training", [True, False])
def test_agrees_with_the_plain_network(training, clouds, seeded, twin):
    widths = (6, 12, 18)
    grouping, masks, packings, tokens = encoded_clouds(clouds, (24, 14, 8), widths)
    decoder = seeded(Decoder(widths, 2).double()).train(training)
    other = twin(decoder, "decoder.", n_heads=2)
    inputs = [t.requires_grad_() for t in tokens[1:]]
    found = decoder(tokens, grouping, packings)
    assert found.shape == (3, 14, 12)
    zero = torch.zeros((), dtype=torch.float64)
    unpacked = [p.unpack(t, zero) for p, t in zip(packings, tokens, strict=True)]
    expected = other.plain.decode(unpacked, grouping, masks)
    torch.testing.assert_close(found, expected)
    weights = noise(3, 14, 12, seed=4)
    ours = torch.autograd.grad((found * weights).sum(), inputs, retain_graph=True)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs, retain_graph=True)
    for x, y, packing in zip(ours, theirs, packings[1:], strict=True):
        torch.testing.assert_close(x, y)
        assert not x[~packing.filled].any()  # padding is read by nobody
    (found * weights).sum().backward(inputs=list(decoder.parameters()))
    (expected * weights).sum().backward(inputs=[other.plain.w[k] for k in other.parameters])
    other.compare_gradients()
    if training:
        other.compare_statistics()


def test_two_levels_come_back_in_index_order(clouds, seeded):
    grouping, masks, packings, tokens = encoded_clouds(clouds, (14, 8), (6, 12))
    decoder = seeded(Decoder((6, 12), 2).double()).eval()
    zero = torch.zeros((), dtype=torch.float64)
    seen = packings[1].unpack(tokens[1], zero)
    everything = torch.where(masks[1][..., None], decoder.mask_token, seen)
    everything = everything + decoder.positions[0](grouping.centers[1])
    expected = decoder.norm(decoder.blocks[0](everything))
    torch.testing.assert_close(decoder(tokens, grouping, packings), expected)


def test_four_levels_are_decoded_down_to_the_second(clouds, seeded):
    widths = (6, 12, 18, 24)
    grouping, _, packings, tokens = encoded_clouds(clouds, (24, 14, 11, 8), widths)
    decoder = seeded(Decoder(widths, 2, drop_path=0.1).double())
    assert [block.drop_path.rate for block in decoder.blocks] == pytest.approx([0, 0.05, 0.1])
    found = decoder(tokens, grouping, packings)
    assert found.shape == (3, 14, 12)
    found.square().sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())
    decoder.eval()
    before = decoder(tokens, grouping, packings)
    tokens[2] = tokens[2] + 1
    assert not torch.allclose(decoder(tokens, grouping, packings), before)


def test_initial_weights():
    torch.manual_seed(0)
    decoder = Decoder((96, 192, 384), 6, drop_path=0.1)
    assert decoder.mask_token.std().item() == pytest.approx(0.02, rel=0.1)
    qkv = decoder.blocks[0].attention.qkv.weight
    assert qkv.abs().max().item() == pytest.approx((6 / (384 + 1152)) ** 0.5, rel=0.01)
    assert [block.drop_path.rate for block in decoder.blocks] == pytest.approx([0, 0.1])
    bound = 384**-0.5  # torch's own initial weights outside of the blocks
    assert decoder.positions[0][2].weight.abs().max().item() == pytest.approx(bound, rel=0.01)


def test_decoded_tokens_equal_the_release(parity, golden_step):
    golden = np.load(parity / "pretrain_forward_tokens_B.npz")["B_maskA_ref_decoder_out"]
    found = golden_step("A").output.decoded
    np.testing.assert_allclose(found, golden, rtol=1e-4, atol=1e-4)
