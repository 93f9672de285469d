import cv2
import numpy as np
import pytest

from anomalib_lite.defects.measures import box_of
from anomalib_lite.defects.regions import LevelsOfMaps, MapLevels, Region, extent, find_regions, join_overlapping
from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import Extent, Regions


def spot(shape=(64, 64), at=(32, 32), sigma=6.0, height=1.0):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (height * np.exp(-((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / (2 * sigma**2))).astype(np.float32)


def test_nothing_above_the_threshold_is_no_region_and_a_map_that_is_all_defect_is_one():
    assert find_regions(np.full((32, 32), 0.5, np.float32), high=0.5, low=0.1) == []
    (region,) = find_regions(np.full((32, 48), 3.0, np.float32), high=1.0, low=0.5, base=0.2)
    assert region.mask.all() and box_of(region.mask) == (0, 0, 48, 32) and region.peak == region.mean == 3.0


def test_half_the_maximum_above_the_base_bounds_a_blurred_square():
    mask = np.zeros((96, 96), np.float32)
    mask[30:60, 20:70] = 1
    values = 0.4 + 2.0 * cv2.GaussianBlur(mask, (0, 0), 4)
    (region,) = find_regions(values, high=1.0, low=0.5, base=0.4)
    assert box_of(region.mask) == (20, 30, 50, 30)
    assert abs(int(region.mask.sum()) - 1500) < 60  # corners are rounded
    assert (region.zone & region.mask).sum() == region.mask.sum() < region.zone.sum()


def test_a_defect_at_the_border_keeps_to_the_picture():
    (region,) = find_regions(spot(at=(0, 63)), high=0.5, low=0.1)
    x, y, width, _ = box_of(region.mask)
    assert y == 0 and x + width == 64 and region.peak == 1.0


def test_near_pieces_are_one_and_far_ones_are_two():
    values = np.zeros((100, 100), np.float32)
    values[40:50, 20:30] = values[40:50, 32:42] = 1.0  # a gap of 2 px
    (region,) = find_regions(values, 0.5, 0.1, config=Regions(merge=0.02))
    assert box_of(region.mask) == (20, 40, 22, 10)
    assert len(find_regions(values, 0.5, 0.1, config=Regions(merge=0.0))) == 2


def test_small_ones_go_after_merging():
    values = np.zeros((100, 100), np.float32)
    values[10, 10] = 1.0
    values[50, 50:56:2] = 1.0  # three specks that merge
    (region,) = find_regions(values, 0.5, 0.1, config=Regions(min_area=0.0003, merge=0.03))
    assert region.mask.sum() == 3 and box_of(region.mask) == (50, 50, 5, 1)


def test_hysteresis_keeps_faint_parts_that_hang_on_a_strong_one():
    values = np.zeros((40, 40), np.float32)
    values[20, 5:35] = 0.4
    values[20, 20] = 0.6
    values[5, 5:10] = 0.4  # faint and alone
    (region,) = find_regions(values, 0.5, 0.1, config=Regions(core=0.5, zone=0.3, min_area=0))
    assert region.mask.sum() == 30 and not region.mask[5].any()


def test_a_second_peak_on_the_foot_of_a_strong_one_is_a_region_and_the_foot_is_none():
    values = spot((80, 160), (40, 40), 8, 10.0) + spot((80, 160), (40, 110), 5, 2.0) + 0.3
    regions = find_regions(values, high=1.0, low=0.2, base=0.0)
    assert [round(region.peak, 1) for region in regions] == [10.3, 2.3]
    assert not (regions[0].mask & regions[1].mask).any()
    assert len(find_regions(spot((80, 160), (40, 40), 8, 10.0), high=0.1, low=0.01)) == 1


def test_what_is_no_number_is_refused():
    with pytest.raises(UserError, match="NaN"):
        find_regions(np.full((4, 4), np.nan, np.float32), 1.0, 0.5)


def test_the_extent_is_what_differs_within_the_zone():
    change, inside = np.zeros((50, 50), np.float32), np.zeros((50, 50), bool)
    change[20:30, 20:30], inside[15:35, 15:35] = 8.0, True
    change[20:30, 24:26] = 0.0  # a gap of 2 px
    change[40, 40] = 9.0  # outside the zone
    region = Region(inside, inside, 1.0, 1.0)
    wide = extent(region, change, 1.0, 2.0, False, Extent(close=0.1))
    narrow = extent(region, change, 1.0, 2.0, False, Extent(close=0.0))
    assert box_of(wide) == (20, 20, 10, 10) and wide.sum() >= 96 and narrow.sum() == 80
    assert (extent(region, np.zeros_like(change), 1.0, 2.0, False) == inside).all()  # pixels show nothing


def test_levels_are_the_medians_of_good_maps():
    levels = LevelsOfMaps()
    assert levels.compute() == MapLevels()
    for height in (1.0, 2.0, 50.0):
        levels.update(np.full((32, 32), height, np.float32))
    assert levels.compute() == MapLevels(2.0, 2.0)


def test_what_lies_outside_the_inspected_part_has_no_part_in_the_levels():
    values, inside = np.zeros((32, 32), np.float32), np.zeros((32, 32), bool)
    values[3:9, 4:14], inside[3:9, 4:14] = 2.0, True
    levels = LevelsOfMaps()
    levels.update(values, inside)
    assert levels.compute() == MapLevels(2.0, 2.0)


def test_what_two_joined_regions_cover_together_joins_them_too():
    """Of a third one neither covers half, both together do."""
    bounds = [(0, 20), (14, 30), (6, 26), (40, 50)]
    extents = [np.isin(np.arange(60)[None], np.arange(*pair)) for pair in bounds]
    extents[1][:, 17:20] = extents[2][:, 12:18] = False
    regions = [Region(mask, mask, float(k), float(k)) for k, mask in enumerate(extents)]
    found, masks = join_overlapping(regions, extents, np.ones((1, 60), np.float32))
    assert [int(mask.sum()) for mask in masks] == [30, 10]
    assert [(region.peak, region.mean) for region in found] == [(2.0, 1.0), (3.0, 3.0)]
