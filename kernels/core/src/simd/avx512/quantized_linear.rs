//! The quantized product with `vpdpbusd`: 16 weight rows a register; 4 activation rows meet 32 of them a pass.

use crate::InstructionSet;
use crate::elementary::ROUNDING;
use crate::quantized_linear::{
    ActivationTile, BLOCK, BlockType, Format, Group, LARGEST, Scales, TABLE, TILE_GROUPS, TileSums, VALUES_BYTES,
    with_block_type,
};
#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;

/// Adds the products of some fours of columns: `$quants` for each group, `$x` rows of both planes. A macro, for the
/// accumulators must stay in registers: functions are not all inlined.
macro_rules! add_fours {
    ($TYPE:ident, $high:ident, $low:ident, $quants:ident, $x:ident, $($four:literal)*) => {$(
        let mut unpacked = [_mm512_setzero_si512(); G];
        for group in 0..G {
            unpacked[group] = unpack::<$TYPE, $four>($quants[group]);
        }
        for row in 0..R {
            let x = $x.add(row * VALUES_BYTES + 4 * $four);
            let (x_high, x_low) = (_mm512_set1_epi32(load_four(x)), _mm512_set1_epi32(load_four(x.add(BLOCK))));
            for group in 0..G {
                $high[group][row] = _mm512_dpbusd_epi32($high[group][row], unpacked[group], x_high);
                $low[group][row] = _mm512_dpbusd_epi32($low[group][row], unpacked[group], x_low);
            }
        }
    )*};
}

/// Scales the dot products of the columns that share the scales of half `$half` into `$totals`.
macro_rules! add_to_totals {
    ($TYPE:ident, $half:literal, $totals:ident, $high:ident, $low:ident, $of_file:ident, $index:ident, $tile:ident, $at:ident) => {
        for group in 0..G {
            let scales = scales::<$TYPE, $half>($of_file[group], $index);
            for row in 0..R {
                let dots = ($high[group][row], $low[group][row]);
                let x_scale = x_scale::<$TYPE, $half>($tile, $at + row);
                $totals[group][row] = accumulate::<$TYPE>($totals[group][row], dots, scales, x_scale);
            }
        }
    };
}

/// One or two groups against a tile: two share the loads of the activations, which one alone is bound by.
pub(crate) fn multiply_tile(
    set: InstructionSet,
    groups: &[Group<'_>],
    tile: &ActivationTile<'_>,
    sums: &mut [TileSums; TILE_GROUPS],
) {
    assert!(set.is_avx512());
    let num_columns = groups[0].num_columns;
    let format = groups[0].block_type.format();
    let num_entries = num_columns / BLOCK * tile.num_rows;
    assert!(num_columns.is_multiple_of(format.num_columns));
    for group in groups {
        assert!(group.block_type == groups[0].block_type && group.num_columns == num_columns);
        assert!(group.bytes.len() == format.group_bytes(num_columns));
    }
    assert!(tile.values.len() == num_entries * VALUES_BYTES && tile.scales.len() == num_entries);
    assert!(tile.scaled_sums.len() == num_entries && tile.sums.len() == num_entries);
    // SAFETY: `set` proves the features; the lengths that the kernels rely on are asserted above.
    unsafe {
        with_block_type!(groups[0].block_type, TYPE => match groups {
            [one, two] => multiply_pair::<TYPE>([one, two], tile, sums),
            _ => groups.iter().zip(sums).for_each(|(group, sums)| multiply::<TYPE>(group, tile, sums)),
        });
    }
}

/// # Safety
/// `group` holds whole file blocks of the type numbered `TYPE`; the tile's slices hold an entry for each of its blocks
/// of 32 columns and each row.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply<const TYPE: usize>(group: &Group<'_>, tile: &ActivationTile<'_>, sums: &mut TileSums) {
    let (groups, sums) = ([group], std::array::from_mut(sums));
    // SAFETY: handed on from the caller; R is the tile's number of rows.
    unsafe {
        match tile.num_rows {
            1 => multiply_rows::<1, 1, TYPE>(groups, tile, 0, sums),
            2 => multiply_rows::<2, 1, TYPE>(groups, tile, 0, sums),
            4 => multiply_rows::<4, 1, TYPE>(groups, tile, 0, sums),
            _ => multiply_rows::<8, 1, TYPE>(groups, tile, 0, sums),
        }
    }
}

