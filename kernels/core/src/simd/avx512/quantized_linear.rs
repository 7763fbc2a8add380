//! The quantized product with `vpdpbusd`: 16 weight rows a register, up to 8 activation rows a pass.

use crate::InstructionSet;
use crate::quantized_linear::{
    ActivationTile, BLOCK, BlockType, Format, Group, PLANES_BYTES, Scales, TABLE, TileSums, with_block_type,
};
#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;

pub(crate) fn multiply_tile(set: InstructionSet, group: &Group<'_>, tile: &ActivationTile<'_>, sums: &mut TileSums) {
    assert!(set.is_avx512());
    let format = group.block_type.format();
    let num_entries = group.num_columns / BLOCK * tile.num_rows;
    assert!(group.bytes.len() == format.group_bytes(group.num_columns));
    assert!(group.num_columns.is_multiple_of(format.num_columns));
    assert!(tile.planes.len() == num_entries * PLANES_BYTES && tile.scales.len() == num_entries);
    assert!(tile.scaled_sums.len() == num_entries && tile.sums.len() == num_entries);
    // SAFETY: `set` proves the features; the lengths that the kernels rely on are asserted above.
    unsafe {
        with_block_type!(group.block_type, TYPE => multiply::<TYPE>(group, tile, sums));
    }
}

/// # Safety
/// `group` holds whole file blocks of the type numbered `TYPE`; the tile's slices hold an entry for each of its blocks
/// of 32 columns and each row.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply<const TYPE: usize>(group: &Group<'_>, tile: &ActivationTile<'_>, sums: &mut TileSums) {
    // SAFETY: handed on from the caller; R is the tile's number of rows.
    unsafe {
        match tile.num_rows {
            1 => multiply_rows::<1, TYPE>(group, tile, sums),
            2 => multiply_rows::<2, TYPE>(group, tile, sums),
            4 => multiply_rows::<4, TYPE>(group, tile, sums),
            _ => multiply_rows::<8, TYPE>(group, tile, sums),
        }
    }
}

/// # Safety
/// As [`multiply`], with `R == tile.num_rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_rows<const R: usize, const TYPE: usize>(
    group: &Group<'_>,
    tile: &ActivationTile<'_>,
    sums: &mut TileSums,
) {
    assert!(tile.num_rows == R);
    let format = const { BlockType::ALL[TYPE].format() };
    let group_bytes = group.bytes.len();
    // The first tile brings the group into the cache. Asking for the next group's lines overlaps memory with arithmetic;
    // past the last group the hint falls into the void, which is allowed.
    let prefetches = tile.is_first;
    let mut totals = [_mm512_setzero_ps(); R];
    for block in 0..group.num_columns / BLOCK {
        // SAFETY: block counts the group's blocks, so all reads lie inside the slices whose lengths the caller has
        // checked.
        unsafe {
            let of_file = group.bytes.as_ptr().add(block / format.num_blocks() * format.scales_bytes());
            let packed =
                group.bytes.as_ptr().add(format.first_quant_byte(group.num_columns) + block * format.bits() * 64);
            if prefetches {
                let share = block % format.num_blocks() * format.scales_bytes() / format.num_blocks();
                _mm_prefetch::<_MM_HINT_T0>(of_file.wrapping_add(group_bytes + share).cast());
                for line in 0..format.bits() {
                    _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(group_bytes + line * 64).cast());
                }
            }
            let quants = unpack::<TYPE>(packed);
            let scales = scales::<TYPE>(of_file, block % format.num_blocks());
            for (row, total) in totals.iter_mut().enumerate() {
                let at = block * R + row;
                let high = tile.planes.as_ptr().add(at * PLANES_BYTES);
                let [first, last] = *tile.sums.as_ptr().add(at);
                let x_scale = *tile.scales.as_ptr().add(at);
                let whole = *tile.scaled_sums.as_ptr().add(at);
                if format.scales.are_of_16() {
                    let [q0, q1, q2, q3, q4, q5, q6, q7] = quants;
                    let dots = dot(&[q0, q1, q2, q3], high, -format.offset * first);
                    *total = accumulate::<TYPE>(*total, dots, scales[0], x_scale, x_scale * first as f32);
                    let dots = dot(&[q4, q5, q6, q7], high.add(BLOCK / 2), -format.offset * last);
                    *total = accumulate::<TYPE>(*total, dots, scales[1], x_scale, x_scale * last as f32);
                } else {
                    let dots = dot(&quants, high, -format.offset * (first + last));
                    *total = accumulate::<TYPE>(*total, dots, scales[0], x_scale, whole);
                }
            }
        }
    }
    for (total, sums) in totals.iter().zip(sums) {
        // SAFETY: `sums` is 16 floats.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), *total) };
    }
}

