//! From GGUF blocks to the layout that the kernels read: 16 rows interleaved, one linear stream of cache lines.
//!
//! A group is 16 rows; a group's block is its 16 x 32 weights, then one line of scales:
//! - 4-bit: 4 lines; byte `4 * row + i` of line `c` holds column `4c + i` (low nibble) and `16 + 4c + i` (high).
//! - 8-bit: 8 lines; byte `4 * row + i` of line `c` holds column `4c + i`, plus 128.
//! - scales: `Q4_1` 16 float16 scales, then 16 float16 minimums; the others 16 float32 scales (widened: exact).

use super::{BLOCK, GROUP};
use crate::KernelError;
use crate::aligned::AlignedBytes;
use half::f16;
use std::ops::Range;

/// The weight formats that can be packed: GGUF's legacy blocks of 32 columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockType {
    /// 4 bits, `d * (q - 8)`; 18 bytes.
    Q4_0,
    /// 4 bits, `d * q + m`; 20 bytes.
    Q4_1,
    /// 8 bits, `d * q`; 34 bytes.
    Q8_0,
}

impl BlockType {
    /// The type of that ggml name.
    pub fn named(name: &str) -> Result<Self, KernelError> {
        match name {
            "Q4_0" => Ok(Self::Q4_0),
            "Q4_1" => Ok(Self::Q4_1),
            "Q8_0" => Ok(Self::Q8_0),
            _ => Err(KernelError::BlockType(name.to_owned())),
        }
    }

    /// Bytes of a block of 32 columns in the file.
    pub fn file_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
        }
    }

    /// Bytes of the packed weights of a group's block, without its scales.
    pub(crate) fn weight_bytes(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 => 4 * 64,
            Self::Q8_0 => 8 * 64,
        }
    }

    /// Bytes of a group's block, with its line of scales.
    pub(crate) fn packed_bytes(self) -> usize {
        self.weight_bytes() + 64
    }

    /// What is to be taken from the unsigned `q` to get the value that the scale multiplies.
    pub(crate) fn offset(self) -> i32 {
        match self {
            Self::Q4_0 => 8,
            Self::Q4_1 => 0,
            Self::Q8_0 => 128,
        }
    }
}

/// Rows of one block type, as they lie in a file: `rows x num_columns / 32` blocks.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The blocks, row after row.
    pub blocks: &'a [u8],
    /// Their format.
    pub block_type: BlockType,
}

#[derive(Debug)]
struct GroupPlace {
    block_type: BlockType,
    rows: Range<usize>,
    first_byte: usize,
}

/// One group as the kernels see it.
#[derive(Debug, Clone)]
pub(crate) struct Group<'a> {
    pub(crate) block_type: BlockType,
    /// The output columns it yields; fewer than 16 at the end of a segment.
    pub(crate) rows: Range<usize>,
    /// `num_columns / 32` packed blocks.
    pub(crate) bytes: &'a [u8],
}

/// A weight `[num_rows, num_columns]` packed for the kernels; segments of different types lie one after the other.
#[derive(Debug)]
pub struct PackedWeight {
    bytes: AlignedBytes,
    groups: Vec<GroupPlace>,
    num_rows: usize,
    num_columns: usize,
    num_bytes: usize,
}

impl PackedWeight {
    /// Packs the segments' rows one below the other. Rows that do not fill a group of 16 are padded with zeros.
    pub fn new(segments: &[Segment<'_>], num_columns: usize) -> Result<Self, KernelError> {
        if num_columns == 0 || !num_columns.is_multiple_of(BLOCK) {
            return Err(KernelError::Columns(num_columns));
        }
        let (groups, num_bytes) = place(segments, num_columns)?;
        let num_rows = groups.last().map_or(0, |group| group.rows.end);
        let mut weight = Self { bytes: AlignedBytes::zeroed(num_bytes), groups, num_rows, num_columns, num_bytes };
        weight.fill(segments);
        Ok(weight)
    }

    /// Output features, padding not counted.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Input features.
    pub fn num_columns(&self) -> usize {
        self.num_columns
    }

    /// Memory that the packed weights take, padding and scales included.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    pub(crate) fn num_groups(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn group(&self, index: usize) -> Group<'_> {
        let place = &self.groups[index];
        let num_bytes = self.num_columns / BLOCK * place.block_type.packed_bytes();
        let bytes = &self.bytes.as_slice()[place.first_byte..place.first_byte + num_bytes];
        Group { block_type: place.block_type, rows: place.rows.clone(), bytes }
    }