/// # Safety
/// As [`multiply`], for both groups.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_pair<const TYPE: usize>(
    groups: [&Group<'_>; 2],
    tile: &ActivationTile<'_>,
    sums: &mut [TileSums; 2],
) {
    // SAFETY: handed on from the caller; the rows are the tile's. More than four rows would not fit the registers.
    unsafe {
        match tile.num_rows {
            1 => multiply_rows::<1, 2, TYPE>(groups, tile, 0, sums),
            2 => multiply_rows::<2, 2, TYPE>(groups, tile, 0, sums),
            4 => multiply_rows::<4, 2, TYPE>(groups, tile, 0, sums),
            _ => {
                multiply_rows::<4, 2, TYPE>(groups, tile, 0, sums);
                multiply_rows::<4, 2, TYPE>(groups, tile, 4, sums);
            }
        }
    }
}

/// Rows `first` to `first + R - 1` of the tile.
///
/// # Safety
/// As [`multiply`], for `G` groups, with `first + R <= tile.num_rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_rows<const R: usize, const G: usize, const TYPE: usize>(
    groups: [&Group<'_>; G],
    tile: &ActivationTile<'_>,
    first: usize,
    sums: &mut [TileSums; G],
) {
    assert!(first + R <= tile.num_rows);
    let format = const { BlockType::ALL[TYPE].format() };
    let num_columns = groups[0].num_columns;
    // The first tile brings the groups into the cache.
    let prefetches = tile.is_first && first == 0;
    let mut totals = [[_mm512_setzero_ps(); R]; G];
    for block in 0..num_columns / BLOCK {
        let (at, index) = (block * tile.num_rows + first, block % format.num_blocks());
        // SAFETY: block counts the groups' blocks, so all reads lie inside the slices whose lengths the caller has
        // checked.
        unsafe {
            let x = tile.values.as_ptr().add(at * VALUES_BYTES);
            let mut of_file = [std::ptr::null(); G];
            let mut quants = [std::ptr::null(); G];
            for group in 0..G {
                let bytes = groups[group].bytes;
                of_file[group] = bytes.as_ptr().add(block / format.num_blocks() * format.scales_bytes());
                quants[group] = bytes.as_ptr().add(format.first_quant_byte(num_columns) + block * format.bits() * 64);
                if prefetches {
                    prefetch::<TYPE>(of_file[group], quants[group], index, G * bytes.len());
                }
            }
            let mut high = [[_mm512_setzero_si512(); R]; G];
            let mut low = [[_mm512_setzero_si512(); R]; G];
            add_fours!(TYPE, high, low, quants, x, 0 1 2 3);
            if format.scales.are_of_16() {
                add_to_totals!(TYPE, 0, totals, high, low, of_file, index, tile, at);
                high = [[_mm512_setzero_si512(); R]; G];
                low = [[_mm512_setzero_si512(); R]; G];
            }
            add_fours!(TYPE, high, low, quants, x, 4 5 6 7);
            add_to_totals!(TYPE, 1, totals, high, low, of_file, index, tile, at);
        }
    }
    for (totals, sums) in totals.iter().zip(sums) {
        for (total, sums) in totals.iter().zip(&mut sums[first..]) {
            // SAFETY: `sums` is 16 floats.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *total) };
        }
    }
}

