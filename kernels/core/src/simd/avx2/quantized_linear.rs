//! The quantized product with 256-bit vectors: quants of 16 bits meet activations of 16 bits in `vpmaddwd`.
//!
//! AVX-VNNI's `vpdpwssd`, which also adds, was measured no faster. What `multiply` calls is inlined into it by force: the
//! compiler would leave some of it a call, and compile that without the features.

use crate::InstructionSet;
use crate::quantized_linear::{
    ActivationTile, BLOCK, BlockType, GROUP, Group, Scales, TABLE, TileSums, VALUES_BYTES, with_block_type,
};
#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;

/// Float32 lanes: half of a group's rows.
const LANES: usize = 8;

pub(crate) fn multiply_tile(set: InstructionSet, group: &Group<'_>, tile: &ActivationTile<'_>, sums: &mut TileSums) {
    assert!(set.is_avx2());
    let format = group.block_type.format();
    let num_entries = group.num_columns / BLOCK * tile.num_rows;
    assert!(group.bytes.len() == format.group_bytes(group.num_columns));
    assert!(group.num_columns.is_multiple_of(format.num_columns));
    assert!(tile.values.len() == num_entries * VALUES_BYTES && tile.scales.len() == num_entries);
    assert!(tile.scaled_sums.len() == num_entries && tile.sums.len() == num_entries);
    // SAFETY: `set` proves the features; the lengths that the kernels rely on are asserted above.
    unsafe {
        with_block_type!(group.block_type, TYPE => multiply::<TYPE>(group, tile, sums));
    }
}

/// # Safety
/// `group` holds whole file blocks of the type numbered `TYPE`; the tile's slices hold an entry for each of its blocks
/// of 32 columns and each row.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<const TYPE: usize>(group: &Group<'_>, tile: &ActivationTile<'_>, sums: &mut TileSums) {
    // SAFETY: handed on from the caller.
    unsafe {
        match tile.num_rows {
            1 => multiply_rows::<1, TYPE>(group, tile, sums),
            _ => multiply_rows::<2, TYPE>(group, tile, sums),
        }
    }
}

/// All rows of the tile, `R` at a time: a block's quants are unpacked once, and loaded once for `R` rows.
///
/// # Safety
/// As [`multiply`], with a number of rows that is a multiple of `R`.
#[inline(always)]
unsafe fn multiply_rows<const R: usize, const TYPE: usize>(
    group: &Group<'_>,
    tile: &ActivationTile<'_>,
    sums: &mut TileSums,
) {
    assert!(tile.num_rows.is_multiple_of(R));
    let format = const { BlockType::ALL[TYPE].format() };
    *sums = TileSums::default();
    for block in 0..group.num_columns / BLOCK {
        // SAFETY: block counts the group's blocks, so all reads lie inside the slices whose lengths the caller has
        // checked.
        unsafe {
            let (of_file, index) = (block / format.num_blocks() * format.scales_bytes(), block % format.num_blocks());
            let of_file = group.bytes.as_ptr().add(of_file);
            let quants = format.first_quant_byte(group.num_columns) + block * format.bits() * 64;
            let quants = unpack_block::<TYPE>(group.bytes.as_ptr().add(quants));
            let scales = [scales::<TYPE, 0>(of_file, index), scales::<TYPE, 1>(of_file, index)];
            for row in (0..tile.num_rows).step_by(R) {
                let at = block * tile.num_rows + row;
                let x = tile.values.as_ptr().add(at * VALUES_BYTES);
                let mut dots = [[_mm256_setzero_si256(); 2]; R];
                add_products::<R>(&mut dots, &quants[..4], x);
                if format.scales.are_of_16() {
                    add_to_sums::<R, TYPE, 0>(&mut sums[row..], &dots, scales[0], (tile, at));
                    dots = [[_mm256_setzero_si256(); 2]; R];
                }
                add_products::<R>(&mut dots, &quants[4..], x.add(4 * 8));
                add_to_sums::<R, TYPE, 1>(&mut sums[row..], &dots, scales[1], (tile, at));
            }
        }
    }
}

/// The quants of a four of columns: for the first and the last 8 rows, the even and the odd columns.
type Four = [[__m256i; 2]; 2];

