//! One kernel each per instruction set, behind one function that picks.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod portable;

use crate::InstructionSet;
use crate::quantized_linear::{ActivationTile, BlockType, TileSums};

/// One group's weights against one tile of activations; writes the sums of the tile's rows.
#[inline]
pub(crate) fn multiply_tile(
    block_type: BlockType,
    group: &[u8],
    tile: &ActivationTile<'_>,
    sums: &mut TileSums,
    set: InstructionSet,
) {
    #[cfg(target_arch = "x86_64")]
    if set.is_avx512() {
        return avx512::quantized_linear::multiply_tile(set, block_type, group, tile, sums);
    }
    portable::quantized_linear::multiply_tile(block_type, group, tile, sums);
}
