//! From GGUF blocks to the layout that the kernels read: 16 rows interleaved, scales first, then cache lines of quants.
//!
//! A group is 16 rows. Its scales come first, file block by file block: for 16 rows the float16 of the scale, then that
//! of the minimum if there is one, then for each 32 columns the bytes that multiply them (none, 16, or two times 16).
//! From the next cache line on follow its quants: for each 32 columns as many lines as a quant has bits. A line holds
//! some bits of some columns of all 16 rows, 4 bytes a row: byte `4 * row + i` is about columns `4c + i`, where line
//! `l` of a plane of `b` bits holds column fours `c = l`, `l + b`, `l + 2b`, ... from its low bits up. Quants of 3, 5
//! and 6 bits are two planes: the bits below the highest power of two, then the rest.
//!
//! Nothing is rounded, and nothing grows but by a few scales of six bits that take eight: bits a weight, file and here,
//! are 2.625 and 2.625 for `Q2_K`, 3.44 and 3.56 for `Q3_K`, 4.5 and 4.625 for `Q4_K`, 5.5 and 5.625 for `Q5_K`, 4.25
//! and 4.31 for `IQ4_XS`, and equal for the others.

use super::block_type::{BlockType, Format, Scales, TABLE, read_quants, scale_bytes};
use super::{BLOCK, GROUP};
use crate::KernelError;
use crate::aligned::AlignedBytes;
use crate::threads::{SharedOutput, max_threads, parallel_for, run_length};
use std::ops::Range;

const LINE: usize = 64;
/// Bytes of a float16 for each row of a group.
const HALVES: usize = 2 * GROUP;
/// Fours of columns in a block: a row's four bytes make a word.
const FOURS: usize = BLOCK / 4;
const MAX_FILE_COLUMNS: usize = 256;

impl Format {
    /// Blocks of 32 columns that one block of the file holds.
    pub(crate) const fn num_blocks(&self) -> usize {
        self.num_columns / BLOCK
    }

    /// Bits of a quant: the cache lines that 32 columns of a group take.
    pub(crate) const fn bits(&self) -> usize {
        let mut bits = 0;
        let mut index = 0;
        while index < self.planes.len() {
            bits += self.planes[index].bits;
            index += 1;
        }
        bits
    }

    /// Packed bytes of one file block's scales, of 16 rows.
    pub(crate) const fn scales_bytes(&self) -> usize {
        HALVES * self.halves.len() + self.num_blocks() * self.scales.bytes_per_block()
    }

    /// From a file block's packed scales to the bytes of its 32 columns `block`.
    pub(crate) const fn scale_bytes_at(&self, block: usize) -> usize {
        HALVES * self.halves.len() + block * self.scales.bytes_per_block()
    }

    /// From a group's start to its quants, in a weight of `num_columns`.
    pub(crate) const fn first_quant_byte(&self, num_columns: usize) -> usize {
        (num_columns / self.num_columns * self.scales_bytes()).next_multiple_of(LINE)
    }

    /// Packed bytes of 16 rows.
    pub(crate) const fn group_bytes(&self, num_columns: usize) -> usize {
        self.first_quant_byte(num_columns) + num_columns / BLOCK * self.bits() * LINE
    }
}

/// Rows of one block type, as they lie in a file.
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
    pub(crate) num_columns: usize,
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
        let num_bytes = place.block_type.format().group_bytes(self.num_columns);
        let bytes = &self.bytes.as_slice()[place.first_byte..place.first_byte + num_bytes];
        Group { block_type: place.block_type, rows: place.rows.clone(), num_columns: self.num_columns, bytes }
    }

    /// Writes row `row` as float32; the same operations as the format's definition, so exactly its values.
    pub(crate) fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        let at = self.groups.partition_point(|place| place.rows.end <= row);
        let group = self.group(at);
        let format = group.block_type.format();
        let lane = row - group.rows.start;
        for (index, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let block = group.block(&format, index);
            for (half, out) in out.chunks_exact_mut(BLOCK / 2).enumerate() {
                let (scale, minimum) = block.scale_and_minimum(&format, lane, half);
                for (four, out) in out.chunks_exact_mut(4).enumerate() {
                    let quants = block.four(&format, lane, half * FOURS / 2 + four).to_le_bytes();
                    for (out, quant) in out.iter_mut().zip(quants) {
                        *out = scale * (i32::from(quant) - format.offset) as f32 + minimum;
                    }
                }
            }
        }
    }

    fn fill(&mut self, segments: &[Segment<'_>]) {
        let num_columns = self.num_columns;
        let rows_of_groups: Vec<&[u8]> = segments
            .iter()
            .flat_map(|segment| segment.blocks.chunks(GROUP * row_bytes(segment.block_type, num_columns)))
            .collect();
        let groups = &self.groups;
        let packed = SharedOutput::new(self.bytes.as_mut_slice());
        let length = run_length(groups.len(), max_threads());
        parallel_for(max_threads(), groups.len().div_ceil(length), |task| {
            for (place, rows) in groups.iter().zip(&rows_of_groups).skip(task * length).take(length) {
                let num_bytes = place.block_type.format().group_bytes(num_columns);
                #[allow(unsafe_code)]
                // SAFETY: groups do not overlap, each is in one task.
                let packed = unsafe { packed.part(place.first_byte, num_bytes) };
                for (lane, row) in rows.chunks_exact(row_bytes(place.block_type, num_columns)).enumerate() {
                    pack_row(row, lane, num_columns, place.block_type, packed);
                }
            }
        });
    }
}