/// # Safety
/// `x` points to as many fours of words for `R` rows, a block apart.
#[inline(always)]
unsafe fn add_products<const R: usize>(dots: &mut [[__m256i; 2]; R], quants: &[Four], x: *const i8) {
    for (four, quants) in quants.iter().enumerate() {
        for (row, dots) in dots.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let x = x.add(row * VALUES_BYTES + 8 * four);
                let x = [_mm256_set1_epi32(load_pair(x)), _mm256_set1_epi32(load_pair(x.add(4)))];
                for (dots, [even, odd]) in dots.iter_mut().zip(quants) {
                    *dots = _mm256_add_epi32(*dots, _mm256_madd_epi16(*even, x[0]));
                    *dots = _mm256_add_epi32(*dots, _mm256_madd_epi16(*odd, x[1]));
                }
            }
        }
    }
}

/// Scales the dot products of the columns that share the scales of half `HALF` of a block into `sums`. A dot product is
/// at most 2^28 with 8-bit weights: 32 products of 255 and 32512.
///
/// # Safety
/// The last argument is a tile and the entry of the first row in its slices; `sums` has `R` rows.
#[inline(always)]
unsafe fn add_to_sums<const R: usize, const TYPE: usize, const HALF: usize>(
    sums: &mut [[f32; GROUP]],
    dots: &[[__m256i; 2]; R],
    scales: [(__m256, __m256); 2],
    (tile, at): (&ActivationTile<'_>, usize),
) {
    let format = const { BlockType::ALL[TYPE].format() };
    for (row, (dots, sums)) in dots.iter().zip(sums).enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let (x_scale, [first, last]) = (*tile.scales.as_ptr().add(at + row), *tile.sums.as_ptr().add(at + row));
            let of_16 = if HALF == 0 { first } else { last };
            let sum = if format.scales.are_of_16() { of_16 } else { first + last };
            for ((dots, (scale, minimum)), sums) in dots.iter().zip(scales).zip(sums.chunks_exact_mut(LANES)) {
                let mut dots = *dots;
                if format.offset != 0 {
                    dots = _mm256_add_epi32(dots, _mm256_set1_epi32(-format.offset * sum));
                }
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(x_scale));
                let mut total = _mm256_loadu_ps(sums.as_ptr());
                total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scale, total);
                if format.scales.have_minimum() {
                    total = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x_scale * sum as f32), total);
                }
                _mm256_storeu_ps(sums.as_mut_ptr(), total);
            }
        }
    }
}

/// # Safety
/// `packed` points to as many readable cache lines as a quant of the type has bits.
#[inline(always)]
unsafe fn unpack_block<const TYPE: usize>(packed: *const u8) -> [Four; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            unpack::<TYPE, 0>(packed),
            unpack::<TYPE, 1>(packed),
            unpack::<TYPE, 2>(packed),
            unpack::<TYPE, 3>(packed),
            unpack::<TYPE, 4>(packed),
            unpack::<TYPE, 5>(packed),
            unpack::<TYPE, 6>(packed),
            unpack::<TYPE, 7>(packed),
        ]
    }
}

/// # Safety
/// As [`unpack_block`].
#[inline(always)]
unsafe fn unpack<const TYPE: usize, const FOUR: usize>(packed: *const u8) -> Four {
    // SAFETY: the caller's promise; a line is twice 8 rows.
    unsafe { [unpack_half::<TYPE, FOUR>(packed), unpack_half::<TYPE, FOUR>(packed.add(4 * LANES))] }
}

/// Two words as they lie in memory.
///
/// # Safety
/// `x` points to 4 readable bytes.
#[inline(always)]
unsafe fn load_pair(x: *const i8) -> i32 {
    // SAFETY: the caller's promise; no alignment is asked for.
    i32::from_ne_bytes(unsafe { x.cast::<[u8; 4]>().read() })
}

