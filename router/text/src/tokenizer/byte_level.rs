//! GPT-2's stand-ins: each byte is written as one printable character in a byte-level vocabulary.

/// The stand-in of a byte: itself when printable in Latin-1, else the next free character from U+0100 on.
pub(super) fn symbol(byte: u8) -> char {
    let offset = match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => return char::from(byte),
        0..=0x20 => u32::from(byte),
        0x7F..=0xA0 => u32::from(byte) - 0x7F + 0x21,
        0xAD => 0x43,
    };
    char::from_u32(0x100 + offset).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character stands for.
pub(super) fn byte(symbol: char) -> Option<u8> {
    let code = symbol as u32;
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The bytes that a token is written for; `None` if any of its characters stands for none.
pub(super) fn written_bytes(token: &str) -> Option<Box<[u8]>> {
    token.chars().map(byte).collect()
}

/// A token's bytes; a token with any other character stands for itself (added tokens).
pub(super) fn bytes(token: &str) -> Vec<u8> {
    written_bytes(token).map_or_else(|| token.as_bytes().to_vec(), Vec::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_symbol_of_its_own_and_back() {
        let mut symbols: Vec<char> = (0..=255).map(symbol).collect();
        assert!((0..=255).all(|value| byte(symbol(value)) == Some(value)));
        symbols.sort_unstable();
        symbols.dedup();
        assert_eq!(symbols.len(), 256);
        assert_eq!((symbol(b' '), symbol(b'\n'), symbol(0xAD)), ('Ġ', 'Ċ', 'Ń'));
    }

    #[test]
    fn a_token_outside_the_alphabet_stands_for_itself() {
        assert_eq!(bytes("Ġé"), [0x20, 0xE9]);
        assert_eq!(bytes("<｜end▁of｜>"), "<｜end▁of｜>".as_bytes());
    }
}