/// The packed bytes of 32 columns, in two places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedBlock<'a> {
    /// Of the whole file block.
    scales: &'a [u8],
    /// Which 32 columns of the file block.
    index: usize,
    quants: &'a [u8],
}

impl<'a> Group<'a> {
    /// Columns `32 * index` to `32 * index + 31`.
    #[inline(always)]
    pub(crate) fn block(&self, format: &Format, index: usize) -> PackedBlock<'a> {
        let scales = index / format.num_blocks() * format.scales_bytes();
        let quants = format.first_quant_byte(self.num_columns) + index * format.bits() * LINE;
        PackedBlock {
            scales: &self.bytes[scales..scales + format.scales_bytes()],
            index: index % format.num_blocks(),
            quants: &self.bytes[quants..quants + format.bits() * LINE],
        }
    }
}

impl PackedBlock<'_> {
    /// The scale and the minimum of one lane, for columns 0 to 15 (`half` 0) or 16 to 31.
    #[inline(always)]
    pub(crate) fn scale_and_minimum(&self, format: &Format, lane: usize, half: usize) -> (f32, f32) {
        let float = |at: usize| widen(u16::from_le_bytes([self.scales[at], self.scales[at + 1]]));
        let byte = |index: usize| self.scales[format.scale_bytes_at(self.index) + GROUP * index + lane];
        let unsigned = |index| f32::from(byte(index));
        let signed = |index| f32::from(byte(index) as i8);
        let (d, m) = (float(2 * lane), || float(HALVES + 2 * lane));
        match format.scales {
            Scales::Half => (d, 0.0),
            Scales::HalfAndMinimum => (d, m()),
            Scales::Signed => (d * signed(0), 0.0),
            Scales::SignedOf16 => (d * signed(half), 0.0),
            Scales::BytesAndMinimum => (d * unsigned(0), m() * unsigned(1)),
            Scales::NibblesOf16AndMinimum => (d * f32::from(byte(half) & 15), m() * f32::from(byte(half) >> 4)),
        }
    }

    /// The unsigned quants of all lanes, `[four of columns][lane]`, lowest column in the low byte. Line by line, so that
    /// each loop over lanes is a few vector instructions.
    #[inline(always)]
    pub(crate) fn unpack(&self, format: &Format, quants: &mut [[u32; GROUP]; FOURS]) {
        *quants = Default::default();
        for (bits, position) in packed_planes(format.bits()) {
            for (index, line) in self.quants[position * LINE..(position + bits) * LINE].chunks_exact(LINE).enumerate() {
                let mut words = [0; GROUP];
                for (word, bytes) in words.iter_mut().zip(line.chunks_exact(4)) {
                    *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                }
                for (turn, quants) in quants.iter_mut().skip(index).step_by(bits).enumerate() {
                    for (quant, word) in quants.iter_mut().zip(words) {
                        *quant |= (word >> (turn * bits) & in_each_byte(bits)) << position;
                    }
                }
            }
        }
        if format.has_table {
            for quants in quants {
                for quant in quants {
                    *quant = look_up(*quant);
                }
            }
        }
    }

    /// The unsigned quants of four columns of one lane, lowest column in the low byte.
    #[inline(always)]
    pub(crate) fn four(&self, format: &Format, lane: usize, four: usize) -> u32 {
        let mut quants = 0;
        for (bits, position) in packed_planes(format.bits()) {
            let at = (position + four % bits) * LINE + 4 * lane;
            let line =
                u32::from_le_bytes([self.quants[at], self.quants[at + 1], self.quants[at + 2], self.quants[at + 3]]);
            quants |= (line >> (four / bits * bits) & in_each_byte(bits)) << position;
        }
        if format.has_table { look_up(quants) } else { quants }
    }
}

/// A float16's value, from its bits. Without a branch or a call, so that loops over lanes become vector code.
#[inline(always)]
fn widen(half: u16) -> f32 {
    /// From a float16's bias of exponents to a float32's.
    const BIAS: u32 = (127 - 15) << 23;
    /// The least normal float16, which subnormal ones are counted from.
    const LEAST: u32 = (127 - 14) << 23;
    let magnitude = u32::from(half & 0x7fff) << 13;
    let normal = magnitude + BIAS;
    let not_finite = magnitude + 2 * BIAS;
    let subnormal = (f32::from_bits(magnitude + LEAST) - f32::from_bits(LEAST)).to_bits();
    let bits = if magnitude >= 31 << 23 { not_finite } else { normal };
    let bits = if magnitude < 1 << 23 { subnormal } else { bits };
    f32::from_bits(bits | u32::from(half & 0x8000) << 16)
}

