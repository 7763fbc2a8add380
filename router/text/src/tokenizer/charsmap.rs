//! `SentencePiece`'s precompiled normalization: the longest run of characters that a table knows is replaced.
//!
//! Four bytes give the length of a double array (Darts, <https://github.com/s-yata/darts-clone>), which finds the place
//! of a replacement among the zero-terminated strings behind it. The table comes from a model file: what points
//! outside it is no match.

const LABEL: u32 = 1 << 31 | 0xFF;
const VALUE: u32 = (1 << 31) - 1;
const HAS_LEAF: u32 = 1 << 8;
const WIDE_OFFSET: u32 = 1 << 9;

#[derive(Debug, Default)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    /// Reads the content of `tokenizer.ggml.precompiled_charsmap`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (len, rest) = bytes.split_first_chunk().ok_or("it is shorter than its four bytes of length")?;
        let len = u32::from_le_bytes(*len) as usize;
        if len > rest.len() {
            return Err(format!("its table of `{len}` bytes is longer than the {} bytes that follow", rest.len()));
        }
        let (table, replacements) = rest.split_at(len);
        let units = table.as_chunks().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let replacements = String::from_utf8(replacements.to_vec()).map_err(|_| "its replacements are not UTF-8")?;
        Ok(Self { units, replacements })
    }

    /// The replacement for the longest beginning of `text` that has one, and the length of that beginning.
    pub(super) fn longest(&self, text: &str) -> Option<(&str, usize)> {
        let mut found = None;
        let mut at = self.child(0, 0)?;
        for (index, byte) in text.bytes().enumerate().take_while(|&(_, byte)| byte != 0) {
            at ^= usize::from(byte);
            let unit = self.units.get(at).copied().filter(|unit| unit & LABEL == u32::from(byte));
            let Some(unit) = unit else { break };
            let Some(child) = self.child(at, at) else { break };
            at = child;
            let leaf = self.units.get(at).filter(|_| unit & HAS_LEAF != 0 && text.is_char_boundary(index + 1));
            if let Some(replacement) = leaf.and_then(|leaf| self.replacement((leaf & VALUE) as usize)) {
                found = Some((replacement, index + 1));
            }
        }
        found
    }

    /// Where the children of a unit are, before a label is added.
    fn child(&self, unit: usize, at: usize) -> Option<usize> {
        let unit = *self.units.get(unit)?;
        let shift = if unit & WIDE_OFFSET != 0 { 8 } else { 0 };
        Some(at ^ ((unit >> 10) << shift) as usize)
    }

    fn replacement(&self, at: usize) -> Option<&str> {
        self.replacements.get(at..)?.split('\0').next()
    }
}
