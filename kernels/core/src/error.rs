//! What a kernel refuses: always the caller's mistake, named with the value at fault.

use crate::quantized_linear::BlockType;

/// Why a kernel did not run. Every variant is a wrong argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A tensor has a shape that the op cannot take.
    #[error("`{name}` has {got} elements a row, expected {expected}")]
    RowLength {
        /// The argument.
        name: &'static str,
        /// What the other arguments ask for.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// Two arguments disagree about how many rows (tokens, sequences) there are.
    #[error("`{name}` has {got} entries, expected {expected}")]
    Count {
        /// The argument.
        name: &'static str,
        /// What the other arguments ask for.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// An index points outside what it indexes.
    #[error("`{name}[{at}]` is `{got}`, expected 0 to {limit} (exclusive)")]
    Index {
        /// The argument.
        name: &'static str,
        /// The position of the wrong entry.
        at: usize,
        /// The wrong entry.
        got: i64,
        /// The first value that is too large.
        limit: usize,
    },
    /// The number of columns cannot be cut into whole quantization blocks.
    #[error(
        "num_columns is `{got}`, expected a positive multiple of {block} (the quantization block of `{block_type}`)"
    )]
    Columns {
        /// What was given.
        got: usize,
        /// Columns of a block.
        block: usize,
        /// The format's name.
        block_type: &'static str,
    },
    /// A block format without a kernel.
    #[error(
        "block type `{0}` is not supported, expected one of {supported}; dequantize the tensor instead",
        supported = BlockType::ALL.map(|known| format!("`{}`", known.name())).join(", ")
    )]
    BlockType(String),
    /// An instruction set that is unknown or that this machine lacks.
    #[error("instruction set `{name}` is not available, this machine has {available}")]
    InstructionSet {
        /// What was asked for.
        name: String,
        /// What there is, best first.
        available: String,
    },
    /// A value that has no meaning for the op.
    #[error("`{name}` is `{got}`, expected {expected}")]
    Value {
        /// The argument.
        name: &'static str,
        /// The value, as text.
        got: String,
        /// What would have been right.
        expected: String,
    },
}