/// Asks for the lines that hold the same block `distance` further: memory overlaps with arithmetic. Past the last group
/// the hint falls into the void, which is allowed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn prefetch<const TYPE: usize>(of_file: *const u8, quants: *const u8, index: usize, distance: usize) {
    let format = const { BlockType::ALL[TYPE].format() };
    let share = index * format.scales_bytes() / format.num_blocks();
    _mm_prefetch::<_MM_HINT_T0>(of_file.wrapping_add(distance + share).cast());
    for line in 0..format.bits() {
        _mm_prefetch::<_MM_HINT_T0>(quants.wrapping_add(distance + line * 64).cast());
    }
}

/// `total` with the columns added whose dot products with both planes are `high` and `low`: together at most 2^28, with
/// 8-bit weights: 32 products of 255 and 127, times 256. `sum` is that of the columns' quantized activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn accumulate<const TYPE: usize>(
    total: __m512,
    (high, low): (__m512i, __m512i),
    (scale, minimum): (__m512, __m512),
    (x_scale, sum, scaled_sum): (f32, i32, f32),
) -> __m512 {
    let format = const { BlockType::ALL[TYPE].format() };
    let mut dots = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low);
    if format.offset != 0 {
        dots = _mm512_add_epi32(dots, _mm512_set1_epi32(-format.offset * sum));
    }
    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
    let total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, total);
    if !format.scales.have_minimum() {
        return total;
    }
    _mm512_fmadd_ps(minimum, _mm512_set1_ps(scaled_sum), total)
}

/// A block's scale of the activations, and the sum of those that meet scales of half `HALF`, quantized and scaled.
///
/// # Safety
/// `at` is an entry of the tile's slices.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn x_scale<const TYPE: usize, const HALF: usize>(tile: &ActivationTile<'_>, at: usize) -> (f32, i32, f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (scale, [first, last]) = (*tile.scales.as_ptr().add(at), *tile.sums.as_ptr().add(at));
        if const { BlockType::ALL[TYPE].format().scales.are_of_16() } {
            let sum = if HALF == 0 { first } else { last };
            return (scale, sum, scale * sum as f32);
        }
        (scale, first + last, *tile.scaled_sums.as_ptr().add(at))
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

/// A four of columns of 16 rows.
///
/// # Safety
/// `packed` points to as many readable cache lines as a quant of the type has bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn unpack<const TYPE: usize, const FOUR: usize>(packed: *const u8) -> __m512i {
    let format = const { BlockType::ALL[TYPE].format() };
    // SAFETY: the caller's promise: these are the planes that quants of so many bits are packed in.
    let quants = unsafe {
        match format.bits() {
            2 => four::<2, 0, FOUR>(packed),
            3 => _mm512_or_si512(four::<2, 0, FOUR>(packed), four::<1, 2, FOUR>(packed)),
            4 => four::<4, 0, FOUR>(packed),
            5 => _mm512_or_si512(four::<4, 0, FOUR>(packed), four::<1, 4, FOUR>(packed)),
            6 => _mm512_or_si512(four::<4, 0, FOUR>(packed), four::<2, 4, FOUR>(packed)),
            _ => four::<8, 0, FOUR>(packed),
        }
    };
    if !format.has_table {
        return quants;
    }
    // SAFETY: the table is 16 bytes.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(TABLE.as_ptr().cast()) });
    _mm512_shuffle_epi8(table, quants)
}

/// One four of columns of a plane: all is known to the compiler, so that shifts are immediate.
///
/// # Safety
/// `packed` points to `POSITION + BITS` readable cache lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn four<const BITS: usize, const POSITION: usize, const FOUR: usize>(packed: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    let line: __m512i = unsafe { _mm512_loadu_si512(packed.add((POSITION + FOUR % BITS) * 64).cast()) };
    let from = FOUR / BITS * BITS;
    let count = _mm_cvtsi32_si128(from.abs_diff(POSITION) as i32);
    // What falls in from the neighbouring byte is masked away.
    let moved = if from > POSITION { _mm512_srl_epi16(line, count) } else { _mm512_sll_epi16(line, count) };
    _mm512_and_si512(moved, _mm512_set1_epi8(((0xffu8 >> (8 - BITS)) << POSITION) as i8))
}

