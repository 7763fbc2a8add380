//! Counts what encoding does, so that a test can tell work in proportion to a text from time on a busy machine.

/// So many characters or bytes were looked at, or parts joined. Outside of tests it does nothing.
#[cfg(not(test))]
pub(super) const fn count(_steps: usize) {}

#[cfg(test)]
pub(super) use tests::count;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::Tokenizer;
    use crate::test_gguf::GgufWriter;
    use crate::tokenizer::pre;
    use crate::tokenizer::tests::{SPM_TOKENS, gguf, spm_header};

    thread_local! {
        static COUNT: Cell<u64> = const { Cell::new(0) };
    }

    pub(in crate::tokenizer) fn count(steps: usize) {
        COUNT.set(COUNT.get() + steps as u64);
    }

    const UNITS: [&str; 18] = [
        "a", "A", "Aa", " ", "\n", " \n", "a ", "1", "!", "'", "'s", "e\u{301}", "\u{301}", "😀", "한", "中", "\u{4}",
        "<|im_",
    ];
    /// Looking at each byte with each alternative of each expression, and joining it.
    const MAX_STEPS_A_BYTE: f64 = 150.0;

    fn steps_a_byte(tokenizer: &Tokenizer, unit: &str, len: usize) -> f64 {
        let text = unit.repeat(len / unit.len());
        COUNT.set(0);
        tokenizer.encode_ids(&text, true).unwrap();
        COUNT.get() as f64 / text.len() as f64
    }

    #[test]
    fn hostile_texts_take_work_in_proportion_to_their_length() {
        let kinds = pre::first_names().map(|name| (name, gguf(&GgufWriter::tiny(name)).unwrap()));
        let spm = std::iter::once(("SentencePiece", gguf(&spm_header(&SPM_TOKENS)).unwrap()));
        for (name, tokenizer) in kinds.chain(spm) {
            for unit in UNITS {
                let (short, long) = (steps_a_byte(&tokenizer, unit, 1 << 10), steps_a_byte(&tokenizer, unit, 1 << 13));
                assert!(short > 0.0 && long < 1.5 * short + 1.0, "{name} {unit:?}: {short} and {long} steps a byte");
                assert!(long < MAX_STEPS_A_BYTE, "{name} {unit:?}: {long} steps a byte");
            }
        }
    }
}