/// `start` plus the dot products of 16 rows. At most 2^28 with 8-bit weights: 32 products of 255 and 127, times 256.
///
/// # Safety
/// `high` points to `4 * FOURS` readable bytes, and so does what lies a block further: the low plane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dot<const FOURS: usize>(quants: &[__m512i; FOURS], high: *const i8, start: i32) -> __m512i {
    let mut high_dots = _mm512_setzero_si512();
    let mut low_dots = _mm512_set1_epi32(start);
    for (four, quants) in quants.iter().enumerate() {
        // SAFETY: the caller's promise.
        let (high, low) = unsafe { (load_four(high.add(4 * four)), load_four(high.add(BLOCK + 4 * four))) };
        high_dots = _mm512_dpbusd_epi32(high_dots, *quants, _mm512_set1_epi32(high));
        low_dots = _mm512_dpbusd_epi32(low_dots, *quants, _mm512_set1_epi32(low));
    }
    _mm512_add_epi32(_mm512_slli_epi32::<8>(high_dots), low_dots)
}

/// `total` with the columns added that `dots` is of; `sum` is theirs of the activations, scaled.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn accumulate<const TYPE: usize>(
    total: __m512,
    dots: __m512i,
    (scale, minimum): (__m512, __m512),
    x_scale: f32,
    sum: f32,
) -> __m512 {
    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
    let total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, total);
    if !const { BlockType::ALL[TYPE].format().scales.have_minimum() } {
        return total;
    }
    _mm512_fmadd_ps(minimum, _mm512_set1_ps(sum), total)
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
/// `packed` points to as many readable cache lines as a quant of the type has bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn unpack<const TYPE: usize>(packed: *const u8) -> [__m512i; 8] {
    let format = const { BlockType::ALL[TYPE].format() };
    // SAFETY: the caller's promise: these are the planes that quants of so many bits are packed in.
    let quants = unsafe {
        match format.bits() {
            2 => plane::<2, 0>(packed),
            3 => merged(&plane::<2, 0>(packed), &plane::<1, 2>(packed)),
            4 => plane::<4, 0>(packed),
            5 => merged(&plane::<4, 0>(packed), &plane::<1, 4>(packed)),
            6 => merged(&plane::<4, 0>(packed), &plane::<2, 4>(packed)),
            _ => plane::<8, 0>(packed),
        }
    };
    if !format.has_table {
        return quants;
    }
    // SAFETY: the table is 16 bytes.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(TABLE.as_ptr().cast()) });
    quants.map(|indices| _mm512_shuffle_epi8(table, indices))
}

/// The bits of one plane, where they belong in the quants; its first line is line `POSITION`.
///
/// # Safety
/// `packed` points to `POSITION + BITS` readable cache lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn plane<const BITS: usize, const POSITION: usize>(packed: *const u8) -> [__m512i; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            four::<BITS, POSITION, 0>(packed),
            four::<BITS, POSITION, 1>(packed),
            four::<BITS, POSITION, 2>(packed),
            four::<BITS, POSITION, 3>(packed),
            four::<BITS, POSITION, 4>(packed),
            four::<BITS, POSITION, 5>(packed),
            four::<BITS, POSITION, 6>(packed),
            four::<BITS, POSITION, 7>(packed),
        ]
    }
}

/// One four of columns of a plane: all is known to the compiler, so that shifts are immediate.
///
/// # Safety
/// As [`plane`].
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

#[inline]
#[target_feature(enable = "avx512f")]
fn merged(a: &[__m512i; 8], b: &[__m512i; 8]) -> [__m512i; 8] {
    let [a0, a1, a2, a3, a4, a5, a6, a7] = *a;
    let [b0, b1, b2, b3, b4, b5, b6, b7] = *b;
    let or = |a, b| _mm512_or_si512(a, b);
    [or(a0, b0), or(a1, b1), or(a2, b2), or(a3, b3), or(a4, b4), or(a5, b5), or(a6, b6), or(a7, b7)]
}

/// Scales and minimums of 16 rows, for the first and the last 16 columns of a block.
///
/// # Safety
/// `of_file` points to the readable packed scales of a file block, of which this is block `block`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn scales<const TYPE: usize>(of_file: *const u8, block: usize) -> [(__m512, __m512); 2] {
    let format: Format = const { BlockType::ALL[TYPE].format() };
    // SAFETY: the caller's promise; `index` counts what the format has.
    let halves = |index: usize| unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(of_file.add(32 * index).cast())) };
    // SAFETY: as above.
    let bytes =
        |index: usize| unsafe { _mm_loadu_si128(of_file.add(format.scale_bytes_at(block) + 16 * index).cast()) };
    let signed = |index| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes(index)));
    let unsigned = |index| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(index)));
    let nibbles = |index| {
        let both = _mm512_cvtepu8_epi32(bytes(index));
        let low = _mm512_and_si512(both, _mm512_set1_epi32(15));
        (_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(both)))
    };
    let (d, none) = (halves(0), _mm512_setzero_ps());
    match format.scales {
        Scales::Half => [(d, none); 2],
        Scales::HalfAndMinimum => [(d, halves(1)); 2],
        Scales::Signed => [(_mm512_mul_ps(d, signed(0)), none); 2],
        Scales::SignedOf16 => [0, 1].map(|half| (_mm512_mul_ps(d, signed(half)), none)),
        Scales::BytesAndMinimum => [(_mm512_mul_ps(d, unsigned(0)), _mm512_mul_ps(halves(1), unsigned(1))); 2],
        Scales::NibblesOf16AndMinimum => [0, 1].map(|half| {
            let (low, high) = nibbles(half);
            (_mm512_mul_ps(d, low), _mm512_mul_ps(halves(1), high))
        }),
    }
}
