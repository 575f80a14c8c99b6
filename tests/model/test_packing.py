import pytest
import torch
from torch import Tensor

from i2pmae.geometry.grouping import gather_rows
from i2pmae.model import packing as packing_module
from i2pmae.model.packing import BUCKET, Packing, member_rows, pack


def hidden(*visible: list[int], n_tokens: int) -> Tensor:
    """Mask of clouds whose visible tokens are listed."""
    masked = torch.ones(len(visible), n_tokens, dtype=torch.bool)
    for row, indices in zip(masked, visible, strict=True):
        row[indices] = False
    return masked


def random_masks(batch: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    top = torch.ones(batch, 8, dtype=torch.bool)
    top[:, 2:5] = False
    share = torch.tensor([[0.1], [0.5], [0.9]])[:batch]
    return [torch.rand(batch, n, generator=generator) > share for n in (60, 30)] + [top]


def test_one_level_by_hand():
    (packing,) = pack([hidden([1, 4], [0, 2, 3], n_tokens=5)], (4,), 3)
    assert packing.visible.tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 1, 0]]
    assert packing.order.tolist() == [[1, 4, 0, 2, 3], [0, 2, 3, 1, 4]]
    assert packing.kept.tolist() == [[1, 4, 0], [0, 2, 3]]
    assert packing.filled.tolist() == [[True, True, False], [True, True, True]]
    assert packing.position[0, [1, 4]].tolist() == [0, 1]
    assert packing.position[1, [0, 2, 3]].tolist() == [0, 1, 2]
    # Tokens of all clouds in a row: the five visible ones, and a hidden one that does not count.
    assert packing.chosen[:5].tolist() == [1, 4, 5, 7, 8]
    assert packing.counted.tolist() == [True] * 5 + [False] * (len(packing.chosen) - 5)
    assert packing.row[0, [1, 4]].tolist() == [0, 1]
    assert packing.row[1, [0, 2, 3]].tolist() == [2, 3, 4]


def test_lengths_are_rounded_up_but_for_the_coarsest_level():
    masks = [
        hidden(list(range(17)), [0], n_tokens=60),
        hidden(list(range(16)), [0], n_tokens=30),
        hidden([0, 1, 2], [0], n_tokens=8),
    ]
    lengths = [packing.filled.shape[1] for packing in pack(masks, (4, 4, 4), 3)]
    assert lengths == [2 * BUCKET, BUCKET, 3]


def test_lengths_never_exceed_the_number_of_tokens():
    masks = [hidden(list(range(17)), n_tokens=18), hidden([0, 1], n_tokens=2)]
    packings = pack(masks, (4, 4), 9)
    assert [packing.filled.shape[1] for packing in packings] == [18, 2]


def test_every_level_agrees_with_loops():
    masks = random_masks()
    for masked, packing in zip(masks, pack(masks, (4, 4, 4), 3), strict=True):
        visible = [[i for i in range(len(row)) if not row[i]] for row in masked]
        rows = [(b, i) for b, indices in enumerate(visible) for i in indices]
        assert packing.chosen[: len(rows)].tolist() == [b * masked.shape[1] + i for b, i in rows]
        assert len(packing.chosen.unique()) == len(packing.chosen) <= masked.numel()
        assert torch.equal(packing.counted, ~masked.flatten()[packing.chosen])
        for b, indices in enumerate(visible):
            others = [i for i in range(masked.shape[1]) if i not in indices]
            assert packing.order[b].tolist() == indices + others
            assert packing.filled[b].sum() == len(indices)
            assert packing.kept[b][packing.filled[b]].tolist() == indices
            assert packing.position[b, indices].tolist() == list(range(len(indices)))
            assert packing.row[b, indices].tolist() == [rows.index((b, i)) for i in indices]
        # Those of hidden tokens are never used, yet read.
        assert packing.position.min() >= 0
        assert packing.position.max() < packing.filled.shape[1]
        assert packing.row.min() >= 0
        assert packing.row.max() < len(packing.chosen)


def test_unpacking_undoes_packing():
    masks = random_masks()
    generator = torch.Generator().manual_seed(1)
    for masked, packing in zip(masks, pack(masks, (4, 4, 4), 3), strict=True):
        tokens, others = torch.randn(2, *masked.shape, 2, generator=generator)
        packed = gather_rows(tokens, packing.kept)
        expected = torch.where(masked[..., None], others, tokens)
        assert torch.equal(packing.unpack(packed, others), expected)
        zeros = torch.where(masked[..., None], 0.0, tokens)
        assert torch.equal(packing.unpack(packed, torch.zeros(())), zeros)


def test_nothing_hidden():
    masks = [torch.zeros(2, n, dtype=torch.bool) for n in (30, 8)]
    for packing in pack(masks, (4, 4), 8):
        n = packing.visible.shape[1]
        assert packing.filled.all()
        assert torch.equal(packing.kept, torch.arange(n).expand(2, n))
        assert torch.equal(packing.chosen, torch.arange(2 * n))


def test_members_of_visible_groups_are_found_among_the_packed_tokens():
    finer, coarser = hidden([0, 3, 4], [1, 2], n_tokens=5), hidden([2], [0], n_tokens=3)
    neighbors = torch.tensor([[[1, 2], [2, 0], [4, 3]], [[2, 1], [0, 3], [4, 0]]])
    packings = pack([finer, coarser], (2, 2), 1)
    found = member_rows(neighbors, *packings)
    packed = packings[0].kept + 5 * torch.arange(2)[:, None]  # which token of the batch lies where
    members = packed.flatten()[found[packings[1].counted]]
    assert members.tolist() == [[4, 3], [5 + 2, 5 + 1]]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_bounds_that_ask_no_device_hold_what_a_cpu_packs(device, monkeypatch):
    # With 8 neighbors the coarsest groups would not show as many as these masks.
    sizes, masks = (8, 8, 12), random_masks()
    expected = pack(masks, sizes, 3)
    monkeypatch.setattr(packing_module, "on_cpu", lambda _: False)
    for ours, theirs in zip(pack([x.to(device) for x in masks], sizes, 3), expected, strict=True):
        found = Packing(*(tensor.cpu() for tensor in ours))
        visible = theirs.visible
        assert torch.equal(found.order, theirs.order)
        assert torch.equal(found.chosen[found.counted], theirs.chosen[theirs.counted])
        assert torch.equal(found.filled.sum(dim=1), theirs.filled.sum(dim=1))
        assert torch.equal(found.row[visible], theirs.row[visible])
        assert torch.equal(found.position[visible], theirs.position[visible])
