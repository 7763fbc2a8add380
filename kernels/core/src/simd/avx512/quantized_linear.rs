//! The quantized product with `vpdpbusd`: 16 weight rows a register, up to 8 activation rows a pass.

use crate::InstructionSet;
use crate::quantized_linear::{ActivationTile, BLOCK, BlockType, PLANES_BYTES, TileSums};
#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;

pub(crate) fn multiply_tile(
    set: InstructionSet,
    block_type: BlockType,
    group: &[u8],
    tile: &ActivationTile<'_>,
    sums: &mut TileSums,
) {
    assert!(set.is_avx512());
    let num_blocks = group.len() / block_type.packed_bytes();
    let num_entries = num_blocks * tile.num_rows;
    assert!(tile.planes.len() == num_entries * PLANES_BYTES && tile.scales.len() == num_entries);
    assert!(tile.scaled_sums.len() == num_entries && tile.sums.len() == num_entries);
    // SAFETY: `set` proves the features; the lengths that the kernels rely on are asserted above.
    unsafe {
        match block_type {
            BlockType::Q4_1 => multiply::<false, 0>(group, num_blocks, tile, sums),
            BlockType::Q4_0 => multiply::<false, 8>(group, num_blocks, tile, sums),
            BlockType::Q8_0 => multiply::<true, 128>(group, num_blocks, tile, sums),
        }
    }
}

/// # Safety
/// `group` holds `num_blocks` packed blocks; the tile's slices hold `num_blocks x num_rows` entries.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply<const WIDE: bool, const OFFSET: i32>(
    group: &[u8],
    num_blocks: usize,
    tile: &ActivationTile<'_>,
    sums: &mut TileSums,
) {
    // SAFETY: handed on from the caller; R is the tile's number of rows.
    unsafe {
        match tile.num_rows {
            1 => multiply_rows::<1, WIDE, OFFSET>(group, num_blocks, tile, sums),
            2 => multiply_rows::<2, WIDE, OFFSET>(group, num_blocks, tile, sums),
            4 => multiply_rows::<4, WIDE, OFFSET>(group, num_blocks, tile, sums),
            _ => multiply_rows::<8, WIDE, OFFSET>(group, num_blocks, tile, sums),
        }
    }
}

/// # Safety
/// As [`multiply`], with `R == tile.num_rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_rows<const R: usize, const WIDE: bool, const OFFSET: i32>(
    group: &[u8],
    num_blocks: usize,
    tile: &ActivationTile<'_>,
    sums: &mut TileSums,
) {
    assert!(tile.num_rows == R);
    let lines = if WIDE { 9 } else { 5 };
    // The next group follows in memory. Fetching it while this one is multiplied overlaps memory with arithmetic;
    // past the last group the hint falls into the void, which is allowed.
    let prefetches = tile.first_row == 0;
    let mut totals = [_mm512_setzero_ps(); R];
    for block in 0..num_blocks {
        // SAFETY: block < num_blocks, so all reads lie inside the slices whose lengths the caller has checked.
        unsafe {
            let packed = group.as_ptr().add(block * lines * 64);
            if prefetches {
                for line in 0..lines {
                    _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(group.len() + line * 64).cast());
                }
            }
            let weights = unpack::<WIDE>(packed);
            let (scale, minimum) = scales::<OFFSET>(packed.add((lines - 1) * 64));
            for (row, total) in totals.iter_mut().enumerate() {
                let at = block * R + row;
                let high = tile.planes.as_ptr().add(at * PLANES_BYTES);
                let low = high.add(BLOCK);
                let mut high_dots = _mm512_setzero_si512();
                let mut low_dots = if OFFSET == 0 {
                    _mm512_setzero_si512()
                } else {
                    _mm512_set1_epi32(-OFFSET * *tile.sums.as_ptr().add(at))
                };
                for (four, weights) in weights.iter().enumerate() {
                    let (high, low) = (load_four(high.add(4 * four)), load_four(low.add(4 * four)));
                    high_dots = _mm512_dpbusd_epi32(high_dots, *weights, _mm512_set1_epi32(high));
                    low_dots = _mm512_dpbusd_epi32(low_dots, *weights, _mm512_set1_epi32(low));
                }
                // At most 2^28 with 8-bit weights: 32 products of 255 and 127, times 256.
                let dots = _mm512_add_epi32(_mm512_slli_epi32::<8>(high_dots), low_dots);
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*tile.scales.as_ptr().add(at)));
                *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, *total);
                if OFFSET == 0 {
                    let sum = _mm512_set1_ps(*tile.scaled_sums.as_ptr().add(at));
                    *total = _mm512_fmadd_ps(minimum, sum, *total);
                }
            }
        }
    }
    for (total, sums) in totals.iter().zip(sums) {
        // SAFETY: `sums` is 16 floats.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *total) };
    }
}

/// Four int8 values as they lie in memory.
///
/// # Safety
/// `x` points to 4 readable bytes.
#[inline]
unsafe fn load_four(x: *const i8) -> i32 {
    // SAFETY: the caller's promise; no alignment is asked for.
    i32::from_ne_bytes(unsafe { x.cast::<[u8; 4]>().read() })
}

/// Eight registers of four columns each, for 16 rows.
///
/// # Safety
/// `packed` points to 4 (8 if `WIDE`) readable cache lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn unpack<const WIDE: bool>(packed: *const u8) -> [__m512i; 8] {
    let low = _mm512_set1_epi8(15);
    let mut weights = [_mm512_setzero_si512(); 8];
    // SAFETY: the caller's promise.
    unsafe {
        if WIDE {
            for (line, weights) in weights.iter_mut().enumerate() {
                *weights = _mm512_loadu_si512(packed.add(line * 64).cast());
            }
        } else {
            for line in 0..4 {
                let both: __m512i = _mm512_loadu_si512(packed.add(line * 64).cast());
                weights[line] = _mm512_and_si512(both, low);
                weights[line + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
            }
        }
    }
    weights
}

/// Scales and minimums of 16 rows (minimums are zero for formats with an offset).
///
/// # Safety
/// `line` points to a readable cache line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn scales<const OFFSET: i32>(line: *const u8) -> (__m512, __m512) {
    // SAFETY: the caller's promise.
    unsafe {
        if OFFSET == 0 {
            let halves: __m512i = _mm512_loadu_si512(line.cast());
            (_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves)))
        } else {
            (_mm512_loadu_ps(line.cast()), _mm512_setzero_ps())
        }
    }
}