    /// Writes row `row` as float32; the same operations as the format's definition, so exactly its values.
    pub(crate) fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        let at = self.groups.partition_point(|place| place.rows.end <= row);
        let group = self.group(at);
        let lane = row - group.rows.start;
        let blocks = group.bytes.chunks_exact(group.block_type.packed_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(BLOCK)) {
            let (weights, scales) = block.split_at(group.block_type.weight_bytes());
            let (scale, minimum) = scale_and_minimum(scales, lane, group.block_type);
            for (column, out) in out.iter_mut().enumerate() {
                let value = unpack(weights, lane, column, group.block_type) - group.block_type.offset();
                *out = scale * value as f32 + minimum;
            }
        }
    }

    fn fill(&mut self, segments: &[Segment<'_>]) {
        let num_blocks = self.num_columns / BLOCK;
        let mut groups = self.groups.iter();
        for segment in segments {
            let row_bytes = num_blocks * segment.block_type.file_bytes();
            for rows in segment.blocks.chunks(GROUP * row_bytes) {
                let Some(place) = groups.next() else { return };
                let packed = &mut self.bytes.as_mut_slice()[place.first_byte..];
                for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
                    pack_row(row, lane, segment.block_type, packed);
                }
            }
        }
    }
}

fn place(segments: &[Segment<'_>], num_columns: usize) -> Result<(Vec<GroupPlace>, usize), KernelError> {
    let (mut groups, mut first_row, mut num_bytes) = (Vec::new(), 0, 0);
    for Segment { blocks, block_type } in segments {
        let row_bytes = num_columns / BLOCK * block_type.file_bytes();
        if !blocks.len().is_multiple_of(row_bytes) {
            let expected = blocks.len().div_ceil(row_bytes) * row_bytes;
            return Err(KernelError::Count { name: "blocks", expected, got: blocks.len() });
        }
        let end = first_row + blocks.len() / row_bytes;
        for start in (first_row..end).step_by(GROUP) {
            groups.push(GroupPlace {
                block_type: *block_type,
                rows: start..end.min(start + GROUP),
                first_byte: num_bytes,
            });
            num_bytes += num_columns / BLOCK * block_type.packed_bytes();
        }
        first_row = end;
    }
    Ok((groups, num_bytes))
}

/// Spreads one row of file blocks over its lane of the group.
fn pack_row(row: &[u8], lane: usize, block_type: BlockType, packed: &mut [u8]) {
    let packed_blocks = packed.chunks_exact_mut(block_type.packed_bytes());
    for (block, packed) in row.chunks_exact(block_type.file_bytes()).zip(packed_blocks) {
        let (weights, scales) = packed.split_at_mut(block_type.weight_bytes());
        let quants = match block_type {
            BlockType::Q4_1 => {
                scales[2 * lane..2 * lane + 2].copy_from_slice(&block[..2]);
                scales[32 + 2 * lane..32 + 2 * lane + 2].copy_from_slice(&block[2..4]);
                &block[4..]
            }
            BlockType::Q4_0 | BlockType::Q8_0 => {
                let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
                scales[4 * lane..4 * lane + 4].copy_from_slice(&scale.to_ne_bytes());
                &block[2..]
            }
        };
        // A signed byte with its top bit flipped is the same number plus 128, unsigned.
        let flip = if block_type == BlockType::Q8_0 { 0x80 } else { 0 };
        for (four, line) in quants.chunks_exact(4).zip(weights.chunks_exact_mut(64)) {
            for (quant, packed) in four.iter().zip(&mut line[4 * lane..4 * lane + 4]) {
                *packed = quant ^ flip;
            }
        }
    }
}

/// The unsigned `q` of one weight in a packed block.
fn unpack(weights: &[u8], lane: usize, column: usize, block_type: BlockType) -> i32 {
    let byte = |column: usize| weights[column / 4 * 64 + 4 * lane + column % 4];
    i32::from(match block_type {
        BlockType::Q8_0 => byte(column),
        _ if column < 16 => byte(column) & 15,
        _ => byte(column - 16) >> 4,
    })
}

/// The scale and the minimum of one lane, from a packed block's line of scales.
#[inline(always)]
pub(crate) fn scale_and_minimum(scales: &[u8], lane: usize, block_type: BlockType) -> (f32, f32) {
    let half = |at: usize| f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32();
    if block_type == BlockType::Q4_1 {
        return (half(2 * lane), half(32 + 2 * lane));
    }
    let at = 4 * lane;
    (f32::from_ne_bytes([scales[at], scales[at + 1], scales[at + 2], scales[at + 3]]), 0.0)
}
