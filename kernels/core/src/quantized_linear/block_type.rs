//! GGUF's block formats as data: where a block keeps its quants and scales, and what a quant is worth.

use crate::KernelError;
use std::ops::Range;

/// The weight formats that can be packed, by their names in ggml.
#[allow(missing_docs, non_camel_case_types)] // each is described by its line in `FORMATS`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

/// How the scale and the minimum of some columns are made of what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    /// For each 32 columns a float16 scale.
    Half,
    /// For each 32 columns a float16 scale and a float16 minimum.
    HalfAndMinimum,
    /// For 256 columns a float16, which a signed byte for each 32 columns multiplies.
    Signed,
    /// The same with a signed byte for each 16 columns.
    SignedOf16,
    /// For 256 columns a float16 for scales and one for minimums; for each 32 columns a byte that multiplies either.
    BytesAndMinimum,
    /// The same with one byte for each 16 columns: its low nibble multiplies the first, its high one the second.
    NibblesOf16AndMinimum,
}

/// Some bits of the quants: `run` bytes hold the bits of `run` columns lowest, then those of the next `run` above them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plane {
    /// Where in a block of the file.
    pub(crate) first_byte: usize,
    pub(crate) num_bytes: usize,
    pub(crate) run: usize,
    /// Bits of each column: 1, 2, 4 or 8.
    pub(crate) bits: usize,
    /// Of the lowest of them in the quant.
    pub(crate) position: usize,
}

/// One format: a weight is `scale * (quant - offset) + minimum`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    pub(crate) name: &'static str,
    /// Of a block of the file.
    pub(crate) num_columns: usize,
    /// Of a block of the file.
    pub(crate) num_bytes: usize,
    /// The bits of the stored quants; two planes at most.
    pub(crate) planes: &'static [Plane],
    /// Turns the top bit, so that a signed byte becomes unsigned, 128 larger.
    pub(crate) is_signed: bool,
    /// The stored quant is an index into [`TABLE`].
    pub(crate) has_table: bool,
    pub(crate) offset: i32,
    pub(crate) scales: Scales,
    /// Where the float16 of the scale, and that of the minimum, lie in a block of the file.
    pub(crate) halves: &'static [usize],
}

/// The values of the non-linear formats, 128 added.
pub(crate) const TABLE: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

const fn plane(bytes: Range<usize>, run: usize, bits: usize, position: usize) -> Plane {
    Plane { first_byte: bytes.start, num_bytes: bytes.end - bytes.start, run, bits, position }
}

const LINEAR: Format = Format {
    name: "",
    num_columns: 32,
    num_bytes: 0,
    planes: &[],
    is_signed: false,
    has_table: false,
    offset: 0,
    scales: Scales::Half,
    halves: &[0],
};
const WITH_MINIMUM: Format = Format { scales: Scales::HalfAndMinimum, halves: &[0, 2], ..LINEAR };
const SUPER: Format = Format { num_columns: 256, ..LINEAR };

/// In the order of [`BlockType`]. Source: ggml-common.h and ggml-quants.c.
const FORMATS: [Format; 12] = [
    Format { name: "Q4_0", num_bytes: 18, planes: &[plane(2..18, 16, 4, 0)], offset: 8, ..LINEAR },
    Format { name: "Q4_1", num_bytes: 20, planes: &[plane(4..20, 16, 4, 0)], ..WITH_MINIMUM },
    Format {
        name: "Q5_0",
        num_bytes: 22,
        planes: &[plane(6..22, 16, 4, 0), plane(2..6, 1, 1, 4)],
        offset: 16,
        ..LINEAR
    },
    Format { name: "Q5_1", num_bytes: 24, planes: &[plane(8..24, 16, 4, 0), plane(4..8, 1, 1, 4)], ..WITH_MINIMUM },
    Format { name: "Q8_0", num_bytes: 34, planes: &[plane(2..34, 32, 8, 0)], is_signed: true, offset: 128, ..LINEAR },
    Format {
        name: "Q2_K",
        num_bytes: 84,
        planes: &[plane(16..80, 32, 2, 0)],
        scales: Scales::NibblesOf16AndMinimum,
        halves: &[80, 82],
        ..SUPER
    },
    Format {
        name: "Q3_K",
        num_bytes: 110,
        planes: &[plane(32..96, 32, 2, 0), plane(0..32, 32, 1, 2)],
        offset: 4,
        scales: Scales::SignedOf16,
        halves: &[108],
        ..SUPER
    },
    Format {
        name: "Q4_K",
        num_bytes: 144,
        planes: &[plane(16..144, 32, 4, 0)],
        scales: Scales::BytesAndMinimum,
        halves: &[0, 2],
        ..SUPER
    },
    Format {
        name: "Q5_K",
        num_bytes: 176,
        planes: &[plane(48..176, 32, 4, 0), plane(16..48, 32, 1, 4)],
        scales: Scales::BytesAndMinimum,
        halves: &[0, 2],
        ..SUPER
    },
    Format {
        name: "Q6_K",
        num_bytes: 210,
        planes: &[plane(0..128, 64, 4, 0), plane(128..192, 32, 2, 4)],
        offset: 32,
        scales: Scales::SignedOf16,
        halves: &[208],
        ..SUPER
    },
    Format { name: "IQ4_NL", num_bytes: 18, planes: &[plane(2..18, 16, 4, 0)], has_table: true, offset: 128, ..LINEAR },
    Format {
        name: "IQ4_XS",
        num_bytes: 136,
        planes: &[plane(8..136, 16, 4, 0)],
        has_table: true,
        offset: 128,
        scales: Scales::Signed,
        ..SUPER
    },
];