/// Each byte's entry in the table. Bit by bit of the index half of the entries are left; no loads, so that loops over
/// lanes become vector code.
#[inline(always)]
fn look_up(quants: u32) -> u32 {
    let mut entries = TABLE.map(|entry| u32::from(entry) * in_each_byte(1));
    for bit in 0..4 {
        let ones = quants >> bit & in_each_byte(1);
        let mask = (ones << 8).wrapping_sub(ones);
        for i in 0..TABLE.len() >> (bit + 1) {
            let (even, odd) = (entries[2 * i], entries[2 * i + 1]);
            entries[i] = even ^ (even ^ odd) & mask;
        }
    }
    entries[0]
}

/// The `(bits, position)` of the planes that quants of so many bits are cut into; a plane's first line is `position`.
#[inline(always)]
fn packed_planes(bits: usize) -> impl Iterator<Item = (usize, usize)> {
    let first = 1 << bits.ilog2();
    [(first, 0), (bits - first, first)].into_iter().filter(|(bits, _)| *bits > 0)
}

/// A mask of the lowest `bits` of each byte of a word.
#[inline(always)]
const fn in_each_byte(bits: usize) -> u32 {
    (0xff >> (8 - bits)) * 0x0101_0101
}

fn row_bytes(block_type: BlockType, num_columns: usize) -> usize {
    num_columns / block_type.num_columns() * block_type.file_bytes()
}

fn place(segments: &[Segment<'_>], num_columns: usize) -> Result<(Vec<GroupPlace>, usize), KernelError> {
    let (mut groups, mut first_row, mut num_bytes) = (Vec::new(), 0, 0);
    for Segment { blocks, block_type } in segments {
        let block = block_type.num_columns();
        if num_columns == 0 || !num_columns.is_multiple_of(block) {
            return Err(KernelError::Columns { got: num_columns, block, block_type: block_type.name() });
        }
        let row_bytes = row_bytes(*block_type, num_columns);
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
            num_bytes += block_type.format().group_bytes(num_columns);
        }
        first_row = end;
    }
    Ok((groups, num_bytes))
}

/// Spreads one row of file blocks over its lane of the group.
fn pack_row(row: &[u8], lane: usize, num_columns: usize, block_type: BlockType, packed: &mut [u8]) {
    let format = block_type.format();
    let (scales, quants) = packed.split_at_mut(format.first_quant_byte(num_columns));
    let scales = scales.chunks_exact_mut(format.scales_bytes());
    let mut lines = quants.chunks_exact_mut(format.bits() * LINE);
    let mut unpacked = [0; MAX_FILE_COLUMNS];
    for (block, scales) in row.chunks_exact(format.num_bytes).zip(scales) {
        pack_scales(block, lane, block_type, scales);
        let unpacked = &mut unpacked[..format.num_columns];
        read_quants(&format, block, unpacked);
        for (quants, lines) in unpacked.chunks_exact(BLOCK).zip(&mut lines) {
            pack_quants(quants, lane, format.bits(), lines);
        }
    }
}

fn pack_scales(block: &[u8], lane: usize, block_type: BlockType, packed: &mut [u8]) {
    let format = block_type.format();
    let (halves, bytes) = packed.split_at_mut(format.scale_bytes_at(0));
    for (at, halves) in format.halves.iter().zip(halves.chunks_exact_mut(HALVES)) {
        halves[2 * lane..2 * lane + 2].copy_from_slice(&block[*at..at + 2]);
    }
    if format.num_blocks() > 1 && format.scales.have_minimum() {
        // Large blocks take their minimum away, small ones add it: the sign bit makes all of them add.
        halves[HALVES + 2 * lane + 1] ^= 0x80;
    }
    for (byte, lanes) in scale_bytes(block_type, block).into_iter().zip(bytes.chunks_exact_mut(GROUP)) {
        lanes[lane] = byte;
    }
}

/// One row's 32 quants into the group's lines.
fn pack_quants(quants: &[u8], lane: usize, bits: usize, lines: &mut [u8]) {
    for (four, quants) in quants.chunks_exact(4).enumerate() {
        let word = u32::from_le_bytes([quants[0], quants[1], quants[2], quants[3]]);
        for (bits, position) in packed_planes(bits) {
            let part = (word >> position & in_each_byte(bits)) << (four / bits * bits);
            let at = (position + four % bits) * LINE + 4 * lane;
            for (line, byte) in lines[at..at + 4].iter_mut().zip(part.to_le_bytes()) {
                *line |= byte;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float16_widens_to_its_value() {
        for bits in 0..=u16::MAX {
            let (got, expected) = (widen(bits), half::f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn every_index_finds_its_entry_in_every_byte() {
        for index in 0..=u16::MAX {
            let quants = [index, index >> 4, index >> 8, index >> 12].map(|index| (index & 15) as u8);
            let expected = quants.map(|quant| TABLE[usize::from(quant)]);
            assert_eq!(look_up(u32::from_le_bytes(quants)).to_le_bytes(), expected);
        }
    }
}