/// The even and the odd columns of a four, for 8 rows: two quants of 16 bits a lane.
///
/// # Safety
/// `packed` points to 32 readable bytes of as many cache lines as a quant of the type has bits.
#[inline(always)]
unsafe fn unpack_half<const TYPE: usize, const FOUR: usize>(packed: *const u8) -> [__m256i; 2] {
    let format = const { BlockType::ALL[TYPE].format() };
    // SAFETY: the caller's promise: these are the planes that quants of so many bits are packed in.
    unsafe {
        let mut quants = match format.bits() {
            2 => four::<2, 0, FOUR>(packed),
            3 => _mm256_or_si256(four::<2, 0, FOUR>(packed), four::<1, 2, FOUR>(packed)),
            4 => four::<4, 0, FOUR>(packed),
            5 => _mm256_or_si256(four::<4, 0, FOUR>(packed), four::<1, 4, FOUR>(packed)),
            6 => _mm256_or_si256(four::<4, 0, FOUR>(packed), four::<2, 4, FOUR>(packed)),
            _ => four::<8, 0, FOUR>(packed),
        };
        if format.has_table {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(TABLE.as_ptr().cast()));
            quants = _mm256_shuffle_epi8(table, quants);
        }
        [_mm256_and_si256(quants, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(quants)]
    }
}

/// The bits of one plane, where they belong in the quants; its first line is line `POSITION`.
///
/// # Safety
/// `packed` points to 32 readable bytes of `POSITION + BITS` cache lines.
#[inline(always)]
unsafe fn four<const BITS: usize, const POSITION: usize, const FOUR: usize>(packed: *const u8) -> __m256i {
    let from = FOUR / BITS * BITS;
    // SAFETY: the caller's promise. What falls in from the neighbouring byte is masked away.
    unsafe {
        let line = _mm256_loadu_si256(packed.add((POSITION + FOUR % BITS) * 64).cast());
        let count = _mm_cvtsi32_si128(from.abs_diff(POSITION) as i32);
        let moved = if from > POSITION { _mm256_srl_epi16(line, count) } else { _mm256_sll_epi16(line, count) };
        _mm256_and_si256(moved, _mm256_set1_epi8(((0xffu8 >> (8 - BITS)) << POSITION) as i8))
    }
}

/// Scales and minimums of the first and the last 8 rows, for the first (`HALF` 0) or the last 16 columns of a block.
///
/// # Safety
/// `of_file` points to the readable packed scales of a file block, of which this is block `index`.
#[inline(always)]
unsafe fn scales<const TYPE: usize, const HALF: usize>(of_file: *const u8, index: usize) -> [(__m256, __m256); 2] {
    let format = const { BlockType::ALL[TYPE].format() };
    // SAFETY: AVX2 is there, as the caller's promise says.
    let mut scales = [unsafe { (_mm256_setzero_ps(), _mm256_setzero_ps()) }; 2];
    for (half, (scale, minimum)) in scales.iter_mut().enumerate() {
        // SAFETY: the caller's promise: there are as many float16s and bytes as the format's kind of scales has.
        unsafe {
            let bytes = of_file.add(format.scale_bytes_at(index) + half * LANES);
            *scale = halves(of_file.add(2 * half * LANES));
            if format.scales.have_minimum() {
                *minimum = halves(of_file.add(32 + 2 * half * LANES));
            }
            match format.scales {
                Scales::Half | Scales::HalfAndMinimum => {}
                Scales::Signed => *scale = _mm256_mul_ps(*scale, signed(bytes)),
                Scales::SignedOf16 => *scale = _mm256_mul_ps(*scale, signed(bytes.add(16 * HALF))),
                Scales::BytesAndMinimum => {
                    *scale = _mm256_mul_ps(*scale, _mm256_cvtepi32_ps(unsigned(bytes)));
                    *minimum = _mm256_mul_ps(*minimum, _mm256_cvtepi32_ps(unsigned(bytes.add(16))));
                }
                Scales::NibblesOf16AndMinimum => {
                    let both = unsigned(bytes.add(16 * HALF));
                    let low = _mm256_and_si256(both, _mm256_set1_epi32(15));
                    *scale = _mm256_mul_ps(*scale, _mm256_cvtepi32_ps(low));
                    *minimum = _mm256_mul_ps(*minimum, _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(both)));
                }
            }
        }
    }
    scales
}

/// # Safety
/// `from` points to 8 readable float16s.
#[inline(always)]
unsafe fn halves(from: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
}

/// # Safety
/// `from` points to 8 readable bytes.
#[inline(always)]
unsafe fn signed(from: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
}

/// # Safety
/// `from` points to 8 readable bytes.
#[inline(always)]
unsafe fn unsigned(from: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
}