/// Evaluates an expression with the number of a [`BlockType`] as a constant of the given name.
macro_rules! with_block_type {
    ($block_type:expr, $number:ident => $body:expr) => {
        $crate::quantized_linear::with_block_type!(@ $block_type, $number, $body,
            Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS)
    };
    (@ $block_type:expr, $number:ident, $body:expr, $($name:ident)*) => {
        match $block_type {
            $(BlockType::$name => {
                const $number: usize = BlockType::$name as usize;
                $body
            })*
        }
    };
}
pub(crate) use with_block_type;

impl BlockType {
    /// Every type, in the order of the enumeration.
    pub const ALL: [Self; 12] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
    ];

    /// The type of that ggml name.
    pub fn named(name: &str) -> Result<Self, KernelError> {
        Self::ALL
            .into_iter()
            .find(|block_type| block_type.name() == name)
            .ok_or_else(|| KernelError::BlockType(name.to_owned()))
    }

    /// Its ggml name.
    pub fn name(self) -> &'static str {
        self.format().name
    }

    /// Columns of a block in the file: 32 or 256.
    pub fn num_columns(self) -> usize {
        self.format().num_columns
    }

    /// Bytes of a block in the file.
    pub fn file_bytes(self) -> usize {
        self.format().num_bytes
    }

    pub(crate) const fn format(self) -> Format {
        FORMATS[self as usize]
    }
}

impl Scales {
    /// Bytes of 16 rows for each 32 columns, beside the float16s.
    pub(crate) const fn bytes_per_block(self) -> usize {
        match self {
            Self::Half | Self::HalfAndMinimum => 0,
            Self::Signed => 16,
            Self::SignedOf16 | Self::BytesAndMinimum | Self::NibblesOf16AndMinimum => 32,
        }
    }

    /// Whether each 16 columns have their own.
    pub(crate) const fn are_of_16(self) -> bool {
        matches!(self, Self::SignedOf16 | Self::NibblesOf16AndMinimum)
    }

    pub(crate) const fn have_minimum(self) -> bool {
        matches!(self, Self::HalfAndMinimum | Self::BytesAndMinimum | Self::NibblesOf16AndMinimum)
    }
}

/// The numbers that multiply a block's float16s, for each 32 or 16 columns in turn, as [`Scales`] has them.
pub(crate) fn scale_bytes(block_type: BlockType, block: &[u8]) -> [u8; 16] {
    match block_type {
        BlockType::Q2_K => std::array::from_fn(|i| block[i]),
        BlockType::Q6_K => std::array::from_fn(|i| block[192 + i]),
        BlockType::Q4_K | BlockType::Q5_K => std::array::from_fn(|i| {
            let (scales, group) = (&block[4..16], i / 2);
            let (low, shift) = (&scales[8..], 4 * (i % 2));
            match group {
                0..4 => scales[4 * (i % 2) + group] & 63,
                _ => low[group - 4] >> shift & 15 | scales[4 * (i % 2) + group - 4] >> 6 << 4,
            }
        }),
        BlockType::Q3_K => std::array::from_fn(|i| {
            let (low, high) = (&block[96..104], &block[104..108]);
            let six = low[i % 8] >> (4 * (i / 8)) & 15 | (high[i % 4] >> (2 * (i / 4)) & 3) << 4;
            six.wrapping_sub(32)
        }),
        BlockType::IQ4_XS => std::array::from_fn(|i| {
            let group = i % 8;
            let six =
                block[4 + group / 2] >> (4 * (group % 2)) & 15 | (block[2 + group / 4] >> (2 * (group % 4)) & 3) << 4;
            six.wrapping_sub(32)
        }),
        _ => [0; 16],
    }
}

/// Writes the quants of one block of the file, one byte a column; table formats stay indices.
pub(crate) fn read_quants(format: &Format, block: &[u8], quants: &mut [u8]) {
    quants.fill(if format.is_signed { 0x80 } else { 0 });
    for plane in format.planes {
        let mask = (1u16 << plane.bits).wrapping_sub(1) as u8;
        let bytes = &block[plane.first_byte..plane.first_byte + plane.num_bytes];
        let runs_a_byte = 8 / plane.bits;
        for (bytes, quants) in bytes.chunks_exact(plane.run).zip(quants.chunks_exact_mut(runs_a_byte * plane.run)) {
            for (index, quants) in quants.chunks_exact_mut(plane.run).enumerate() {
                for (quant, byte) in quants.iter_mut().zip(bytes) {
                    *quant ^= (byte >> (index * plane.bits) & mask) << plane.position;
                }
            }
        }
    }
}