/// Scales and minimums of 16 rows, for the first (`HALF` 0) or the last 16 columns of a block.
///
/// # Safety
/// `of_file` points to the readable packed scales of a file block, of which this is block `block`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn scales<const TYPE: usize, const HALF: usize>(of_file: *const u8, block: usize) -> (__m512, __m512) {
    let format: Format = const { BlockType::ALL[TYPE].format() };
    let none = _mm512_setzero_ps();
    // SAFETY: the caller's promise: there are as many float16s and bytes as the format's kind of scales has.
    unsafe {
        let bytes = of_file.add(format.scale_bytes_at(block));
        let d = halves(of_file);
        match format.scales {
            Scales::Half => (d, none),
            Scales::HalfAndMinimum => (d, halves(of_file.add(32))),
            Scales::Signed => (_mm512_mul_ps(d, signed(bytes)), none),
            Scales::SignedOf16 => (_mm512_mul_ps(d, signed(bytes.add(16 * HALF))), none),
            Scales::BytesAndMinimum => {
                let minimum = _mm512_mul_ps(halves(of_file.add(32)), unsigned(bytes.add(16)));
                (_mm512_mul_ps(d, unsigned(bytes)), minimum)
            }
            Scales::NibblesOf16AndMinimum => {
                let both = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.add(16 * HALF).cast()));
                let low = _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(15)));
                let high = _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(both));
                (_mm512_mul_ps(d, low), _mm512_mul_ps(halves(of_file.add(32)), high))
            }
        }
    }
}

/// # Safety
/// `from` points to 16 readable float16s.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn halves(from: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
}

/// # Safety
/// `from` points to 16 readable bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn signed(from: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(from.cast()) }))
}

/// # Safety
/// `from` points to 16 readable bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn unsigned(from: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(from.cast()) }))
}

/// Quantizes 32 values to `[-32512, 32512]`, into two planes; returns the scale (amax / 32512) and the sums of the first
/// and the last 16 quantized values. The same operations as in plain Rust, so the same results.
#[inline]
pub(crate) fn quantize_block(set: InstructionSet, x: &[f32; BLOCK], planes: &mut [i8]) -> (f32, [i32; 2]) {
    assert!(set.is_avx512() && planes.len() == VALUES_BYTES);
    // SAFETY: `set` proves the features; `planes` is as long as asserted.
    unsafe { quantize(x, planes.as_mut_ptr()) }
}

/// # Safety
/// `planes` points to `VALUES_BYTES` writable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn quantize(x: &[f32; BLOCK], planes: *mut i8) -> (f32, [i32; 2]) {
    // SAFETY: a block is two vectors of 16 floats.
    let x = unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] };
    // Magnitudes order like their bits, and a NaN's bits are above all: it survives into the scale.
    let [a, b] = x.map(|x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fff_ffff)));
    let amax = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(a, b)));
    let inverse = _mm512_set1_ps(if amax > 0.0 { LARGEST / amax } else { 0.0 });
    let mut sums = [0; 2];
    for half in 0..2 {
        let shifted = _mm512_add_ps(_mm512_mul_ps(x[half], inverse), _mm512_set1_ps(ROUNDING));
        let rounded = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(ROUNDING.to_bits() as i32));
        let high = _mm512_srai_epi32::<8>(_mm512_add_epi32(rounded, _mm512_set1_epi32(128)));
        sums[half] = _mm512_reduce_add_epi32(rounded);
        // SAFETY: the caller's promise: each plane is 32 bytes.
        unsafe {
            _mm_storeu_si128(planes.add(16 * half).cast(), _mm512_cvtepi32_epi8(high));
            _mm_storeu_si128(planes.add(BLOCK + 16 * half).cast(), _mm512_cvtepi32_epi8(rounded));
        }
    }
    (amax / LARGEST, sums)
}
