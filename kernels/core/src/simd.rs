//! One kernel each per instruction set, behind one function that picks.

#[cfg(target_arch = "x86_64")]
mod attention_tile;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod portable;
mod prefetch;

use crate::paged_attention::{HeadCache, Partial, QueryRows};
use crate::quantized_linear::{ActivationTile, BLOCK, Group, TILE_GROUPS, TileSums};
use crate::{Float, InstructionSet, float_linear};
use half::bf16;
pub(crate) use prefetch::prefetch;
use std::ops::Range;

/// See [`float_linear::Element::multiply`].
#[inline]
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub(crate) fn multiply_f32(weights: &[u8], rows: &[&[f32]], sums: &mut float_linear::Sums, set: InstructionSet) {
    #[cfg(target_arch = "x86_64")]
    if set.is_avx512() {
        return avx512::float_linear::multiply_f32(set, weights, rows, sums);
    }
    #[cfg(target_arch = "x86_64")]
    if set.is_avx2() {
        return avx2::float_linear::multiply_f32(set, weights, rows, sums);
    }
    portable::float_linear::multiply_f32(weights, rows, sums);
}

/// See [`float_linear::Element::multiply`].
#[inline]
pub(crate) fn multiply_bf16(weights: &[u8], rows: &[&[bf16]], sums: &mut float_linear::Sums, set: InstructionSet) {
    #[cfg(target_arch = "x86_64")]
    if set.has_avx512_bf16() {
        return avx512::float_linear::multiply_bf16(set, weights, rows, sums);
    }
    set.vectorize(
        #[inline(always)]
        || portable::float_linear::multiply_bf16(weights, rows, sums),
    );
}

/// Quantizes a block of activations into `values`, in the layout that `multiply_tile` reads with the same set; returns the
/// scale and the sums of the first and the last 16 quantized values. To be called inside [`InstructionSet::vectorize`].
#[inline(always)]
pub(crate) fn quantize_block(x: &[f32; BLOCK], values: &mut [i8], set: InstructionSet) -> (f32, [i32; 2]) {
    #[cfg(target_arch = "x86_64")]
    if set.is_avx512() {
        return avx512::quantized_linear::quantize_block(set, x, values);
    }
    portable::quantized_linear::quantize_block(x, values)
}

/// The weights of up to `TILE_GROUPS` groups of one type against one tile of activations; writes the sums of the tile's
/// rows for each.
#[inline]
pub(crate) fn multiply_tile(
    groups: &[Group<'_>],
    tile: &ActivationTile<'_>,
    sums: &mut [TileSums; TILE_GROUPS],
    set: InstructionSet,
) {
    #[cfg(target_arch = "x86_64")]
    if set.is_avx512() {
        return avx512::quantized_linear::multiply_tile(set, groups, tile, sums);
    }
    for (group, sums) in groups.iter().zip(sums) {
        #[cfg(target_arch = "x86_64")]
        if set.is_avx2() {
            avx2::quantized_linear::multiply_tile(set, group, tile, sums);
            continue;
        }
        portable::quantized_linear::multiply_tile(group, tile, sums);
    }
}

/// Rows of queries against a segment of positions; `partial` comes in cleared. `scratch` is any buffer to reuse.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub(crate) fn attend<C: Float>(
    head: &HeadCache<'_, C>,
    positions: Range<usize>,
    rows: &QueryRows<'_>,
    scratch: &mut Vec<f32>,
    partial: &mut Partial<'_>,
    set: InstructionSet,
) {
    #[cfg(target_arch = "x86_64")]
    if set.is_avx512() && head.head_dim().is_multiple_of(16) {
        return avx512::attention::attend(set, head, positions, rows, scratch, partial);
    }
    #[cfg(target_arch = "x86_64")]
    if set.is_avx2() && head.head_dim().is_multiple_of(8) {
        return avx2::attention::attend(set, head, positions, rows, scratch, partial);
    }
    set.vectorize(
        #[inline(always)]
        || portable::attention::attend(head, positions, rows, partial),
    );
}
